#!/usr/bin/env bash
# Gives the pod back, with all that lies on its disks.
#
#   tpu_scripts/tear_down.sh --name POD --zone ZONE [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

parse_options '' "$@"
retried gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
