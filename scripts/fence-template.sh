#!/usr/bin/env bash
# The fence as a template of the chart, written from porter_ha/model/fence.py.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  echo "{{- /* Written by \`make crds\` from porter_ha/model/fence.py. */}}"
  echo "{{- if .Values.fence.create }}"
  .venv/bin/porter-ha fence --service-account '{{ .Release.Namespace }}:porter-ha-manager'
  echo "{{- end }}"
} >helm/porter-ha/templates/fence.yaml
