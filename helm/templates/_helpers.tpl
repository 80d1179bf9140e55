{{/*
Names, labels and what every pod has. All templates take the root context unless said otherwise.
*/}}

{{- define "recto.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 36 | trimSuffix "-" }}
{{- end }}

{{/* 36 characters: the longest suffix (-weights-lighton-ocr-2-bbox) must fit the 63 of a label. */}}
{{- define "recto.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 36 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The labels of an object. Takes (dict "root" $ "component" "ocr"). */}}
{{- define "recto.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "recto.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* The labels that select a component's pods. Takes (dict "root" $ "component" "ocr"). */}}
{{- define "recto.selector" -}}
app.kubernetes.io/name: {{ include "recto.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* securityContext of a pod. Without pod.user (null) the cluster chooses the user. */}}
{{- define "recto.podSecurity" -}}
runAsNonRoot: true
{{- if not (kindIs "invalid" .Values.pod.user) }}
runAsUser: {{ int64 .Values.pod.user }}
runAsGroup: {{ int64 .Values.pod.user }}
fsGroup: {{ int64 .Values.pod.user }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* securityContext of a container: Kubernetes' restricted profile, and a root that is read-only. */}}
{{- define "recto.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end }}

{{/* What every pod's spec begins with. */}}
{{- define "recto.podBasics" -}}
enableServiceLinks: false
automountServiceAccountToken: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* The image of every API container. */}}
{{- define "recto.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "recto.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "recto.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* How many pods a Deployment has. With an autoscaler: those that it has now, or the fewest where it
does not exist yet. Never no number: of an object that had one before, Kubernetes would make it 1.
Takes root, name, number, auto and least. */}}
{{- define "recto.replicas" -}}
{{- $number := .number -}}
{{- if .auto -}}
{{- $number = dig "spec" "replicas" .least (lookup "apps/v1" "Deployment" .root.Release.Namespace .name) -}}
{{- end -}}
{{ int64 $number }}
{{- end }}
