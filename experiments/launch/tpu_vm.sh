#!/usr/bin/env bash
# One TPU VM, from nothing to a finished run:
#   tpu_vm.sh create | install | start | logs | status | stop | delete   [--dry_run]
# Names and versions: settings.sh. A VM costs money until it is deleted, whether it computes or not.

set -euo pipefail
. "$(dirname "$0")/settings.sh"
parse "$@"

case $ACTION in
  create)
    run gcloud compute tpus tpu-vm create "$TPU" --zone="$ZONE" --accelerator-type="$ACCELERATOR" \
      --version="$RUNTIME"
    ;;
  install | start | stop | logs) "$ACTION" ;;
  status) run gcloud compute tpus tpu-vm describe "$TPU" --zone="$ZONE" --format='value(state,health)' ;;
  delete) run gcloud compute tpus tpu-vm delete "$TPU" --zone="$ZONE" --quiet ;;
  *) unknown_action ;;
esac
