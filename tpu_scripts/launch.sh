#!/usr/bin/env bash
# Starts one command on every worker of a pod and returns; the run continues after you log off. logs.sh follows it, status.sh tells its
# state.
#
#   tpu_scripts/launch.sh --name POD --zone ZONE [--logs gs://BUCKET/logs] [--replace] [--slices N] [--dry-run] \
#       -- atlas-jax train --gin_file runs/nq_64_shot.gin --gin.RUN_DIR='"gs://my-bucket/run"'
#
# The same command continues from the run's last checkpoint. A run in progress is not started twice. --replace ends it first on every
# worker, with all other processes that hold the TPU. Every launch has its own log, logs/TIME.log on each worker; --logs copies it to a
# bucket every five minutes and at the end.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

logs='' replace=''
parse_options 'logs' 'replace' "$@"
require_command "${rest[@]}"
if [[ $logs ]]; then require_bucket_path logs; fi
printf -v command ' %q' "${rest[@]}"
# Two calls: the first returns when the run has ended on all workers. A worker that starts earlier would meet the old run.
if [[ $replace ]]; then on_workers all 'tpu_scripts/run_host.sh end'; fi
on_workers all "tpu_scripts/run_host.sh start${logs:+ --logs $logs} --$command"
