#!/usr/bin/env bash
# Prints a pod's state, whether its run is in progress or how it ended, and the run's last line.
#
#   tpu_scripts/status.sh --name POD --zone ZONE [--slices N] [--dry-run]
#
# Exit code 0 if the run is in progress or ended with 0, else 1.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

parse_options '' '' "$@"
no_more "${rest[@]}"
if [[ $dry_run ]]; then
  pod_state
  on_workers all 'tpu_scripts/run_host.sh state'
  exit 0
fi
state=$(pod_state)
echo "$name: pod $state"
[[ $state == READY ]] || exit 1
code=$(run_code) || fail "$name: the workers do not answer, or set_up.sh is still to run" 1
case "$code" in
  RUNNING) echo "$name: the run is in progress" ;;
  ENDING) echo "$name: the run has ended on some workers and is in progress on others" ;;
  NONE) echo "$name: nothing was launched" ;;
  LOST) echo "$name: the run is gone without an exit code; look at logs.sh, then launch.sh again" ;;
  0) echo "$name: the run has ended well" ;;
  "$preempted_code") echo "$name: the run was asked to stop and saved its state; continue it with launch.sh again" ;;
  *) echo "$name: the run ended with exit code $code; look at logs.sh" ;;
esac
if [[ $code != NONE ]]; then on_workers 0 'tail -n 1 run.log' || true; fi
[[ $code == RUNNING || $code == 0 ]]
