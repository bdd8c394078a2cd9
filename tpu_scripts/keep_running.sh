#!/usr/bin/env bash
# Keeps a run going until it ends, even if the pod is preempted: creates the pod, sets it up, launches, watches, and starts again.
# Then it DELETES THE POD, so that it costs nothing more; --keep leaves it.
#
#   tpu_scripts/keep_running.sh --name POD --zone ZONE --type v4-128 [--spot | --reserved | --reservation NAME] [--slices N] \
#       [--logs gs://BUCKET/logs] [--from gs://BUCKET/FOLDER --to FOLDER] [--restarts 100] [--failures 3] [--silence_minutes 120] [--keep] [--dry-run] \
#       -- atlas-jax train --gin_file ...
#
# The run folder must outlive the pod: give a gs:// path. --from copies a folder to the workers first (see data.sh).
#
# Preemptions (the pod is gone, or exit code 75) and failures that may not happen again (1, 134, 135, 137, 139, or no code) restart the run,
# after a pause that doubles from 30 s to 30 min while restarts follow each other within half an hour. It gives up after --restarts
# restarts, --failures failures, --silence_minutes without an answer, and on any other exit code, such as 2 for a mistake in the command.
# Run again, the command watches the run in progress. Ctrl-C ends only the watching: run and pod stay.
# So start it where it can stay: in tmux, or on a small machine in the cloud.
# Logs are copied to the folder --logs. Without it worker 0's logs are fetched to POD-logs/ before the pod is deleted.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

spot='' reserved='' reservation='' keep='' type='' image='' wait_minutes='' from='' to='' logs=''
restarts=100 failures=3 silence_minutes=120
parse_options 'type image wait_minutes reservation from to logs restarts failures silence_minutes' 'spot reserved keep' "$@"
require_type
require_number restarts 0
require_number failures 0
require_number silence_minutes 1
require_command "${rest[@]}"
[[ ! $to || $from ]] || fail '--to needs --from gs://...'
if [[ $from ]]; then require_folder to; require_bucket_path from; fi
if [[ $logs ]]; then require_bucket_path logs; fi

here=$repository/tpu_scripts
common=(--name "$name" "${where[@]}" --slices "$slices")
if [[ $dry_run ]]; then common+=(--dry-run); fi
poll_s=${POLL_S:-60}
end_wait_s=${END_WAIT_S:-600}  # a run ends its other workers within minutes of the first
first_pause_s=${FIRST_PAUSE_S:-30} longest_pause_s=1800

# start: creates, sets up and launches; sets `started` if all of it succeeded.
start() {
  started=''
  "$here/create.sh" "${common[@]}" --type "$type" ${spot:+--spot} ${reserved:+--reserved} ${reservation:+--reservation "$reservation"} \
    ${image:+--image "$image"} ${wait_minutes:+--wait_minutes "$wait_minutes"} || return 1
  "$here/set_up.sh" "${common[@]}" || return 1
  if [[ $from ]]; then "$here/data.sh" "${common[@]}" --from "$from" --to "$to" || return 1; fi
  launch && started=1
}

launch() { "$here/launch.sh" "${common[@]}" "$@" ${logs:+--logs "$logs"} -- "${rest[@]}"; }

# finish CODE TEXT: deletes the pod, however the run ended, and exits.
finish() {
  local code=$1
  trap - INT TERM HUP
  if [[ ! $logs && $(pod_state) == READY ]]; then
    "$here/fetch.sh" "${common[@]}" --from logs --to "$name-logs" || true
  fi
  if [[ $keep ]]; then
    echo "$script: the pod stays, and costs until tear_down.sh is run" >&2
  else
    "$here/tear_down.sh" "${common[@]}" || code=1  # so that the pod does not seem deleted
  fi
  if (($1)); then fail "$2" "$1"; fi
  echo "$name: $2"
  exit "$code"
}

# watch: sets `outcome` when something must be done: an exit code or LOST of the run (see run_code), GONE (the pod), STUCK (the pod exists
# but does not answer), SILENT (gcloud does not answer); and `watched_s`, the seconds until then.
watch() {
  local state silent_s=0 ending_s=0
  watched_s=0
  while true; do
    nap "$poll_s"
    watched_s=$((watched_s + poll_s))
    state=$(pod_state)
    case "$state" in
      READY) outcome=$(run_code) || outcome=STUCK ;;
      PREEMPTED | TERMINATED | STOPPED | STOPPING | DELETING | HIDING | HIDDEN | ABSENT) outcome=GONE ;;
      UNKNOWN) outcome=SILENT ;;
      *) outcome=STUCK ;;  # REPAIRING, RESTARTING and other states that may pass
    esac
    case "$outcome" in
      RUNNING) silent_s=0 ending_s=0 ;;
      ENDING)
        silent_s=0 ending_s=$((ending_s + poll_s))
        if ((ending_s > end_wait_s)); then outcome=LOST; return; fi ;;
      STUCK | SILENT)
        if ((silent_s == 0)); then echo "$script: no answer ($state); looking again" >&2; fi
        silent_s=$((silent_s + poll_s))
        if ((silent_s > silence_minutes * 60)); then return; fi ;;
      *) return ;;
    esac
  done
}

# pause: waits before a restart, longer each time while restarts follow each other.
pause() {
  if ((watched_s >= 1800)); then pause_s=$first_pause_s; fi
  nap "$pause_s"
  pause_s=$((pause_s * 2 > longest_pause_s ? longest_pause_s : pause_s * 2))
}

# restart: uses the same pod if it exists and is set up.
restart() {
  if [[ $outcome == STUCK ]]; then "$here/tear_down.sh" "${common[@]}" || true; fi
  if [[ $started && $outcome != GONE && $outcome != STUCK && $(pod_state) == READY ]]; then
    launch --replace || started=''
  else
    start || true
  fi
  if [[ ! $started ]]; then echo "$script: could not start (above)" >&2; fi
}

trap 'echo "$script: stopped watching; the run continues, and the pod costs until tear_down.sh is run" >&2; exit 130' INT TERM HUP
if [[ $dry_run ]]; then start; "$here/tear_down.sh" "${common[@]}"; exit 0; fi
if [[ $(pod_state) == READY ]] && code=$(run_code) && [[ $code == RUNNING || $code == ENDING ]]; then
  ssh_command 0 'cat run.command'
  # A run of another command, such as building an index, must not count as this run.
  [[ $(once "${ssh[@]}") == "$(printf '%s\0' "${rest[@]}" | cksum)" ]] ||
    fail "$name: another command is running there; wait for it (status.sh), or end it (stop.sh)"
  echo "$script: watching the run in progress" >&2
  started=1
else
  start || finish 1 'could not start (above)'
fi
pause_s=$first_pause_s failed=0
for ((restarted = 0; ; restarted++)); do
  # A pod on which nothing could be started costs money, so it counts as a failure; a missing pod does not.
  if [[ $started ]]; then watch; else
    watched_s=0 outcome=GONE
    if [[ $(pod_state) == READY ]]; then outcome=UNSTARTED; fi
  fi
  echo "$script: $outcome" >&2
  case "$outcome" in
    0) finish 0 "the run has ended well after $restarted restarts" ;;
    "$preempted_code" | GONE | STUCK) ;;
    SILENT) finish 1 "no answer from gcloud for $silence_minutes min" ;;
    *)
      [[ " $failed_codes LOST NONE UNSTARTED " == *" $outcome "* ]] || finish 1 "the run ended with exit code $outcome; look at its log"
      failed=$((failed + 1))
      ((failed <= failures)) || finish 1 "given up after $failed failures, the last with $outcome; look at the logs" ;;
  esac
  ((restarted < restarts)) || finish 1 "given up after $restarted restarts"
  pause
  restart
done
