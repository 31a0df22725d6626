{{- define "evpnd.labels" -}}
app.kubernetes.io/name: evpnd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "evpnd.selector" -}}
app.kubernetes.io/name: evpnd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "evpnd.name" -}}
{{- ternary .Release.Name (printf "%s-evpnd" .Release.Name) (contains "evpnd" .Release.Name) | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* Where /metrics is listened on, as evpnd.yaml has it. */}}
{{- define "evpnd.metrics" -}}
{{- $a := .Values.metrics.address -}}
{{ ternary (printf "[%s]" $a) $a (contains ":" $a) }}:{{ .Values.metrics.port }}
{{- end }}

{{/* Where the kubelet finds the probes. */}}
{{- define "evpnd.probe" -}}
{{- $any := dict "0.0.0.0" "127.0.0.1" "::" "::1" -}}
{{- get $any .Values.metrics.address | default .Values.metrics.address -}}
{{- end }}

{{/* "true" when a configuration accepts sessions, so that port 179 is needed. */}}
{{- define "evpnd.listens" -}}
{{- $listen := get . "listen" -}}
{{- if kindIs "map" $listen -}}
{{- $listen = dig "enabled" true $listen -}}
{{- end -}}
{{- $listens := or $listen (get . "dynamic-peers") -}}
{{- range default list (get . "peers") -}}
{{- $listens = or $listens .passive -}}
{{- end -}}
{{- if $listens }}true{{ end -}}
{{- end }}

{{/* evpnd.yaml: list of the root context and what a node has of its own. */}}
{{- define "evpnd.config" -}}
{{- $root := index . 0 -}}
{{- $config := mustMergeOverwrite (deepCopy $root.Values.config) (deepCopy (index . 1)) -}}
{{- if $config.vtep }}{{ $_ := unset $config "vtep-interface" }}{{ end -}}
{{- $_ := set $config "api" (dict "socket" "/run/evpnd/evpnd.sock" "metrics" (include "evpnd.metrics" $root)) -}}
{{- toYaml $config -}}
{{- end }}
