#!/usr/bin/env bash
# Trains on every host of a Cloud TPU slice, from a machine with gcloud. JAX finds the hosts itself.
#
#   tools/launch/tpu_vm.sh setup NAME ZONE                 copies this checkout there and installs it
#   tools/launch/tpu_vm.sh train NAME ZONE --config ...    the options of big_vit_lite.train
#   tools/launch/tpu_vm.sh stop  NAME ZONE                 saves, then stops
#
# --workdir must be one folder that all hosts see: gs://BUCKET/FOLDER or NFS. The run goes on by itself
# when this terminal is gone: its output is in ~/big_vit_lite-DATE-TIME.log on each host, one file a
# start, and the first host's is shown here. A run that was stopped or preempted goes on with the same
# command.
set -euo pipefail

usage() {
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

[[ $# -ge 3 ]] || usage
action=$1 name=$2 zone=$3
shift 3

on_hosts() { # which hosts, command
  gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker "$1" --command "$2"
}

case $action in
  setup)
    root=$(cd "$(dirname "$0")/../.." && pwd)
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    git -C "$root" archive --format tar.gz --output "$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$name:big_vit_lite.tar.gz" \
      --zone "$zone" --worker all
    on_hosts all "mkdir -p big_vit_lite && tar -xzf big_vit_lite.tar.gz -C big_vit_lite &&
      python3 -m pip install --quiet --editable 'big_vit_lite[tpu,gcs]'"
    ;;
  train)
    options=$(printf '%q ' "$@") # as the shell there must read them
    log=big_vit_lite-$(date -u +%Y-%m-%d-%H%M%S).log # what ended the start before stays readable
    on_hosts all "cd big_vit_lite && nohup python3 -m big_vit_lite.train $options \
      >> ~/$log 2>&1 < /dev/null &"
    on_hosts 0 "tail -n +1 -F $log"
    ;;
  stop)
    on_hosts all "pkill -TERM -f '[b]ig_vit_lite.train'"
    ;;
  *) usage ;;
esac
