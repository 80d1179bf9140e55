{{/*
What a schema cannot say, or not in a sentence. Each fails the install with what to do.
*/}}

{{- define "recto.validate" -}}
{{- if eq .Values.mode "distributed" }}
{{- include "recto.validateSecrets" . }}
{{- include "recto.validateMemory" (dict "root" . "component" "ocr") }}
{{- else }}
{{- include "recto.validateEmbedded" . }}
{{- include "recto.validateMemory" (dict "root" . "component" "embedded") }}
{{- end }}
{{- include "recto.validateRoutes" . }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "ingress.host is missing: name the host that clients ask, ocr.example.org say." }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs is missing: name the Gateway, [{name: public, namespace: gateways}] say." }}
{{- end }}
{{- end }}

{{- define "recto.validateSecrets" -}}
{{- $made := "of a Secret that exists in the namespace (README.md, \"Secrets\", has the commands)" }}
{{- if not .Values.database.existingSecret }}
{{- fail (printf "database.existingSecret is missing: mode distributed needs the name %s; its key %s holds the PostgreSQL URL." $made .Values.database.key) }}
{{- end }}
{{- if not .Values.secret.existingSecret }}
{{- fail (printf "secret.existingSecret is missing: mode distributed needs the name %s; its key %s holds the master secret." $made .Values.secret.key) }}
{{- end }}
{{- if not .Values.blobs.url }}
{{- fail "blobs.url is missing: mode distributed needs an S3 bucket, s3://bucket/prefix?endpoint=https://s3.example.org say." }}
{{- end }}
{{- if not (or .Values.blobs.existingSecret .Values.blobs.podRole) }}
{{- fail (printf "blobs.existingSecret is missing: mode distributed needs the name %s; its keys %s and %s hold the S3 credentials. Where the pods' ServiceAccount has a role, set blobs.podRole." $made .Values.blobs.accessKey .Values.blobs.secretKey) }}
{{- end }}
{{- if and (not .Values.engineKey.existingSecret) (include "recto.chosen" (dict "root" .) | fromJson).models }}
{{- fail (printf "engineKey.existingSecret is missing: the vLLM servers need the name %s; its key %s holds the key that the OCR API sends them." $made .Values.engineKey.key) }}
{{- end }}
{{- end }}

{{- define "recto.validateEmbedded" -}}
{{- range list "files" "ocr" }}
{{- if ne (int (index $.Values .).replicas) 2 }}
{{- fail (printf "%s.replicas is of mode distributed: mode embedded runs one pod, whatever it says. Set mode: distributed." .) }}
{{- end }}
{{- end }}
{{- if (include "recto.chosen" (dict "root" .) | fromJson).models }}
{{- fail "models that the chart runs are of mode distributed: mode embedded reads with the CPU engine. Set mode: distributed, or models.STEM.external.urls to servers that run elsewhere." }}
{{- end }}
{{- end }}

{{/* Mebibytes of a quantity such as 512Mi, 12Gi or 1.5Gi; others are refused by the schema. */}}
{{- define "recto.mebibytes" -}}
{{- $number := float64 (regexFind "^[0-9.]+" .) -}}
{{- if hasSuffix "Gi" . }}{{ mulf $number 1024 | int64 }}{{ else }}{{ int64 $number }}{{ end }}
{{- end }}

{{/* A container whose limit is too small would be killed by one hostile page, with all requests. */}}
{{- define "recto.validateMemory" -}}
{{- $settings := .root.Values.settings -}}
{{- $draw := int64 $settings.render_processes -}}
{{- $read := int64 $settings.engine_processes -}}
{{- $least := add 1024 (mul $draw (int64 $settings.render_memory_mib)) (mul $read 1536) -}}
{{- $limit := include "recto.mebibytes" (index .root.Values .component).resources.limits.memory | int64 -}}
{{- if lt $limit $least }}
{{- fail (printf "%s.resources.limits.memory is %d MiB, and needs %d: 1024 for the API, %d for each of %d drawing processes (settings.render_processes, settings.render_memory_mib), 1536 for each of %d processes of the CPU engine (settings.engine_processes)." .component $limit $least (int64 $settings.render_memory_mib) $draw $read) }}
{{- end }}
{{- end }}
