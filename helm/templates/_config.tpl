{{/*
The settings, the cards and the routes, as the ConfigMaps hold them. All take the root context.
*/}}

{{/* A number or word as text: Helm holds numbers as floats, and would write 1e+09. */}}
{{- define "recto.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* The address that clients use: as set, else the ingress's. */}}
{{- define "recto.publicUrl" -}}
{{- if .Values.settings.public_url }}
{{- .Values.settings.public_url }}
{{- else if .Values.ingress.enabled }}
{{- printf "%s://%s" (ternary "https" "http" (ne .Values.ingress.tlsSecret "")) .Values.ingress.host }}
{{- end }}
{{- end }}

{{/* RECTO_* variables, none of them secret. */}}
{{- define "recto.settings" -}}
{{- range $key, $value := omit .Values.settings "public_url" }}
{{- if not (kindIs "invalid" $value) }}
RECTO_{{ upper $key }}: {{ include "recto.text" $value | quote }}
{{- end }}
{{- end }}
RECTO_PUBLIC_URL: {{ include "recto.publicUrl" . | quote }}
RECTO_DATA_DIR: /data
RECTO_MODELS_DIR: /etc/recto/models
RECTO_ROUTES: /etc/recto/routes/routes.yaml
RECTO_REQUIRE_KEYS: "true"
{{- if eq .Values.mode "distributed" }}
RECTO_BLOB_URL: {{ .Values.blobs.url | quote }}
{{- end }}
RECTO_ENGINE_URLS: {{ include "recto.engineUrls" . | quote }}
{{- end }}

{{- define "recto.models" -}}
{{- range $path, $_ := .Files.Glob "files/models/*.yaml" }}
{{ base $path }}: |
  {{- $.Files.Get $path | trim | nindent 2 }}
{{- end }}
{{- end }}

{{/* The servers of a card that the chart runs, unless the routes say others. Takes urls and one. */}}
{{- define "recto.served" -}}
{{- $one := deepCopy .one }}
{{- if and (not $one.urls) (hasKey .urls $one.card) }}
{{- $found := get .urls $one.card }}
{{- $_ := set $one "urls" (kindIs "string" $found | ternary (list $found) $found) }}
{{- end }}
{{- toJson $one }}
{{- end }}

{{- define "recto.routes" -}}
{{- $urls := include "recto.engineUrls" . | fromJson }}
{{- $routes := dict }}
{{- range $name, $route := include "recto.ownRoutes" . | fromJson }}
{{- $made := deepCopy $route }}
{{- range $kind := list "targets" "shadow" }}
{{- if hasKey $route $kind }}
{{- $all := list }}
{{- range get $route $kind }}
{{- $all = append $all (include "recto.served" (dict "urls" $urls "one" .) | fromJson) }}
{{- end }}
{{- $_ := set $made $kind $all }}
{{- end }}
{{- end }}
{{- $_ := set $routes $name $made }}
{{- end }}
{{- $aliases := include "recto.over" (list dict .Values.routes.aliases) | fromJson }}
{{- $table := dict "default" .Values.routes.default "aliases" $aliases "routes" $routes }}
{{- with .Values.routes.annotator }}
{{- $_ := set $table "annotator" . }}
{{- end }}
{{- toYaml $table }}
{{- end }}
