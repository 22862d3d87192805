{{/* Names and labels shared by all templates. */}}
{{- define "ds.name" -}}
{{- if contains "desktopstream" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-desktopstream" (.Release.Name | trunc 26 | trimSuffix "-") }}{{ end -}}
{{- end }}
{{- define "ds.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{/* The sidecar's image, pinned to the chart's appVersion unless the value has a tag or a digest. */}}
{{- define "ds.sidecarImage" -}}
{{ .Values.sidecar.image }}{{ if not (regexMatch "(@|:[^/]+$)" .Values.sidecar.image) }}:{{ .Chart.AppVersion }}{{ end }}
{{- end }}
{{- define "ds.labels" -}}
app.kubernetes.io/name: desktopstream
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: desktopstream
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{/* Labels that select a component's pods; call with (list . "component"). */}}
{{- define "ds.selector" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
{{/* Security context that the Pod Security Standard `restricted` requires, with a read-only root file system. */}}
{{- define "ds.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{/* Binding of a ClusterRole in the watched namespace, or in all namespaces. Call with (list . "role" "account"). */}}
{{- define "ds.binding" -}}
{{- $ := index . 0 -}}
apiVersion: rbac.authorization.k8s.io/v1
{{- if $.Values.operator.watchNamespace }}
kind: RoleBinding
metadata:
  name: {{ index . 1 }}
  namespace: {{ $.Values.operator.watchNamespace }}
{{- else }}
kind: ClusterRoleBinding
metadata:
  name: {{ index . 1 }}
{{- end }}
  labels: {{- include "ds.labels" $ | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ index . 1 }}}
subjects:
  - {kind: ServiceAccount, name: {{ index . 2 }}, namespace: {{ $.Release.Namespace }}}
{{- end }}
