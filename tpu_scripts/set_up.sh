#!/usr/bin/env bash
# Sets up every worker of a pod: copies the package, gin files and scripts of this checkout and installs them for TPU.
#
#   tpu_scripts/set_up.sh --name POD --zone ZONE [--slices N] [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=_pod.sh
. "$(dirname "$0")/_pod.sh"

parse_options '' '' "$@"
no_more "${rest[@]}"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
archive=$folder/atlas_jax.tar.gz
tar -C "$repository" --exclude=__pycache__ -czf "$archive" atlas_jax gin_configs tpu_scripts setup.py README.md LICENSE
copy all "$archive" "$name:atlas_jax.tar.gz"
checkout=$remote_dir remote_dir=.  # it does not exist yet
on_workers all "mkdir -p $checkout && tar -xzf atlas_jax.tar.gz -C $checkout && $checkout/tpu_scripts/set_up_host.sh"
