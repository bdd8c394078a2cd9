#!/usr/bin/env bash
# Starts one command on every worker of a pod and returns; it goes on when you log off. logs.sh follows it, status.sh tells how it ended.
#
#   tpu_scripts/launch.sh --name POD --zone ZONE [--dry-run] -- atlas-jax train --gin_file runs/nq_64_shot.gin --gin.RUN_DIR='"bucket/run"'
#
# The same command given again goes on from the run's last checkpoint. A run that is going on already is not started twice.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

parse_options '' "$@"
((${#rest[@]})) || fail 'what is to run? give it after --, as: -- atlas-jax train --gin_file ...'
printf -v command '%q ' "${rest[@]}"
# The exit code is written last, so its being there means the run has ended.
printf -v runner '%q' ". .venv/bin/activate; ${command}> run.log 2>&1; echo \$? > run.code.new; mv run.code.new run.code"
on_workers all "cd $remote_dir && if [ -f run.pid ] && [ ! -f run.code ] && kill -0 \"\$(cat run.pid)\" 2> /dev/null; then
  echo 'a run is going on'; else rm -f run.code; nohup setsid bash -c $runner > /dev/null 2>&1 < /dev/null & echo \$! > run.pid; fi"
