#!/usr/bin/env bash
# Brings data to every worker of a pod: copies a folder of a bucket, or mounts the bucket.
#
#   tpu_scripts/data.sh --name POD --zone ZONE --from gs://BUCKET/atlas/nq --to data/nq [--dry-run]
#   tpu_scripts/data.sh --name POD --zone ZONE --mount BUCKET --to bucket [--dry-run]
#
# Run folders and models need a mounted bucket or a disk; stores and indexes are also read and written in place, as gs:// paths.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

from='' mount='' to=''
parse_options 'from mount to' "$@"
require to
if [[ ($from && $mount) || ! ($from || $mount) ]]; then fail 'give either --from gs://... or --mount BUCKET'; fi
if [[ $from ]]; then
  [[ $from == gs://* ]] || fail "--from is \"$from\"; it must be a path like gs://bucket/folder"
  on_workers all "mkdir -p $remote_dir/$to && gcloud storage rsync --recursive $from $remote_dir/$to"
else
  on_workers all "command -v gcsfuse > /dev/null || { echo 'gcsfuse is not installed on the worker' >&2; exit 1; };
    mkdir -p $remote_dir/$to && { mountpoint -q $remote_dir/$to || gcsfuse --implicit-dirs $mount $remote_dir/$to; }"
fi
