#!/usr/bin/env bash
# Sets up every worker of a pod: copies this checkout (what is committed) and installs it for TPU.
#
#   tpu_scripts/set_up.sh --name POD --zone ZONE [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

parse_options '' "$@"
archive=$(mktemp -t atlas_jax.XXXXXX.tar.gz)
trap 'rm -f "$archive"' EXIT
git -C "$repository" archive --format tar.gz --output "$archive" HEAD
retried gcloud compute tpus tpu-vm scp "$archive" "$name:atlas_jax.tar.gz" "${where[@]}" --worker all
on_workers all "mkdir -p $remote_dir && tar -xzf atlas_jax.tar.gz -C $remote_dir && $remote_dir/tpu_scripts/set_up_host.sh"
