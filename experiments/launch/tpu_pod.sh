#!/usr/bin/env bash
# A slice of several hosts, such as v5litepod-64: the same command on every one of them.
#   WORKDIR=gs://BUCKET/RUN tpu_pod.sh create | install | start | logs | status | stop | delete   [--dry_run]
# Hosts find each other by themselves; only the first one writes what people read.

set -euo pipefail
ACCELERATOR=${ACCELERATOR:-v5litepod-64}
. "$(dirname "$0")/settings.sh"
parse "$@"
[ "$ACTION" != start ] || needs_shared_workdir
export ACCELERATOR WORKDIR
exec "$(dirname "$0")/tpu_vm.sh" "$@"
