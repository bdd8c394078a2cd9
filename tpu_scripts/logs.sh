#!/usr/bin/env bash
# Follows the run's output, by default on worker 0. The logs of earlier launches are in logs/ (fetch.sh --from logs).
#
#   tpu_scripts/logs.sh --name POD --zone ZONE [--worker 3] [--lines 100] [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

worker=0 lines=100
parse_options 'worker lines' '' "$@"
no_more "${rest[@]}"
require_number worker 0
require_number lines 1
ssh_command "$worker" "tail -n $lines -F run.log"
if [[ $dry_run ]]; then show "${ssh[@]}"; else exec "${ssh[@]}"; fi
