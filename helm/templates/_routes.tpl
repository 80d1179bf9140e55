{{/*
Names in the routes. `recto serve` refuses routes that name what nothing runs, and a pod that starts
with them does not start. The rules are those of model_registry/audit.py; here they fail the install.
*/}}

{{/* What the cards say: JSON. ids: by id the card's stem, embedded, annotates, and served (somebody
runs it); names: ids by id and alias; hints: ids by what else one may take for a name, in small
letters. */}}
{{- define "recto.cards" -}}
{{- $urls := include "recto.engineUrls" . | fromJson }}
{{- $ids := dict }}
{{- $names := dict }}
{{- $hints := dict }}
{{- range $path, $_ := .Files.Glob "files/models/*.yaml" }}
{{- $card := $.Files.Get $path | fromYaml }}
{{- $stem := base $path | trimSuffix ".yaml" }}
{{- $embedded := default false $card.embedded }}
{{- $served := or $embedded (hasKey $urls $card.id) }}
{{- $_ := set $ids $card.id (dict "stem" $stem "embedded" $embedded "served" $served "annotates" (hasKey $card "annotation")) }}
{{- range prepend (default list $card.aliases) $card.id }}
{{- $_ := set $names . $card.id }}
{{- $_ := set $hints (lower .) $card.id }}
{{- end }}
{{- range list $stem (base $card.id) }}
{{- $_ := set $hints (lower .) $card.id }}
{{- end }}
{{- end }}
{{- toJson (dict "ids" $ids "names" $names "hints" $hints) }}
{{- end }}

{{/* The routes that are not taken away by null: JSON. */}}
{{- define "recto.ownRoutes" -}}
{{- $routes := dict }}
{{- range $name, $route := .Values.routes.routes }}
{{- if $route }}
{{- $_ := set $routes $name $route }}
{{- end }}
{{- end }}
{{- toJson $routes }}
{{- end }}

{{- define "recto.validateRoutes" -}}
{{- $own := list "RECTO_MODELS_DIR" "RECTO_ROUTES" "RECTO_ENGINE_URLS" }}
{{- $replaced := false }}
{{- range .Values.pod.extraEnv }}
{{- if has .name $own }}
{{- $replaced = true }}
{{- end }}
{{- end }}
{{- /* With cards or routes of one's own the chart does not know what they say. */}}
{{- if not $replaced }}
{{- $problems := include "recto.routeProblems" . | splitList "\n" | compact }}
{{- if $problems }}
{{- fail (join "\n" $problems) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A line for each problem. */}}
{{- define "recto.routeProblems" -}}
{{- $cards := include "recto.cards" . | fromJson }}
{{- $routes := include "recto.ownRoutes" . | fromJson }}
{{- $of := dict "cards" $cards "routes" $routes "default" .Values.routes.default }}
{{- range $name, $route := $routes }}
{{- include "recto.routeProblem" (merge (dict "name" $name "route" $route) $of) }}
{{- end }}
{{- with include "recto.nameProblem" (merge (dict "name" .Values.routes.default) $of) }}
routes.default: {{ . }}
{{- end }}
{{- with .Values.routes.annotator }}
{{- include "recto.annotatorProblem" (merge (dict "name" .) $of) }}
{{- end }}
{{- range $alias, $meant := .Values.routes.aliases }}
{{- if $meant }}
{{- include "recto.aliasProblem" (merge (dict "alias" $alias "meant" $meant) $of) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "recto.routeProblem" -}}
{{- $at := printf "routes.routes.%s" .name }}
{{- $id := get .cards.names .name }}
{{- if eq .name "default" }}
{{ $at }}: the name default is reserved
{{- else if and $id (ne $id .name) }}
{{ $at }}: the card {{ $id }} has this alias: give the route another name
{{- else if and $id (get .cards.ids $id).served (not (get .cards.ids $id).embedded) }}
{{ $at }}: models.{{ (get .cards.ids $id).stem }} answers by this name: give the route another name
{{- end }}
{{- $weighed := 0 }}
{{- range .route.targets }}
{{- if gt (int (ternary .weight 100 (hasKey . "weight"))) 0 }}
{{- $weighed = add1 $weighed }}
{{- end }}
{{- with include "recto.targetProblem" (dict "cards" $.cards "one" . "kind" "target") }}
{{ $at }}: {{ . }}
{{- end }}
{{- end }}
{{- range .route.shadow }}
{{- with include "recto.targetProblem" (dict "cards" $.cards "one" . "kind" "shadow") }}
{{ $at }}: {{ . }}
{{- end }}
{{- end }}
{{- if eq (int $weighed) 0 }}
{{ $at }}: the weights are all 0, so nothing would be chosen
{{- else if and .route.fallback (eq (int $weighed) 1) }}
{{ $at }}: fallback needs another target that has a weight
{{- end }}
{{- end }}

{{/* What is wrong with a target or shadow, which name cards by their ids alone. */}}
{{- define "recto.targetProblem" -}}
{{- $card := get .cards.ids .one.card }}
{{- $hint := get .cards.hints (lower .one.card) }}
{{- if and (not $card) $hint -}}
{{ .one.card }} is no id of a card: did you mean {{ $hint }}?
{{- else if not $card -}}
there is no card {{ .one.card }}; there are: {{ keys .cards.ids | sortAlpha | join ", " }}
{{- else if and $card.embedded .one.urls -}}
{{ .one.card }} runs inside Recto and takes no urls
{{- else if not (or $card.served .one.urls) -}}
nothing here runs the card {{ .one.card }}: enable models.{{ $card.stem }}, or give the {{ .kind }} urls
{{- end }}
{{- end }}

{{/* What is wrong with a name that stands for a model: of a route, or of a card that is served. */}}
{{- define "recto.nameProblem" -}}
{{- $id := get .cards.names .name }}
{{- $hint := get .cards.hints (lower .name) }}
{{- if hasKey .routes .name }}
{{- else if $id }}
{{- $card := get .cards.ids $id }}
{{- if not $card.served -}}
nothing here runs the card {{ $id }}: enable models.{{ $card.stem }}
{{- end }}
{{- else if $hint -}}
there is no model or route {{ .name }}: did you mean {{ $hint }}?
{{- else -}}
there is no model or route {{ .name }}; a route, or the id or an alias of a card, can be named
{{- end }}
{{- end }}

{{- define "recto.annotatorProblem" -}}
{{- $ids := list (get .cards.names .name) }}
{{- with get .routes .name }}
{{- $ids = list }}
{{- range .targets }}
{{- $ids = append $ids .card }}
{{- end }}
{{- end }}
{{- with include "recto.nameProblem" . }}
routes.annotator: {{ . }}
{{- end }}
{{- range $ids | uniq }}
{{- $card := get $.cards.ids . }}
{{- if and $card (not $card.annotates) }}
routes.annotator: {{ . }} cannot annotate
{{- end }}
{{- end }}
{{- end }}

{{- define "recto.aliasProblem" -}}
{{- $at := printf "routes.aliases.%s" .alias }}
{{- $meant := ternary .default .meant (eq .meant "default") }}
{{- $means := get .cards.names $meant | default $meant }}
{{- $taken := ternary .alias (get .cards.names .alias) (hasKey .routes .alias) }}
{{- if eq .alias "default" }}
{{ $at }}: the name default is reserved
{{- else if and $taken (ne $taken $means) }}
{{ $at }}: this is a name of {{ $taken }} already
{{- end }}
{{- if ne .meant "default" }}
{{- with include "recto.nameProblem" (merge (dict "name" .meant) .) }}
{{ $at }}: {{ . }}
{{- end }}
{{- end }}
{{- end }}
