#!/usr/bin/env bash
# Asks the run to save its state and stop (SIGTERM, on every worker). The pod stays and costs; tear_down.sh deletes it.
#
#   tpu_scripts/stop.sh --name POD --zone ZONE [--slices N] [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

parse_options '' '' "$@"
no_more "${rest[@]}"
on_workers all 'tpu_scripts/run_host.sh stop'
