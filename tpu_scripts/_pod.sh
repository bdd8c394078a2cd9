# Common functions of these scripts: options, dry runs, and gcloud with a time limit and retries. Source it; do not run it.
# shellcheck shell=bash disable=SC2034
#
# Common options: --name POD --zone ZONE [--project PROJECT] [--slices N] [--dry-run], or POD, ZONE, PROJECT and SLICES in the environment.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=$(basename "$0")
dry_run=
remote_dir=${REMOTE_DIR:-atlas_jax}             # the checkout, in the home folder of every worker
command_limit_s=${COMMAND_LIMIT_S:-600}         # a gcloud call that takes longer counts as hung
tries=${TRIES:-3}
retry_after_s=${RETRY_AFTER_S:-10}
preempted_code=75                               # exit code of `atlas-jax train` after a SIGTERM, with its checkpoint saved

fail() { echo "$script: $1" >&2; exit "${2:-2}"; }
usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; exit 0; }
nap() { command "${NAP:-sleep}" "$1"; }  # tests replace sleep by another command

# parse_options NAMES FLAGS "$@": sets the variable NAME for each --NAME VALUE, and to 1 for each --FLAG; arguments after -- become `rest`.
parse_options() {
  local known=" name zone project slices $1 " flags=" $2 " option; shift 2
  rest=()
  while (($#)); do
    option=${1#--}
    case "$1" in
      --dry-run) dry_run=1; shift ;;
      -h | --help) usage ;;
      --) shift; rest=("$@"); break ;;
      --*)
        if [[ $flags == *" $option "* ]]; then printf -v "$option" 1; shift; continue; fi
        [[ $known == *" $option "* ]] || fail "unknown option $1; see --help"
        [[ $# -gt 1 && $2 != --* && $2 ]] || fail "$1 needs a value"
        printf -v "$option" '%s' "$2"
        shift 2 ;;
      *) fail "unexpected argument \"$1\"; see --help" ;;
    esac
  done
  name=${name:-${POD:-}} zone=${zone:-${ZONE:-}} project=${project:-${PROJECT:-}} slices=${slices:-${SLICES:-1}}
  [[ $name ]] || fail 'which pod? give --name POD or set POD'
  [[ $zone ]] || fail 'which zone? give --zone ZONE or set ZONE'
  require_number slices 1
  where=(--zone "$zone")
  if [[ $project ]]; then where+=(--project "$project"); fi
  name_nodes
  if [[ ! $dry_run ]]; then
    command -v gcloud > /dev/null || fail 'gcloud is not on PATH; install the Google Cloud CLI and log in'
  fi
}

# name_nodes: the TPU node has the name of the request; several slices are NAME-0, NAME-1, ..., as gcloud numbers them.
name_nodes() {
  local slice
  nodes=("$name")
  all_nodes=(gcloud compute tpus tpu-vm)
  ((slices > 1)) || return 0
  nodes=()
  for ((slice = 0; slice < slices; slice++)); do nodes+=("$name-$slice"); done
  all_nodes=(gcloud compute tpus queued-resources)
}

require() { [[ ${!1:-} ]] || fail "--$1 is missing; see --help"; }

# require_number NAME LEAST
require_number() {
  [[ ${!1} =~ ^[0-9]{1,9}$ && $((10#${!1})) -ge $2 ]] || fail "--$1 is \"${!1}\"; give a whole number of at least $2"
}

# require_folder NAME: a folder on the workers, relative to the checkout and inside it.
require_folder() {
  require "$1"
  [[ ${!1} =~ ^[A-Za-z0-9._][A-Za-z0-9._/-]*$ && /${!1}/ != */../* ]] ||
    fail "--$1 is \"${!1}\"; give a path below the checkout, such as data/nq"
}

# require_command "${rest[@]}": the command after --
require_command() { (($#)) || fail 'no command to run; give it after --, as: -- atlas-jax train --gin_file ...'; }

# require_bucket_path NAME: gs://BUCKET or a folder in it
require_bucket_path() {
  [[ ${!1} =~ ^gs://[a-z0-9][a-z0-9._-]+(/[A-Za-z0-9._/-]*)?$ ]] || fail "--$1 is \"${!1}\"; give a path like gs://bucket/folder"
}

show() { printf '%q ' "$@"; echo; }

# once COMMAND...: runs a command within the time limit; a dry run only shows it.
once() {
  if [[ $dry_run ]]; then show "$@"; return; fi
  timeout --kill-after=10 "$command_limit_s" "$@"
}

# retried COMMAND...: for commands that may safely run twice. Exit code 2 is a mistake in the command, which another try would repeat.
retried() {
  local try code=0
  for ((try = 1; try <= tries; try++)); do
    code=0
    once "$@" || code=$?
    ((code == 0 || code == 2)) && return "$code"
    if ((code == 124 || code == 137)); then
      echo "$script: no answer within $command_limit_s s (try $try of $tries): $(show "$@")" >&2
    else
      echo "$script: exit code $code (try $try of $tries): $(show "$@")" >&2
    fi
    ((try < tries)) && nap "$retry_after_s"
  done
  return "$code"
}

# worker_options WHICH: sets `workers`, gcloud's options for one worker of the first slice, or for all workers of all slices.
worker_options() {
  workers=(--worker "$1")
  if ((slices > 1)); then workers+=(--node "$([[ $1 == all ]] && echo all || echo 0)"); fi
}

# ssh_command WHICH COMMAND: sets `ssh`, the gcloud command for a shell command in the checkout of worker WHICH (a number or all).
ssh_command() {
  worker_options "$1"
  if ((slices > 1)); then workers+=(--batch-size all); fi  # all at once: a run waits for all of its workers
  ssh=("${all_nodes[@]}" ssh "$name" "${where[@]}" "${workers[@]}" --command "cd $remote_dir && $2")
}

# on_workers WHICH COMMAND: runs a shell command in the checkout of worker WHICH, with retries.
on_workers() { ssh_command "$@"; retried "${ssh[@]}"; }

# copy WHICH FROM TO [OPTION...]: copies files to or from workers.
copy() {
  worker_options "$1"
  retried "${all_nodes[@]}" scp "${@:4}" "$2" "$3" "${where[@]}" "${workers[@]}"
}

# state_of COMMAND...: the state that gcloud reports; ABSENT if nothing has this name, UNKNOWN if gcloud does not answer.
state_of() {
  local answer
  if answer=$(once "$@" 2>&1); then
    answer=${answer##*$'\n'}  # gcloud prints warnings before it
    echo "${answer:-UNKNOWN}"
  elif [[ $answer == *NOT_FOUND* || $answer == *'not found'* ]]; then
    echo ABSENT
  else
    echo "$script: ${answer##*$'\n'}" >&2
    echo UNKNOWN
  fi
}

# pod_state: READY if all slices are; else the state of the first one that is not: PREEMPTED, ABSENT, UNKNOWN, ...
pod_state() {
  local node state=UNKNOWN
  for node in "${nodes[@]}"; do
    state=$(state_of gcloud compute tpus tpu-vm describe "$node" "${where[@]}" --format 'value(state)')
    [[ $state == READY ]] || break
  done
  echo "$state"
}

request_state() { state_of gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format 'value(state.state)'; }

# run_code: the state of the run on all workers, in one word:
#   RUNNING   on all of them
#   ENDING    ended on some workers only: a new run would meet the old one on the others
#   NONE      nothing was launched
#   a code    ended on all, with the worst code: first one that a restart cannot help, then one that it can; 0 if all are 0
#   LOST      ranks as a code: a worker has neither a run nor a code
run_code() {
  local answers states state
  ssh_command all 'tpu_scripts/run_host.sh state'
  answers=$(once "${ssh[@]}") || return 1
  states=" $(sed -n 's/^run: //p' <<< "$answers" | sort -u | tr '\n' ' ')"
  case "$states" in
    ' ') return 1 ;;
    ' NONE ') echo NONE; return ;;
    ' RUNNING ') echo RUNNING; return ;;
    *' RUNNING '*) echo ENDING; return ;;
  esac
  for state in $states; do
    [[ " 0 $preempted_code $failed_codes LOST NONE " == *" $state "* ]] || { echo "$state"; return; }
  done
  for state in $failed_codes LOST NONE "$preempted_code" 0; do
    if [[ $states == *" $state "* ]]; then echo "${state/NONE/LOST}"; return; fi
  done
}
failed_codes='134 137 139 135 1'  # aborted, killed (out of memory), bad memory, and Python's traceback: these may not happen again

# require_type: requires --type, and at most one of --spot, --reserved and --reservation
require_type() {
  local chosen=${spot:+ --spot}${reserved:+ --reserved}${reservation:+ --reservation}
  require type
  # shellcheck disable=SC2154
  [[ $type =~ ^(v|tpu)[0-9]+[a-z]*-[0-9]+$ ]] || fail "--type is \"$type\"; give an accelerator type, such as v4-128"
  [[ $chosen != *' --'*' --'* ]] || fail "give one of$chosen, not several"
}

# no_more "${rest[@]}": refuses arguments after --
no_more() { (($# == 0)) || fail "unexpected argument \"$1\"; see --help"; }
