#!/usr/bin/env bash
# One run on TPU slices of a GKE cluster, through xpk (pip install xpk), which builds the image.
#   launch/gke_xpk.sh --config=configs/vitl16_im1k.py --config.data.path=/mnt/dinov3/shards
# DRY_RUN=1 prints the commands. xpk workload list and delete show and end it.
set -euo pipefail

PROJECT=${PROJECT:-$(gcloud config get-value project 2>/dev/null || true)}
CLUSTER=${CLUSTER:-dinov3}
ZONE=${ZONE:-us-east5-a}
WORKLOAD=${WORKLOAD:-dinov3-train}
TPU_TYPE=${TPU_TYPE:-v5p-64}
SLICES=${SLICES:-1} # more than one: --config.mesh.replica must be a multiple
IMAGE=${IMAGE:-python:3.11}                    # the base; this folder is laid on top of it
WORKDIR=${WORKDIR:-/mnt/dinov3/runs/$WORKLOAD} # in a share: xpk storage attach --auto-mount=true
RESTARTS=${RESTARTS:-100}                      # after preemptions and failures
DRY_RUN=${DRY_RUN:-0}

run() { if [[ $DRY_RUN == 1 ]]; then printf '%q ' "$@" && echo; else "$@"; fi; }

run xpk workload create \
    --project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER" --workload="$WORKLOAD" \
    --tpu-type="$TPU_TYPE" --num-slices="$SLICES" \
    --base-docker-image="$IMAGE" --script-dir=. --max-restarts="$RESTARTS" \
    --command="pip install -q -e .[tpu] && WORKDIR=$WORKDIR exec launch/until_done.sh $(printf '%q ' "$@")"
