#!/usr/bin/env bash
# A spot TPU from the queue, asked for again whenever it is taken away, until the run is done:
#   WORKDIR=gs://BUCKET/RUN tpu_spot.sh keep | status | delete   [--dry_run]
# `keep` runs on a machine that stays (tmux on a small VM, or yours). A run continues from its newest checkpoint; one that
# ends MAX_STARTS times on one VM, without being done, is given up.

set -euo pipefail
. "$(dirname "$0")/settings.sh"
POLL_SECONDS=${POLL_SECONDS:-60}
MAX_STARTS=${MAX_STARTS:-3}
parse "$@"
[ "$ACTION" != keep ] || needs_shared_workdir

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
  if done_already; then
    echo "$0: $WORKDIR/results.json is there: this run is done; to go on with more steps, remove that file first" >&2
    [ -z "$(state)" ] || queue_delete
    return
  fi
  local starts=0
  until done_already; do
    case $(state) in
      '') create && starts=0 ;;
      ACTIVE)
        # taken away in the middle of this, it is asked for again in the next round
        if ! running 2>/dev/null; then
          if [ "$starts" = "$MAX_STARTS" ]; then
            echo "$0: the run ended $starts times on one VM without results.json; its last lines:" >&2
            tail_log 20 >&2 || true
            queue_delete
            exit 1
          fi
          if install && start; then starts=$((starts + 1)); fi
        fi
        ;;
      SUSPENDED | FAILED) queue_delete ;;
    esac
    sleep "$POLL_SECONDS"
  done
  [ -z "$(state)" ] || queue_delete
}

case $ACTION in
  keep) keep ;;
  status) queue_status ;;
  delete) queue_delete ;;
  *) unknown_action ;;
esac
