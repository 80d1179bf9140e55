{{/*
What the pods of the API have in common. Most templates take (dict "root" $ "component" "ocr");
the component is embedded, files or ocr, and is the key of its values.
*/}}

{{/* Annotations of a pod: what needs new pods when it changes. Routes do not, they are reloaded. */}}
{{- define "recto.apiAnnotations" -}}
checksum/settings: {{ include "recto.settings" .root | sha256sum }}
checksum/models: {{ include "recto.models" .root | sha256sum }}
{{- with .root.Values.pod.annotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The time that a pod has to end: preStop, the drain, and 10 s to close what is open. */}}
{{- define "recto.grace" -}}
{{- add 15 (int64 .Values.settings.drain_seconds) }}
{{- end }}

{{/* spec of a pod, but its containers. */}}
{{- define "recto.apiPod" -}}
{{ include "recto.podBasics" .root }}
serviceAccountName: {{ include "recto.serviceAccount" .root }}
terminationGracePeriodSeconds: {{ include "recto.grace" .root }}
securityContext:
  {{- include "recto.podSecurity" .root | nindent 2 }}
{{- with .root.Values.pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if ne .component "embedded" }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "recto.selector" . | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{/* The volumes of a pod; /data is a claim in the embedded mode. Else it holds no more than the
documents that come in requests or are fetched, while they are read: as much room as /tmp, which has
those that come from the store. */}}
{{- define "recto.apiVolumes" -}}
{{- $name := include "recto.fullname" .root -}}
{{- if ne .component "embedded" }}
- name: data
  emptyDir:
    sizeLimit: {{ (index .root.Values .component).tmpSize }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: {{ (index .root.Values .component).tmpSize }}
- name: models
  configMap:
    name: {{ $name }}-models
- name: routes
  configMap:
    name: {{ $name }}-routes
{{- with .root.Values.pod.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Mounts. Whole folders, no subPath: Kubernetes does not renew the files of a subPath. */}}
{{- define "recto.apiMounts" -}}
- name: data
  mountPath: /data
- name: tmp
  mountPath: /tmp
- name: models
  mountPath: /etc/recto/models
  readOnly: true
- name: routes
  mountPath: /etc/recto/routes
  readOnly: true
{{- with .Values.pod.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The database's URL, from its Secret. Takes the root context. */}}
{{- define "recto.databaseEnv" -}}
- name: RECTO_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret }}
      key: {{ .Values.database.key }}
{{- end }}

{{/* What a container takes from Secrets. Takes the root context. */}}
{{- define "recto.secretEnv" -}}
{{- if eq .Values.mode "distributed" }}
{{ include "recto.databaseEnv" . }}
- name: RECTO_SECRET_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.secret.existingSecret }}
      key: {{ .Values.secret.key }}
{{- with .Values.secret.previousKey }}
- name: RECTO_PREVIOUS_SECRET_KEY
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.secret.existingSecret }}
      key: {{ . }}
{{- end }}
{{- if .Values.blobs.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ .Values.blobs.existingSecret }}
      key: {{ .Values.blobs.accessKey }}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.blobs.existingSecret }}
      key: {{ .Values.blobs.secretKey }}
{{- end }}
{{- end }}
{{- if .Values.engineKey.existingSecret }}
- name: RECTO_ENGINE_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.engineKey.existingSecret }}
      key: {{ .Values.engineKey.key }}
{{- end }}
{{- with .Values.pod.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The container that serves. Takes root, component, and args beyond host and port. */}}
{{- define "recto.apiContainer" -}}
{{- $env := include "recto.secretEnv" .root | trim -}}
- name: recto
  image: {{ include "recto.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: ["recto"]
  args: {{ concat (list "serve" "--host" "0.0.0.0" "--port" "8000") (.args | default list) | toJson }}
  securityContext:
    {{- include "recto.containerSecurity" .root | nindent 4 }}
  ports:
    - name: http
      containerPort: 8000
  envFrom:
    - configMapRef:
        name: {{ include "recto.fullname" .root }}-settings
  {{- with $env }}
  env:
    {{- . | nindent 4 }}
  {{- end }}
  volumeMounts:
    {{- include "recto.apiMounts" .root | nindent 4 }}
  resources:
    {{- toYaml (index .root.Values .component).resources | nindent 4 }}
  startupProbe:
    httpGet:
      path: /livez
      port: http
    periodSeconds: 2
    timeoutSeconds: 5
    # Two minutes for a database that was restored or a slow disk.
    failureThreshold: 60
  livenessProbe:
    httpGet:
      path: /livez
      port: http
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  readinessProbe:
    httpGet:
      path: /readyz
      port: http
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 2
  lifecycle:
    preStop:
      exec:
        # Requests come for some seconds more, until every proxy knows that the pod ends.
        command: ["sleep", "5"]
{{- end }}

{{/* A Deployment, its Service, and what belongs to them. Takes root and component. */}}
{{- define "recto.apiDeployment" -}}
{{- $values := index .root.Values .component -}}
{{- $name := printf "%s-%s" (include "recto.fullname" .root) .component -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "recto.labels" . | nindent 4 }}
spec:
  replicas: {{ include "recto.replicas" (dict "root" .root "name" $name "number" $values.replicas "auto" $values.autoscaling.enabled "least" $values.autoscaling.minReplicas) }}
  revisionHistoryLimit: 5
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  selector:
    matchLabels:
      {{- include "recto.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "recto.labels" . | nindent 8 }}
        {{- with .root.Values.pod.labels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        {{- include "recto.apiAnnotations" . | nindent 8 }}
    spec:
      {{- include "recto.apiPod" . | nindent 6 }}
      containers:
        {{- include "recto.apiContainer" (dict "root" .root "component" .component "args" (list "--role" .component)) | nindent 8 }}
      volumes:
        {{- include "recto.apiVolumes" . | trim | nindent 8 }}
{{- end }}

{{/* The Service of an API. Takes root, component and name. */}}
{{- define "recto.apiService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "recto.labels" . | nindent 4 }}
spec:
  type: ClusterIP
  selector:
    {{- include "recto.selector" . | nindent 4 }}
  ports:
    - name: http
      port: 8000
      targetPort: http
      protocol: TCP
{{- end }}

{{/* A budget where more than one pod runs: else it would stop every drain of a node for good. */}}
{{- define "recto.apiBudget" -}}
{{- $values := index .root.Values .component -}}
{{- $least := $values.autoscaling.enabled | ternary $values.autoscaling.minReplicas $values.replicas | int -}}
{{- if gt $least 1 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "recto.fullname" .root }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "recto.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "recto.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* An autoscaler: up at once, down by one pod in two minutes, since each must drain. */}}
{{- define "recto.apiScaler" -}}
{{- $scaling := (index .root.Values .component).autoscaling -}}
{{- $name := printf "%s-%s" (include "recto.fullname" .root) .component -}}
{{- if $scaling.enabled -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "recto.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ $name }}
  minReplicas: {{ int64 $scaling.minReplicas }}
  maxReplicas: {{ int64 $scaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ int64 $scaling.cpuPercent }}
  behavior:
    scaleUp:
      stabilizationWindowSeconds: 0
      policies:
        - type: Percent
          value: 100
          periodSeconds: 30
    scaleDown:
      stabilizationWindowSeconds: 600
      policies:
        - type: Pods
          value: 1
          periodSeconds: 120
{{- end }}
{{- end }}
