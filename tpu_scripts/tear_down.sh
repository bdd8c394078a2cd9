#!/usr/bin/env bash
# Deletes the pod, with everything on its disks.
#
#   tpu_scripts/tear_down.sh --name POD --zone ZONE [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

parse_options '' '' "$@"
no_more "${rest[@]}"
for ((try = 1; try <= tries; try++)); do
  once gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet || true
  if [[ $dry_run ]]; then exit 0; fi
  # Checked, because a call that failed or hung may still have deleted the pod.
  state=$(request_state)
  case "$state" in
    ABSENT) echo "$name: gone"; exit 0 ;;
    DELETING) echo "$name: is being deleted"; exit 0 ;;
  esac
  ((try == tries)) || nap "$retry_after_s"
done
fail "$name: IT MAY STILL COST MONEY ($state); run the same command again, or delete it on the web page of Cloud TPU" 1
