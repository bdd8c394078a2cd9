#!/usr/bin/env bash
# Keeps a run going until it ends, whatever is taken away meanwhile: creates the pod, sets it up, launches, watches, and starts over.
#
#   tpu_scripts/keep_running.sh --name POD --zone ZONE --type v4-128 [--spot] --mount BUCKET --to bucket [--restarts 100] \
#       [--dry-run] -- atlas-jax train --gin_file ...
#
# The run folder must outlive the pod: it lies in the mounted bucket. --from gs://... copies a folder instead (see data.sh). A run that fails by itself (any exit code but 0 and 75) ends the loop.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

spot='' type='' from='' mount='' to='' restarts=100
parse_options 'type spot from mount to restarts' "$@"
require type
((${#rest[@]})) || fail 'what is to run? give it after --, as: -- atlas-jax train --gin_file ...'
[[ ! ($from || $mount) || $to ]] || fail '--from and --mount need --to, the folder on the workers'
here=$repository/tpu_scripts
common=(--name "$name" "${where[@]}")
if [[ $dry_run ]]; then common+=(--dry-run); fi

start() {
  "$here/create.sh" "${common[@]}" --type "$type" ${spot:+--spot} || return 1
  "$here/set_up.sh" "${common[@]}" || return 1
  if [[ $to ]]; then "$here/data.sh" "${common[@]}" ${from:+--from "$from"} ${mount:+--mount "$mount"} --to "$to" || return 1; fi
  "$here/launch.sh" "${common[@]}" -- "${rest[@]}"
}

# watch: returns 0 when the run has ended well, 10 when it is to be launched again, 11 when the pod is gone; exits when the run has failed.
watch() {
  local state code
  while true; do
    sleep "${POLL_S:-60}"
    state=$(pod_state)
    case "$state" in
      READY) ;;
      UNKNOWN) echo "$script: gcloud does not answer; looking again" >&2; continue ;;
      *) echo "$script: the pod is $state" >&2; return 11 ;;
    esac
    code=$(run_code) || { echo "$script: worker 0 does not answer; looking again" >&2; continue; }
    case "$code" in
      '') ;;
      0) return 0 ;;
      "$preempted_code" | LOST) return 10 ;;
      *) fail "the run ended with exit code $code; look at logs.sh" 1 ;;
    esac
  done
}

start || fail 'could not start (above)' 1
if [[ $dry_run ]]; then exit 0; fi
for ((restart = 0; restart <= restarts; restart++)); do
  outcome=0
  watch || outcome=$?
  case "$outcome" in
    0) echo "$name: the run has ended well after $restart restarts"; exit 0 ;;
    10) echo "$script: launching again" >&2; "$here/launch.sh" "${common[@]}" -- "${rest[@]}" || true ;;
    11) start || echo "$script: could not start; trying again" >&2 ;;
    *) exit "$outcome" ;;
  esac
done
fail "given up after $restarts restarts" 1
