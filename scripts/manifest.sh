#!/usr/bin/env bash
# The chart as one plain manifest, for `kubectl apply --server-side -f`. The lab takes its roles and the fence from it.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  echo "# Written by \`make manifest\` from helm/porter-ha with its default values."
  printf -- '---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: porter-ha-system\n'
  build/helm template porter-ha helm/porter-ha --namespace porter-ha-system --include-crds --no-hooks | grep -v '^# Source:'
} >"${1:-deploy/porter-ha.yaml}"
