# shellcheck shell=bash
# What every launch script shares: the names of the machines, versions and flags, all in this one place.
# Each can be set from outside: ZONE=us-central1-a TPU=my-tpu experiments/launch/tpu_vm.sh create

# Where. The project is that of `gcloud config set project`.
TPU=${TPU:-lmjax}
ZONE=${ZONE:-us-west4-a}
# A TPU v5e of 8 chips is `v5litepod-8` to gcloud, and `v5e:2x4` to `lmjax.main --dry_run`.
ACCELERATOR=${ACCELERATOR:-v5litepod-8}
# The image of the VM: v2-alpha-tpuv5-lite for v5e, v2-alpha-tpuv5 for v5p, v2-alpha-tpuv6e for v6e.
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
SLICES=${SLICES:-2}

# What. lmjax needs Python 3.11 or newer, which the images lack: uv brings one, in the home folder.
SOURCE=${SOURCE:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
PYTHON=${PYTHON:-3.12}
UV=${UV:-https://astral.sh/uv/install.sh}
BUNDLE=${BUNDLE:-${TMPDIR:-/tmp}/lmjax.bundle}
CONFIG=${CONFIG:-configs/pretrain_clm.py:preset=gpt2_small}
# Leaves of the config, as on lmjax's command line: FLAGS='--config.train.steps=1000 --config.mesh.fsdp=8'
FLAGS=${FLAGS:-}
# One VM may keep its run on its own disk; several hosts need a folder that all of them see.
WORKDIR=${WORKDIR:-runs/$TPU}
read -r -a LEAVES <<<"$FLAGS"
COMMAND=(.venv/bin/python -m lmjax.main "--config=$CONFIG" "--workdir=$WORKDIR" ${LEAVES[@]+"${LEAVES[@]}"})

usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# Words as they could be pasted: quoted where a shell would read them otherwise, in --flag=value after the `=`.
quoted() {
  local flag value separator='' apostrophe="'\\''"
  for value in "$@"; do
    flag=''
    [[ $value == --*=* ]] && flag=${value%%=*}=
    value=${value#"$flag"}
    [[ $value =~ ^[A-Za-z0-9_./:=@,+%-]+$ ]] || value="'${value//\'/$apostrophe}'"
    printf '%s' "$separator$flag$value"
    separator=' '
  done
}

# Runs a command, or with --dry_run prints it.
run() {
  if [ "$DRY_RUN" = no ]; then
    "$@"
  else
    quoted "$@"
    printf '\n'
  fi
}

# Takes --dry_run and --help out of the arguments; what is left is the action.
parse() {
  DRY_RUN=no ACTION=
  for word in "$@"; do
    case $word in
      --dry_run) DRY_RUN=yes ;;
      -h | --help) usage && exit 0 ;;
      -*) echo "$0: unknown flag $word; the flags are --dry_run and --help" >&2 && exit 2 ;;
      *)
        [ -z "$ACTION" ] || { echo "$0: one action at a time, got $ACTION and $word" >&2 && exit 2; }
        ACTION=$word
        ;;
    esac
  done
  export DRY_RUN ACTION
}

unknown_action() {
  echo "$0: unknown action '$ACTION'" >&2
  usage >&2
  exit 2
}

needs_shared_workdir() {
  case $WORKDIR in
    gs://*) ;;
    *)
      echo "$0: WORKDIR=$WORKDIR: must be a gs:// folder, which all hosts see; set WORKDIR=gs://BUCKET/RUN" >&2
      exit 2
      ;;
  esac
}

queue_status() {
  run gcloud compute tpus queued-resources describe "$TPU" --zone="$ZONE" --format='value(state.state)'
}

# Gives the machines back, and the place in the queue.
queue_delete() {
  run gcloud compute tpus queued-resources delete "$TPU" --zone="$ZONE" --force --quiet
}

# A command on every host of a TPU.
on_hosts() {
  run gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

# Takes the commit that is checked out here to every host, and installs it. Again after a new commit: brings that one.
install() {
  run git -C "$SOURCE" bundle create --quiet "$BUNDLE" HEAD &&
    run gcloud compute tpus tpu-vm scp "$BUNDLE" "$TPU:lmjax.bundle" --zone="$ZONE" --worker=all &&
    on_hosts "git init --quiet lmjax && cd lmjax && git fetch --quiet ../lmjax.bundle HEAD &&\
 git reset --quiet --hard FETCH_HEAD" &&
    on_hosts "curl -LsSf $UV | sh && cd lmjax && ~/.local/bin/uv venv --allow-existing --python $PYTHON .venv &&\
 ~/.local/bin/uv pip install --python .venv -e \".[tpu,gcs]\""
}

# Whether the run goes on.
running() {
  on_hosts 'tmux has-session -t lmjax'
}

# Starts the run in tmux, so that it outlives the connection. Run again, it continues where it stopped.
start() {
  on_hosts "cd lmjax && tmux new-session -d -s lmjax \"$(quoted "${COMMAND[@]}") >>lmjax.log 2>&1\""
}

# The run saves and ends; the next `start` continues from there.
stop() {
  on_hosts "pkill -TERM -f \"^${COMMAND[*]:0:3}\" || true"
}

logs() {
  run gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 --command='tail -n 50 -f lmjax/lmjax.log'
}

tail_log() {
  run gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 --command="tail -n $1 lmjax/lmjax.log"
}
