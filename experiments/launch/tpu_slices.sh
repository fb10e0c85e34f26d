#!/usr/bin/env bash
# Several slices joined over the data-centre network: data parallel between them, the config's mesh within each.
#   WORKDIR=gs://BUCKET/RUN SLICES=2 tpu_slices.sh create | install | start | logs | status | stop | delete   [--dry_run]
# The slices are TPUs named TPU-0, TPU-1, ...; try `--dry_run=2*v5e:4x4` of lmjax.main first.

set -euo pipefail
ACCELERATOR=${ACCELERATOR:-v5litepod-16}
. "$(dirname "$0")/settings.sh"
parse "$@"
[ "$ACTION" != start ] || needs_shared_workdir

case $ACTION in
  create)
    run gcloud compute tpus queued-resources create "$TPU" --zone="$ZONE" --node-prefix="$TPU" --node-count="$SLICES" \
      --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME"
    ;;
  install | start | logs | stop)
    group=$TPU
    for slice in $(seq 0 $((SLICES - 1))); do
      TPU=$group-$slice
      "$ACTION"
      [ "$ACTION" != logs ] || break # the first slice has them
    done
    ;;
  status) queue_status ;;
  delete) queue_delete ;;
  *) unknown_action ;;
esac
