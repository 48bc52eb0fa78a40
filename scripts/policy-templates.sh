#!/usr/bin/env bash
# The admission policies as templates of the chart, written from porter_ha/model/fence.py and advice.py.
set -euo pipefail
cd "$(dirname "$0")/.."
template() {
  echo "{{- /* Written by \`make crds\` from porter_ha/model/$1.py. */}}"
  echo "{{- if .Values.$1.create }}"
  cat
  echo "{{- end }}"
}
.venv/bin/porter-ha fence --service-account '{{ .Release.Namespace }}:porter-ha-manager' |
  template fence >helm/porter-ha/templates/fence.yaml
.venv/bin/porter-ha advice | template advice >helm/porter-ha/templates/advice.yaml
