{{- define "porter-ha.labels" -}}
app.kubernetes.io/name: porter-ha
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "porter-ha.selector" -}}
app.kubernetes.io/name: porter-ha
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "porter-ha.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "porter-ha.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* What a container may do: these capabilities, as root of nothing but its own processes. */}}
{{- define "porter-ha.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- with . }}
  add: {{- . | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
