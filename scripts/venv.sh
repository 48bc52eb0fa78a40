#!/usr/bin/env bash
# Makes .venv from the lock file; hashes are checked. Needs Python 3.11 or newer.
set -euo pipefail
cd "$(dirname "$0")/.."
python=
for candidate in python3 python3.13 python3.12 python3.11; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || { echo "Porter HA needs Python 3.11 or newer; none is on PATH" >&2; exit 1; }
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  . scripts/debian.sh
  debian_install python3-venv
fi
echo "setting up .venv with $("$python" --version)"
rm -rf .venv
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
touch .venv/ready
