#!/usr/bin/env bash
# Takes a profile of a run: launches the command with --profile and fetches worker 0's trace when it has ended.
#
#   tpu_scripts/profile.sh --name POD --zone ZONE --to profile [--dry-run] -- atlas-jax train --gin_file ... --gin.TOTAL_STEPS=20
#
# Look at it with: pip install xprof && xprof --logdir profile
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

to=''
parse_options 'to' "$@"
require to
((${#rest[@]})) || fail 'what is to run? give it after --, as: -- atlas-jax train --gin_file ...'
here=$repository/tpu_scripts
common=(--name "$name" "${where[@]}")
if [[ $dry_run ]]; then common+=(--dry-run); fi
"$here/launch.sh" "${common[@]}" -- "${rest[@]}" --profile trace
if [[ ! $dry_run ]]; then
  while code=$(run_code) && [[ -z $code ]]; do sleep "${POLL_S:-20}"; done
  [[ ${code:-LOST} == 0 ]] || fail "the run ended with ${code:-no answer}; look at logs.sh" 1
fi
"$here/fetch.sh" "${common[@]}" --from trace --to "$to"
