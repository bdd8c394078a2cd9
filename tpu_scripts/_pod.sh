# Shared by the scripts beside it; source it, do not run it. Options, dry runs, and gcloud with a time limit and retries.
# shellcheck shell=bash disable=SC2034
#
# Common options: --name POD --zone ZONE [--project PROJECT] [--dry-run], or POD, ZONE and PROJECT in the environment.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=$(basename "$0")
dry_run=
remote_dir=${REMOTE_DIR:-atlas_jax}             # the checkout, in the home folder of every worker
command_limit_s=${COMMAND_LIMIT_S:-600}         # a gcloud call that takes longer has hung
tries=${TRIES:-3}
retry_after_s=${RETRY_AFTER_S:-10}
preempted_code=75                               # what `atlas-jax train` exits with after a SIGTERM, its checkpoint saved

fail() { echo "$script: $1" >&2; exit "${2:-2}"; }
usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; exit 0; }

# parse_options NAMES "$@": sets the variable NAME for each --NAME VALUE; what follows -- becomes the array `rest`.
parse_options() {
  local known=" name zone project $1 "; shift
  rest=()
  while (($#)); do
    case "$1" in
      --dry-run) dry_run=1; shift ;;
      --spot) [[ $known == *' spot '* ]] || fail 'unknown option --spot; see --help'; spot=1; shift ;;
      -h | --help) usage ;;
      --) shift; rest=("$@"); break ;;
      --*)
        local option=${1#--}
        [[ $known == *" $option "* ]] || fail "unknown option $1; see --help"
        (($# > 1)) || fail "$1 needs a value"
        printf -v "$option" '%s' "$2"
        shift 2 ;;
      *) fail "unexpected argument \"$1\"; see --help" ;;
    esac
  done
  name=${name:-${POD:-}} zone=${zone:-${ZONE:-}} project=${project:-${PROJECT:-}}
  [[ $name ]] || fail 'which pod? give --name POD or set POD'
  [[ $zone ]] || fail 'which zone? give --zone ZONE or set ZONE'
  where=(--zone "$zone")
  if [[ $project ]]; then where+=(--project "$project"); fi
  if [[ ! $dry_run ]]; then
    command -v gcloud > /dev/null || fail 'gcloud is not on PATH; install the Google Cloud CLI and log in'
  fi
}

require() { [[ ${!1:-} ]] || fail "--$1 is missing; see --help"; }

show() { printf '%q ' "$@"; echo; }

# once COMMAND...: runs it within the time limit; in a dry run only shows it.
once() {
  if [[ $dry_run ]]; then show "$@"; return; fi
  timeout --kill-after=10 "$command_limit_s" "$@"
}

# retried COMMAND...: for what may safely run twice.
retried() {
  local try code=0
  for ((try = 1; try <= tries; try++)); do
    code=0
    once "$@" || code=$?
    ((code == 0)) && return 0
    if ((code == 124 || code == 137)); then
      echo "$script: no answer within $command_limit_s s (try $try of $tries): $(show "$@")" >&2
    else
      echo "$script: exit code $code (try $try of $tries): $(show "$@")" >&2
    fi
    ((try < tries)) && sleep "$retry_after_s"
  done
  return "$code"
}

# on_workers WHICH COMMAND: runs a shell command on worker WHICH (a number or all).
on_workers() { retried gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker "$1" --command "$2"; }

# pod_state: READY, PREEMPTED, ... or ABSENT; UNKNOWN where gcloud does not answer.
pod_state() {
  local answer
  if answer=$(once gcloud compute tpus tpu-vm describe "$name" "${where[@]}" --format 'value(state)' 2>&1); then
    echo "$answer"
  elif [[ $answer == *NOT_FOUND* || $answer == *'not found'* ]]; then
    echo ABSENT
  else
    echo UNKNOWN
  fi
}

# run_code: exit code of the launched run on worker 0; empty while it runs; LOST where neither run nor code is there.
run_code() {
  once gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker 0 --command \
    "cd $remote_dir && if [ -f run.code ]; then cat run.code; elif ! kill -0 \"\$(cat run.pid)\" 2> /dev/null; then echo LOST; fi"
}
