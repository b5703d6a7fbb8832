#!/bin/sh
# Healthy: the Ray that this container started still answers; where it started none, rewardsweep itself starts.
set -eu
address=${RAY_ADDRESS:-}
if [ -z "$address" ] && [ -r "${RAY_TMPDIR:-/tmp}/ray/ray_current_cluster" ]; then
  address=$(cat "${RAY_TMPDIR:-/tmp}/ray/ray_current_cluster")
fi
if [ -n "$address" ]; then
  exec ray health-check --address "$address"
fi
exec rewardsweep --version
