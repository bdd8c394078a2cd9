#!/usr/bin/env bash
# Asks for a TPU pod slice (a queued resource) and waits until it is there.
#
#   tpu_scripts/create.sh --name POD --zone us-central2-b --type v4-128 [--spot] [--wait_minutes 720] [--image NAME] [--dry-run]
#
# --spot: cheaper, may be taken away at any time; keep_running.sh goes on from the last checkpoint when it is.
# Running it again waits for the request that is there already.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

spot='' type='' wait_minutes=720 image=tpu-ubuntu2204-base
parse_options 'type wait_minutes image spot' "$@"
require type
[[ $wait_minutes =~ ^[0-9]+$ ]] || fail "--wait_minutes is \"$wait_minutes\"; give a number"

request_state() { once gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format 'value(state.state)' 2> /dev/null || true; }

ask=(gcloud compute tpus queued-resources create "$name" --node-id "$name" "${where[@]}" --accelerator-type "$type" --runtime-version "$image")
if [[ $spot ]]; then ask+=(--spot); fi
if [[ $dry_run ]]; then
  once "${ask[@]}"
  request_state
  exit 0
fi

state=$(request_state)
case "$state" in
  '') once "${ask[@]}" || fail "the request for $type was refused (above); check the quota of $zone" 1 ;;
  FAILED | SUSPENDED | SUSPENDING)
    echo "$script: the old request is $state: replacing it" >&2
    retried gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
    once "${ask[@]}" || fail "the request for $type was refused (above); check the quota of $zone" 1 ;;
  *) echo "$script: there is a request already, $state" >&2 ;;
esac

poll_s=${POLL_S:-30}
for ((waited_s = 0; waited_s <= wait_minutes * 60; waited_s += poll_s > 0 ? poll_s : 1)); do
  state=$(request_state)
  case "$state" in
    ACTIVE) echo "$name: ready ($type in $zone)"; exit 0 ;;
    FAILED | SUSPENDED) fail "$name: the request is $state; see: gcloud compute tpus queued-resources describe $name ${where[*]}" 1 ;;
  esac
  printf '\r%s: %s for %d min ' "$name" "${state:-no answer}" $((waited_s / 60)) >&2
  sleep "$poll_s"
done
fail "$name: still ${state:-no answer} after $wait_minutes min; run the same command to go on waiting" 1
