#!/usr/bin/env bash
# Requests one or several TPU pod slices (a queued resource), and waits until they are ready.
#
#   tpu_scripts/create.sh --name POD --zone us-central2-b --type v4-128 [--spot | --reserved | --reservation NAME] [--slices N] \
#       [--wait_minutes 720] [--image NAME] [--dry-run]
#
# --spot: cheaper, but may be preempted at any time; keep_running.sh then continues from the last checkpoint.
# --reserved: uses any reservation of the project. --reservation: uses this one, given by name or projects/P/locations/ZONE/reservations/NAME.
# --slices: N slices of this type, connected by the data-centre network. Give the number to every other script, too.
#
# Running it again waits for the existing request. A request that is being deleted is made again afterwards. A failed or preempted request
# is replaced.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

spot='' reserved='' reservation='' type='' wait_minutes=720 image=tpu-ubuntu2204-base
parse_options 'type wait_minutes image reservation' 'spot reserved' "$@"
no_more "${rest[@]}"
require_type
require_number wait_minutes 0

gcloud=(gcloud)
if [[ $reservation ]]; then
  gcloud=(gcloud alpha)  # the released command has no such flag
  if [[ $reservation != */* ]]; then
    [[ $project ]] || fail '--reservation needs --project, or the full name: projects/P/locations/ZONE/reservations/NAME'
    reservation=projects/$project/locations/$zone/reservations/$reservation
  fi
fi
request=("${gcloud[@]}" compute tpus queued-resources create "$name" "${where[@]}" --accelerator-type "$type" --runtime-version "$image")
if ((slices > 1)); then request+=(--node-count "$slices" --node-prefix "$name"); else request+=(--node-id "$name"); fi
if [[ $spot ]]; then request+=(--spot); fi
if [[ $reserved ]]; then request+=(--reserved); fi
if [[ $reservation ]]; then request+=(--reservation "$reservation"); fi
if [[ $dry_run ]]; then
  once "${request[@]}"
  request_state
  exit 0
fi

poll_s=${POLL_S:-30}
asked=0 unanswered=0 before=''

# request_again: sends the request, or first deletes an old one of the same name.
request_again() {
  if ((asked > 0)) && [[ $state == FAILED ]]; then
    fail "$name: the request has failed; see: gcloud compute tpus queued-resources describe $name ${where[*]}" 1
  fi
  ((asked < 5)) || fail "$name: asked $asked times, and it is $state again" 1
  if [[ $(request_state) != ABSENT ]]; then
    echo "$script: replacing the old request" >&2
    retried gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet || true
  elif once "${request[@]}" || [[ $(request_state) != ABSENT ]]; then  # a hung call may still have sent the request
    asked=$((asked + 1))
  else
    fail "the request for $type was refused (above); check the type, the zone and its quota" 1
  fi
}

for ((waited_s = 0; waited_s <= wait_minutes * 60; waited_s += poll_s)); do
  state=$(request_state)
  # A request may exist without its slices, and slices being deleted without their request.
  if [[ $state == ACTIVE ]]; then state=$(pod_state)
  elif [[ $state == ABSENT && $(pod_state) == DELETING ]]; then state=DELETING; fi
  if [[ $state != "$before" ]]; then echo "$script: $name: $state after $((waited_s / 60)) min" >&2; fi
  before=$state
  if [[ $state == UNKNOWN ]]; then unanswered=$((unanswered + 1)); else unanswered=0; fi
  case "$state" in
    READY) echo "$name: ready ($slices x $type in $zone)"; exit 0 ;;
    UNKNOWN) ((unanswered < 20)) || fail "gcloud does not answer (above); check the login, the project and the zone" 1 ;;
    STOPPED) fail "$name: is stopped; start it with gcloud compute tpus tpu-vm start, or delete it with tear_down.sh" 1 ;;
    ABSENT | FAILED | SUSPENDED | PREEMPTED | TERMINATED) request_again ;;
  esac
  nap "$poll_s"
done
fail "$name: still $before after $wait_minutes min; run the same command to go on waiting" 1
