{{- define "everhook.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "everhook.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Of one component; a dict of `root` and `component`. */}}
{{- define "everhook.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "everhook.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}{{ .Values.serviceAccount.name | default (include "everhook.fullname" .) }}{{- else -}}{{ .Values.serviceAccount.name | default "default" }}{{- end -}}
{{- end -}}

{{- define "everhook.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Environment of all containers. Secrets are references. */}}
{{- define "everhook.env" -}}
- name: EVERHOOK_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.secrets.databaseUrl.name }}, key: {{ .Values.secrets.databaseUrl.key }}}}
- name: EVERHOOK_MASTER_KEYS
  valueFrom: {secretKeyRef: {name: {{ .Values.secrets.masterKeys.name }}, key: {{ .Values.secrets.masterKeys.key }}}}
- name: EVERHOOK_ISSUER
  value: {{ required "issuer is required" .Values.issuer | quote }}
- name: TEMPORAL_ADDRESS
  value: {{ .Values.temporal.address | quote }}
- name: TEMPORAL_NAMESPACE
  value: {{ .Values.temporal.namespace | quote }}
{{- if .Values.temporal.tls }}
- name: TEMPORAL_TLS
  value: "true"
{{- end }}
{{- if .Values.temporal.apiKey.name }}
- name: TEMPORAL_API_KEY
  valueFrom: {secretKeyRef: {name: {{ .Values.temporal.apiKey.name }}, key: {{ .Values.temporal.apiKey.key }}}}
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "everhook.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "everhook.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* A Deployment; a dict of `root`, `component`, `values`, `args` and `serves`. */}}
{{- define "everhook.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "everhook.fullname" .root }}-{{ .component }}
  labels:
    {{- include "everhook.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  {{- if not .values.autoscaling.enabled }}
  replicas: {{ .values.replicas }}
  {{- end }}
  # A new process serves before an old one drains.
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector:
    matchLabels:
      {{- include "everhook.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "everhook.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
      {{- with .values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "everhook.serviceAccountName" .root }}
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: {{ .root.Values.terminationGracePeriodSeconds }}
      securityContext:
        {{- include "everhook.podSecurity" .root | nindent 8 }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "everhook.selector" . | nindent 14 }}
      containers:
        - name: everhook
          image: {{ include "everhook.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: {{ toJson .args }}
          securityContext:
            {{- include "everhook.containerSecurity" .root | nindent 12 }}
          env:
            {{- include "everhook.env" .root | nindent 12 }}
            {{- if and .serves .root.Values.secrets.apiKey.name }}
            - name: EVERHOOK_API_KEY
              valueFrom: {secretKeyRef: {name: {{ .root.Values.secrets.apiKey.name }}, key: {{ .root.Values.secrets.apiKey.key }}}}
            {{- end }}
            {{- if and .serves .root.Values.publicUrl }}
            - name: EVERHOOK_PUBLIC_URL
              value: {{ .root.Values.publicUrl | quote }}
            {{- end }}
            - name: EVERHOOK_METRICS_HOST
              value: 0.0.0.0
            - name: EVERHOOK_METRICS_PORT
              value: "9464"
          ports:
            {{- if .serves }}
            - {name: http, containerPort: 8080}
            {{- end }}
            - {name: metrics, containerPort: 9464}
          {{- if .serves }}
          # Alive says nothing of the database: a restart would not repair it.
          livenessProbe:
            httpGet: {path: /livez, port: http}
            periodSeconds: 10
            timeoutSeconds: 5
          readinessProbe:
            httpGet: {path: /readyz, port: http}
            periodSeconds: 5
            timeoutSeconds: 5
          startupProbe:
            httpGet: {path: /livez, port: http}
            periodSeconds: 2
            failureThreshold: 60
          {{- else }}
          livenessProbe:
            tcpSocket: {port: metrics}
            periodSeconds: 10
            failureThreshold: 6
          {{- end }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
      volumes:
        - {name: tmp, emptyDir: {}}
      {{- with .values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}

{{/* A HorizontalPodAutoscaler and a PodDisruptionBudget of one component. */}}
{{- define "everhook.scaling" -}}
{{- if .values.autoscaling.enabled }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "everhook.fullname" .root }}-{{ .component }}
  labels:
    {{- include "everhook.labels" .root | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "everhook.fullname" .root }}-{{ .component }}}
  minReplicas: {{ .values.autoscaling.minReplicas }}
  maxReplicas: {{ .values.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .values.autoscaling.targetCPUUtilizationPercentage }}}
  # A drain takes up to 90 s, so it scales down slowly.
  behavior:
    scaleDown: {stabilizationWindowSeconds: 300, policies: [{type: Pods, value: 1, periodSeconds: 120}]}
---
{{- end }}
{{- if .root.Values.podDisruptionBudget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "everhook.fullname" .root }}-{{ .component }}
  labels:
    {{- include "everhook.labels" .root | nindent 4 }}
spec:
  maxUnavailable: {{ .root.Values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "everhook.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* A Job that runs before an installation or an upgrade; a dict of `root`, `name`, `weight` and `args`. */}}
{{- define "everhook.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "everhook.fullname" .root }}-{{ .name }}
  labels:
    {{- include "everhook.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-weight: {{ .weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: {{ .root.Values.jobs.backoffLimit }}
  template:
    metadata:
      labels:
        {{- include "everhook.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .name }}
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      securityContext:
        {{- include "everhook.podSecurity" .root | nindent 8 }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: everhook
          image: {{ include "everhook.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: {{ toJson .args }}
          securityContext:
            {{- include "everhook.containerSecurity" .root | nindent 12 }}
          env:
            {{- include "everhook.env" .root | nindent 12 }}
          resources:
            {{- toYaml .root.Values.jobs.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
      volumes:
        - {name: tmp, emptyDir: {}}
{{- end -}}
