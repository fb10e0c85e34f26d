#!/usr/bin/env bash
# A spot TPU from the queue, asked for again whenever it is taken away, until the run is done:
#   WORKDIR=gs://BUCKET/RUN tpu_spot.sh keep | status | delete   [--dry_run]
# `keep` runs on a machine that stays (tmux on a small VM, or yours). A run goes on from its newest checkpoint.

set -euo pipefail
. "$(dirname "$0")/settings.sh"
POLL_SECONDS=${POLL_SECONDS:-60}
parse "$@"
needs_shared_workdir

create() {
  run gcloud compute tpus queued-resources create "$TPU" --zone="$ZONE" --node-id="$TPU" \
    --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" --spot
}

# WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDED (taken away), FAILED, ...; nothing where there is none
state() {
  gcloud compute tpus queued-resources describe "$TPU" --zone="$ZONE" --format='value(state.state)' 2>/dev/null || true
}

done_already() {
  gcloud storage ls "$WORKDIR/results.json" >/dev/null 2>&1
}

keep() {
  if [ "$DRY_RUN" = yes ]; then
    create && install && start && queue_delete
    return
  fi
  local started=no
  until done_already; do
    case $(state) in
      '') create && started=no ;;
      # taken away in the middle of this, it is asked for again in the next round
      ACTIVE) if [ $started = no ] && install && start; then started=yes; fi ;;
      SUSPENDED | FAILED) queue_delete && started=no ;;
    esac
    sleep "$POLL_SECONDS"
  done
  queue_delete
}

case $ACTION in
  keep) keep ;;
  status) queue_status ;;
  delete) queue_delete ;;
  *) unknown_action ;;
esac
