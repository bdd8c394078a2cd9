#!/usr/bin/env bash
# Copies a folder of a bucket to every worker of a pod.
#
#   tpu_scripts/data.sh --name POD --zone ZONE --from gs://BUCKET/t5-xxl --to t5-xxl [--slices N] [--dry-run]
#
# Run folders, stores, indexes and files of questions need no copy: they are read and written in place, as gs:// paths. Hugging Face models
# and other kinds must be copied.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

from='' to=''
parse_options 'from to' '' "$@"
no_more "${rest[@]}"
require_folder to
require from
require_bucket_path from
on_workers all "mkdir -p $to && gcloud storage rsync --recursive $from $to"
