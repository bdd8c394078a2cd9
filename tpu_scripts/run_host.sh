#!/usr/bin/env bash
# Starts, checks and ends the run on one TPU host; launch.sh, status.sh and stop.sh call it on every worker.
#
#   tpu_scripts/run_host.sh start [--logs gs://BUCKET/FOLDER] -- atlas-jax train ...
#   tpu_scripts/run_host.sh state    prints "run: RUNNING", "run: NONE", "run: LOST" (gone without an exit code), or "run: CODE"
#   tpu_scripts/run_host.sh stop     asks the run to save its state and end (SIGTERM)
#   tpu_scripts/run_host.sh end      the same, then kills the run after a minute, and frees the TPU
#
# Every start has its own log, logs/TIME.log; run.log links to the newest. --logs copies it to the bucket every five minutes and at the
# end, before the exit code is written.
set -euo pipefail
cd "$(dirname "$0")/.."

devices=${TPU_DEVICES:-/dev/accel* /dev/vfio/*}         # v4 and before; v5e and later
lock_file=${LIBTPU_LOCK_FILE:-/tmp/libtpu_lockfile}
end_after_s=${END_AFTER_S:-60}
copy_every_s=${COPY_EVERY_S:-300}

fail() { echo "run_host.sh: $1" >&2; exit "${2:-2}"; }

# After a reboot, a process number may belong to another program.
is_running() { [[ -f run.pid && ! -f run.code ]] && is_ours "$(< run.pid)"; }
is_ours() {
  local words
  { mapfile -d '' -t words < "/proc/$1/cmdline"; } 2> /dev/null && [[ "${words[*]} " == *run_host.sh\ @(attend|start)\ * ]]
}

state() {
  if [[ -f run.code ]]; then echo "run: $(< run.code)"
  elif is_running; then echo 'run: RUNNING'
  elif [[ -f run.pid ]]; then echo 'run: LOST'
  else echo 'run: NONE'; fi
}

start() {
  local logs='' log
  if [[ ${1:-} == --logs ]]; then logs=${2:?}; shift 2; fi
  [[ ${1:-} == -- && $# -gt 1 ]] || fail 'start: no command to run; give it after --'
  shift
  if is_running; then echo 'a run is in progress'; return; fi
  mkdir -p logs
  log=logs/$(date -u +%Y%m%dT%H%M%SZ).log
  while [[ -e $log ]]; do log=${log%.log}_.log; done  # two starts within a second
  : > "$log"
  ln -sfn "$log" run.log
  rm -f run.code run.command.pid
  printf '%s\0' "$@" | cksum > run.command
  nohup setsid "$PWD/tpu_scripts/run_host.sh" attend "$log" "$logs" "$@" > /dev/null 2>&1 < /dev/null &
  echo $! > run.pid
}

# attend LOG LOGS COMMAND...: runs the command, and writes its exit code when it ends.
attend() {
  local log=$1 logs=$2 code=0 copier=''; shift 2
  # shellcheck disable=SC1091
  if [[ -f .venv/bin/activate ]]; then . .venv/bin/activate; fi
  "$@" > "$log" 2>&1 &
  echo $! > run.command.pid
  if [[ $logs ]]; then
    while sleep "$copy_every_s"; do copy_log "$log" "$logs"; done &
    copier=$!
  fi
  wait "$(< run.command.pid)" || code=$?
  if [[ $copier ]]; then kill "$copier"; fi
  copy_log "$log" "$logs"
  # Written last: this file means that the run has ended.
  echo "$code" > run.code.new
  mv run.code.new run.code
}

copy_log() {
  [[ ! $2 ]] || timeout 120 gcloud storage cp "$1" "${2%/}/$(hostname)-$(basename "$1")" > /dev/null 2>&1 || true
}

stop() {
  if is_running; then kill -TERM "$(cat run.command.pid)" 2> /dev/null || true; fi
}

as_root() { if ((EUID)) && command -v sudo > /dev/null; then sudo -n "$@"; else "$@"; fi; }

# holders: all processes that have the TPU or libtpu's lock open.
holders() {
  local tests=(-lname "$lock_file") device
  for device in $devices; do tests+=(-o -lname "$device"); done
  as_root find /proc/[0-9]*/fd \( "${tests[@]}" \) 2> /dev/null | cut -d / -f 3 | sort -u || true
}

end() {
  local waited=0 pid
  stop
  while is_running && ((waited++ < end_after_s * 10)); do sleep 0.1; done
  if is_running; then
    echo "the run has not ended within $end_after_s s; killing it"
    kill -KILL -- "-$(< run.pid)" 2> /dev/null || true
  fi
  for pid in $(holders); do
    echo "process $pid holds the TPU; killing it"
    as_root kill -KILL "$pid" 2> /dev/null || true
  done
  # libtpu refuses to start while this file exists, even if its process is dead.
  if [[ -e $lock_file ]]; then as_root rm -f "$lock_file"; fi
  rm -f run.pid run.code run.command run.command.pid
}

case "${1:-}" in
  start | attend | state | stop | end) "$@" ;;
  -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' tpu_scripts/run_host.sh ;;
  *) fail "\"${1:-}\" is not one of start, state, stop, end; see --help" ;;
esac
