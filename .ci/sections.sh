# Sections of .ci/run, which sources this: each has a deadline, all together have CI_BUDGET seconds, and nothing that they start outlives them.
#   section NAME SECONDS FUNCTION    runs a function of the script, in a process of its own
#   begin LOG NAME SECONDS FUNCTION  the same beside what follows, its output kept in $work/LOG.log
#   ended LOG                        waits for it and prints the log
# At the end, however it comes, the seconds of each section are printed and .ci/last_run.json is written. Sourced in the checkout.

root=$PWD
work=$(mktemp -d)
export root work
ci_budget=${CI_BUDGET:-4200}
current=             # the process of the section that runs
declare -A begun=()  # the processes of those that run beside it, by log

finish() {
  local code=$?
  trap '' TERM INT HUP
  # Each ends all that it has started before it ends itself.
  kill $current "${begun[@]}" 2> /dev/null || true
  wait
  touch "$work/sections.jsonl"
  exec 3< "$work/sections.jsonl"
  cd "$root"
  rm -rf "$work"  # takes many seconds, so before the last lines: nobody waits behind them
  [[ $code == 0 ]] || printf '\n.ci/run has FAILED (%s)\n' "$code"
  python3 "$root/.ci/last_run.py" "$root" "$SECONDS" "$code" <&3 || true
  [[ -z ${summary:-} ]] || echo "$summary"
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

watched() { # NAME SECONDS FUNCTION [OPTIONS...]: becomes the process that runs it
  local left=$((ci_budget - SECONDS))
  exec python3 "$root/.ci/watched.py" --name "$1" --seconds "$(($2 < left ? $2 : left > 0 ? left : 1))" --record "$work/sections.jsonl" \
    --logs "$work" "${@:4}" -- bash -euo pipefail -c "$3"
}

section() {
  printf '\n== %s (%s s, %s free)\n' "$1" "$SECONDS" "$(df -h --output=avail "$work" | tail -n 1 | tr -d ' ')"
  export -f "${3?}"
  watched "$@" &
  current=$!
  wait "$current" || exit 1
  current=
}

begin() {
  export -f "${4?}"
  watched "${@:2}" --log "$work/$1.log" &
  begun[$1]=$!
}

ended() {
  local code=0
  wait "${begun[$1]}" || code=$?
  unset "begun[$1]"
  cat "$work/$1.log"
  [[ $code == 0 ]] || exit 1
}
