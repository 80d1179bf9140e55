{{/*
Servers of models. Most templates take (dict "root" $ "model" M), M being what recto.model gives.
*/}}

{{/* A map with what another one sets or, by null, removes. Takes (list map other); gives JSON. */}}
{{- define "recto.over" -}}
{{- $all := deepCopy (index . 0) }}
{{- range $key, $value := index . 1 }}
{{- if kindIs "invalid" $value }}
{{- $_ := unset $all $key }}
{{- else if and (kindIs "map" $value) (kindIs "map" (get $all $key)) }}
{{- $_ := set $all $key (include "recto.over" (list (get $all $key) $value) | fromJson) }}
{{- else }}
{{- $_ := set $all $key $value }}
{{- end }}
{{- end }}
{{- toJson $all }}
{{- end }}

{{/* A model's settings: `vllm` with what `models.STEM` says. Takes root and stem; gives JSON. */}}
{{- define "recto.model" -}}
{{- $servers := .root.Files.Get "files/servers.yaml" | fromYaml }}
{{- if not (hasKey $servers .stem) }}
{{- fail (printf "models.%s: no card of this name has a server; there are: %s" .stem (keys $servers | sortAlpha | join ", ")) }}
{{- end }}
{{- $own := get .root.Values.models .stem }}
{{- $model := include "recto.over" (list (set (deepCopy .root.Values.vllm) "enabled" true) $own) | fromJson }}
{{- $_ := set $model "stem" .stem }}
{{- $_ := set $model "server" (get $servers .stem) }}
{{- $_ := set $model "name" (printf "%s-vllm-%s" (include "recto.fullname" .root) .stem) }}
{{- $_ := set $model "keda" (include "recto.over" (list .root.Values.keda (get $own "keda" | default dict)) | fromJson) }}
{{- toJson $model }}
{{- end }}

{{/* Every enabled model as (dict "models" list): those that the chart runs, or with others (dict
"root" $ "external" true) those that somebody else runs. */}}
{{- define "recto.chosen" -}}
{{- $chosen := list }}
{{- range $stem := keys .root.Values.models | sortAlpha }}
{{- $model := include "recto.model" (dict "root" $.root "stem" $stem) | fromJson }}
{{- if and $model.enabled (eq (default false $.external) (gt (len $model.external.urls) 0)) }}
{{- include "recto.checkModel" (dict "root" $.root "model" $model) }}
{{- $chosen = append $chosen $model }}
{{- end }}
{{- end }}
{{- toJson (dict "models" $chosen) }}
{{- end }}

{{/* Stops the rendering where settings do not fit each other. */}}
{{- define "recto.checkModel" -}}
{{- $m := .model }}
{{- $at := printf "models.%s" $m.stem }}
{{- if eq (len $m.external.urls) 0 }}
{{- if and (gt (int $m.gpus) 1) (not (contains "parallel-size" (join " " $m.extraArgs))) }}
{{- fail (printf "%s.gpus: a server uses one GPU unless extraArgs say how it uses more, such as [--data-parallel-size, \"2\"]; replicas give each server one" $at) }}
{{- end }}
{{- if and $m.download.enabled (eq (include "recto.cacheKind" .) "emptyDir") }}
{{- fail (printf "%s.download: the Job needs a volume that the servers share: set cache.size or cache.existingClaim" $at) }}
{{- end }}
{{- if and $m.download.enabled (eq (include "recto.cacheKind" .) "hostPath") }}
{{- fail (printf "%s.download: the Job would fill the folder of one node. With cache.hostPath leave it off: each server fills its node's folder; or fill them and set offline: true" $at) }}
{{- end }}
{{- if and (include "recto.oneNode" .) (or (eq $m.strategy "surge") (gt (int $m.replicas) 1) $m.keda.enabled) }}
{{- fail (printf "%s.cache: a ReadWriteOnce volume is on one node at a time. Set strategy: in-place with one replica and no keda, or cache.accessModes: [ReadWriteMany]" $at) }}
{{- end }}
{{- if and $m.keda.enabled (eq $m.keda.serverAddress "") }}
{{- fail "keda.serverAddress: the address of Prometheus, such as http://prometheus.monitoring:9090" }}
{{- end }}
{{- if and $m.keda.enabled (gt (int $m.keda.minReplicas) (int $m.keda.maxReplicas)) }}
{{- fail (printf "%s.keda: minReplicas %d is more than maxReplicas %d" $at (int $m.keda.minReplicas) (int $m.keda.maxReplicas)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Addresses of every enabled model's servers: a JSON object by card id. Takes the root context.
The name of a headless Service stands for every server behind it. */}}
{{- define "recto.engineUrls" -}}
{{- $urls := dict }}
{{- range (include "recto.chosen" (dict "root" .) | fromJson).models }}
{{- $_ := set $urls .server.card (printf "dns+http://%s:8000/v1" .name) }}
{{- end }}
{{- range (include "recto.chosen" (dict "root" . "external" true) | fromJson).models }}
{{- $_ := set $urls .server.card .external.urls }}
{{- end }}
{{- toJson $urls }}
{{- end }}

{{/* Lines for NOTES.txt. Takes the root context. */}}
{{- define "recto.modelNotes" -}}
{{- $models := concat (include "recto.chosen" (dict "root" .) | fromJson).models (include "recto.chosen" (dict "root" . "external" true) | fromJson).models }}
{{- $stems := list }}
{{- range $models }}
{{- $stems = append $stems .stem }}
{{- end }}
{{- range $models }}
- {{ .server.card }}{{ if .external.urls }} (external){{ else }}: deployment/{{ .name }}{{ end }}
{{- if and .server.regions (not (has .server.regions $stems)) }}
  Reads no pictures' places: enable models.{{ .server.regions }}, too, which reads in its place
  when a client asks for pictures.
{{- end }}
{{- end }}
{{- end }}

{{/* The labels that select a model's pods. */}}
{{- define "recto.modelSelector" -}}
{{ include "recto.selector" (dict "root" .root "component" "vllm") }}
recto.dev/model: {{ .model.stem }}
{{- end }}

{{- define "recto.modelLabels" -}}
{{ include "recto.labels" (dict "root" .root "component" (.component | default "vllm")) }}
recto.dev/model: {{ .model.stem }}
{{- end }}

{{- define "recto.vllmImage" -}}
{{- with .model.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* Where the weights lie: claim, hostPath or emptyDir. */}}
{{- define "recto.cacheKind" -}}
{{- with .model.cache }}
{{- if or .existingClaim .size }}claim{{ else if .hostPath }}hostPath{{ else }}emptyDir{{ end }}
{{- end }}
{{- end }}

{{/* True where the claim is on one node at a time. */}}
{{- define "recto.oneNode" -}}
{{- if and (eq (include "recto.cacheKind" .) "claim") (not (has "ReadWriteMany" .model.cache.accessModes)) }}true{{ end }}
{{- end }}

{{/* True where the server itself fetches its weights from the hub. */}}
{{- define "recto.fetchesItself" -}}
{{- if not (or .model.download.enabled .model.offline) }}true{{ end }}
{{- end }}

{{- define "recto.cacheVolume" -}}
- name: cache
  {{- $kind := include "recto.cacheKind" . }}
  {{- with .model.cache }}
  {{- if eq $kind "claim" }}
  persistentVolumeClaim:
    claimName: {{ .existingClaim | default (printf "%s-weights-%s" (include "recto.fullname" $.root) $.model.stem) }}
  {{- else if eq $kind "hostPath" }}
  hostPath:
    path: {{ .hostPath | quote }}
    type: DirectoryOrCreate
  {{- else }}
  emptyDir:
    sizeLimit: {{ .emptyDirSize }}
  {{- end }}
  {{- end }}
{{- end }}

{{/* securityContext of a pod: the chart's, with what the model's values change. */}}
{{- define "recto.vllmPodSecurity" -}}
{{- include "recto.over" (list (include "recto.podSecurity" .root | fromYaml) .model.podSecurityContext) | fromJson | toYaml }}
{{- end }}

{{- define "recto.vllmContainerSecurity" -}}
{{- include "recto.over" (list (include "recto.containerSecurity" .root | fromYaml) .model.securityContext) | fromJson | toYaml }}
{{- end }}

{{/* Variables of every container with vLLM's image. The root is read-only and the user has no
entry in the image's passwd: each cache has a place on a volume, and the user a name. */}}
{{- define "recto.vllmVariables" -}}
HOME: /tmp
USER: recto
LOGNAME: recto
XDG_CACHE_HOME: /tmp/cache
XDG_CONFIG_HOME: /tmp/config
HF_HOME: /cache/huggingface
HF_HUB_DISABLE_TELEMETRY: "1"
DO_NOT_TRACK: "1"
VLLM_NO_USAGE_STATS: "1"
VLLM_CACHE_ROOT: /tmp/cache/vllm
VLLM_CONFIG_ROOT: /tmp/config/vllm
TRITON_CACHE_DIR: /tmp/cache/triton
TORCHINDUCTOR_CACHE_DIR: /tmp/cache/inductor
FLASHINFER_WORKSPACE_BASE: /tmp
CUDA_CACHE_PATH: /tmp/cache/cuda
NUMBA_CACHE_DIR: /tmp/cache/numba
PYTHONDONTWRITEBYTECODE: "1"
{{- end }}

{{/* env of a container. Takes more: a map that wins over the above and loses to the values. */}}
{{- define "recto.vllmEnv" -}}
{{- $all := include "recto.over" (list (include "recto.vllmVariables" . | fromYaml) .more) | fromJson }}
{{- $all = include "recto.over" (list $all .model.env) | fromJson }}
{{- range $name, $value := $all }}
- name: {{ $name }}
  value: {{ include "recto.text" $value | quote }}
{{- end }}
{{- end }}

{{- define "recto.hubToken" -}}
{{- with .model.tokenSecret }}
{{- if .existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where nodes may run a model's pods. */}}
{{- define "recto.modelNodes" -}}
{{- with .model.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .model.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The file that says that a model's weights are whole. */}}
{{- define "recto.marker" -}}
/cache/.recto-{{ printf "%s@%s" .model.server.model .model.revision | sha256sum | trunc 16 }}
{{- end }}

{{/* resources of a server: as the values say, with the GPUs, and CPU for each of them. */}}
{{- define "recto.vllmResources" -}}
{{- $m := .model }}
{{- $gpus := dict }}
{{- if gt (int $m.gpus) 0 }}
{{- $gpus = dict $m.gpuResource (int $m.gpus) }}
{{- end }}
{{- $cpu := dict "cpu" (mul (int $m.cpuPerGpu) (max 1 (int $m.gpus)) | toString) }}
{{- $base := dict "requests" (merge $cpu $gpus) "limits" $gpus }}
{{- include "recto.over" (list $base $m.resources) | fromJson | toYaml }}
{{- end }}

{{/* A place to read weights from or wait for them: settings that every container there shares. */}}
{{- define "recto.cacheMounts" -}}
- name: cache
  mountPath: /cache
- name: tmp
  mountPath: /tmp
{{- end }}
