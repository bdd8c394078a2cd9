#!/usr/bin/env bash
# Asks the run to save its state and stop (SIGTERM, on every worker).
#
#   tpu_scripts/stop.sh --name POD --zone ZONE [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

parse_options '' "$@"
# setsid made the runner the leader of its own group; its shell must outlive the command to write the exit code.
on_workers all "cd $remote_dir && pkill -TERM --parent \"\$(cat run.pid)\" || true"
