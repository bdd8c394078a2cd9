#!/usr/bin/env bash
# Says what a pod does: its state, whether the run goes on or how it ended, its last line.
#
#   tpu_scripts/status.sh --name POD --zone ZONE [--dry-run]
#
# Exit code 0 while all is well (running, or ended with 0), 1 otherwise.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

parse_options '' "$@"
if [[ $dry_run ]]; then
  once gcloud compute tpus tpu-vm describe "$name" "${where[@]}" --format 'value(state)'
  run_code
  exit 0
fi
state=$(pod_state)
echo "$name: pod $state"
[[ $state == READY ]] || exit 1
code=$(run_code) || fail "$name: worker 0 does not answer" 1
case "$code" in
  '') echo "$name: the run goes on" ;;
  LOST) echo "$name: the run is gone without an exit code; look at logs.sh, then launch.sh again" ;;
  0) echo "$name: the run has ended well" ;;
  "$preempted_code") echo "$name: the run was asked to stop and saved its state; launch.sh again goes on" ;;
  *) echo "$name: the run ended with exit code $code; look at logs.sh" ;;
esac
on_workers 0 "tail -n 1 $remote_dir/run.log" || true
[[ -z $code || $code == 0 ]]
