#!/usr/bin/env bash
# Takes a profile of a run: launches the command with --profile, and fetches worker 0's trace after its end.
#
#   tpu_scripts/profile.sh --name POD --zone ZONE --to profile [--wait_minutes 120] [--dry-run] \
#       -- atlas-jax train --gin_file ... --gin.TOTAL_STEPS=20
#
# View it with: pip install xprof && xprof --logdir profile
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

to='' wait_minutes=120
parse_options 'to wait_minutes' '' "$@"
require to
require_number wait_minutes 1
require_command "${rest[@]}"
here=$repository/tpu_scripts
common=(--name "$name" "${where[@]}" --slices "$slices")
if [[ $dry_run ]]; then common+=(--dry-run); fi
"$here/launch.sh" "${common[@]}" -- "${rest[@]}" --profile trace
if [[ ! $dry_run ]]; then
  poll_s=${POLL_S:-20}
  for ((waited_s = 0; waited_s <= wait_minutes * 60; waited_s += poll_s)); do
    code=$(run_code) || code='no answer'
    [[ $code == RUNNING || $code == ENDING || $code == 'no answer' ]] || break
    nap "$poll_s"
  done
  [[ $code == 0 ]] || fail "the run has not ended well ($code); look at logs.sh" 1
fi
"$here/fetch.sh" "${common[@]}" --from trace --to "$to"
