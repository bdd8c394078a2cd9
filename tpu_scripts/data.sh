#!/usr/bin/env bash
# Brings data to every worker of a pod: copies a folder of a bucket, or mounts the bucket.
#
#   tpu_scripts/data.sh --name POD --zone ZONE --from gs://BUCKET/atlas/nq --to data/nq [--slices N] [--dry-run]
#   tpu_scripts/data.sh --name POD --zone ZONE --mount BUCKET --to bucket [--slices N] [--dry-run]
#
# Run folders need a mounted bucket. Its hierarchical namespace must be on: a checkpoint is committed by renaming a folder, in one step.
# Stores and indexes are also read and written in place, as gs:// paths.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

from='' mount='' to=''
parse_options 'from mount to' '' "$@"
no_more "${rest[@]}"
require_folder to
if [[ ($from && $mount) || ! ($from || $mount) ]]; then fail 'give either --from gs://... or --mount BUCKET'; fi
if [[ $from ]]; then
  require_bucket_path from
  on_workers all "mkdir -p $to && gcloud storage rsync --recursive $from $to"
else
  mount=${mount#gs://}
  [[ $mount =~ ^[a-z0-9][a-z0-9._-]+$ ]] || fail "--mount is \"$mount\"; give the name of a bucket"
  require_folder_renames "$mount"
  on_workers all "tpu_scripts/mount_host.sh $mount $to"
fi
