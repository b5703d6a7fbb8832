#!/bin/sh
# The alerts as a resource of the Prometheus operator: deploy/dashboards/prometheus-rule.sh | kubectl apply -f -
set -eu
cat <<'HEAD'
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rewardsweep
  namespace: rewardsweep
  labels:
    release: prometheus
spec:
HEAD
sed 's/^/  /' "$(dirname "$0")/rules.yaml"
