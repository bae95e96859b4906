#!/usr/bin/env bash
# One run on a Cloud TPU slice, asked for as a queued resource: create, install on all workers, train,
# and all of it again after a preemption, until the run has all its steps. A slice that is refused ends it.
#   NFS=10.0.0.2:/share launch/tpu_queued_resources.sh --config=configs/vitl16_im1k.py \
#       --config.data.path=/mnt/dinov3/shards
# DRY_RUN=1 prints the commands. Delete what is left: gcloud compute tpus queued-resources delete NAME
set -euo pipefail

NAME=${NAME:-dinov3}                          # of the queued resource and its node
ZONE=${ZONE:-us-east5-a}
ACCELERATOR=${ACCELERATOR:-v5p-64}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5}            # software version of the TPU VMs
TIER=${TIER:---spot}                          # or --guaranteed, --reserved
NFS=${NFS:?HOST:/PATH of a file share that all workers can mount}
WORKDIR=${WORKDIR:-/mnt/dinov3/runs/$NAME}    # in that share
POLL=${POLL:-60}                              # seconds between two looks at the queue
RESTARTS=${RESTARTS:-100}                     # after preemptions and requests that failed
DRY_RUN=${DRY_RUN:-0}

run() { if [[ $DRY_RUN == 1 ]]; then printf '%q ' "$@" && echo; else "$@"; fi; }
queued() { run gcloud compute tpus queued-resources "$@" --zone="$ZONE"; }
on_all() { run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"; }

stop() { echo "$1" >&2 && exit 1; }

state() { queued describe "$NAME" --format='value(state.state)' 2>/dev/null || echo NONE; }

create() {
    if [[ $DRY_RUN == 1 || $(state) == NONE ]]; then
        # Called as a condition, where errors do not end the script.
        queued create "$NAME" --node-id="$NAME" --accelerator-type="$ACCELERATOR" \
            --runtime-version="$RUNTIME" "$TIER" || stop "gcloud refused to create $NAME: see above"
    fi
    [[ $DRY_RUN == 1 ]] && return
    until [[ $(state) == ACTIVE ]]; do
        case $(state) in FAILED | SUSPENDED) return 1 ;; esac
        sleep "$POLL"
    done
}

install() {
    run gcloud compute tpus tpu-vm scp --recurse . "$NAME:dinov3_jax" --zone="$ZONE" --worker=all
    on_all "sudo apt-get -q install -y nfs-common && sudo mkdir -p /mnt/dinov3 && \
        (mountpoint -q /mnt/dinov3 || sudo mount $NFS /mnt/dinov3) && \
        python3 -m venv venv && venv/bin/pip install -q -e 'dinov3_jax[tpu]'"
}

train() {
    on_all "cd dinov3_jax && PATH=\$HOME/venv/bin:\$PATH WORKDIR=$WORKDIR \
        launch/until_done.sh $(printf '%q ' "$@")"
}

until { [[ $(state) == ACTIVE ]] || create; } && install && train "$@"; do
    sleep "$POLL"
    [[ $(state) != ACTIVE ]] ||
        stop "not a preemption: see what the workers say. $NAME is left as it is"
    ((RESTARTS-- > 0)) ||
        stop "no restart is left. $NAME is $(state): ask gcloud compute tpus queued-resources describe why"
    queued delete "$NAME" --force --quiet || true
done
queued delete "$NAME" --force --quiet
