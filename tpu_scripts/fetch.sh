#!/usr/bin/env bash
# Fetches a file or folder from worker 0.
#
#   tpu_scripts/fetch.sh --name POD --zone ZONE --from results.jsonl --to results [--dry-run]
#
# --from is relative to the checkout on the worker. Fetch from a bucket with: gcloud storage cp --recursive gs://... .
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

from='' to=''
parse_options 'from to' '' "$@"
no_more "${rest[@]}"
require_folder from
require to
if [[ ! $dry_run ]]; then mkdir -p "$to"; fi
copy 0 "$name:$remote_dir/$from" "$to" --recurse
