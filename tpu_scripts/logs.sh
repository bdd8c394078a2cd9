#!/usr/bin/env bash
# Follows what the run prints, on worker 0 unless told.
#
#   tpu_scripts/logs.sh --name POD --zone ZONE [--worker 3] [--lines 100] [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

worker=0 lines=100
parse_options 'worker lines' "$@"
command=(gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker "$worker" --command "tail -n $lines -F $remote_dir/run.log")
if [[ $dry_run ]]; then show "${command[@]}"; else exec "${command[@]}"; fi
