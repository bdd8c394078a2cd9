#!/usr/bin/env bash
# Mounts a bucket on one TPU host, and installs gcsfuse for it if it must; data.sh calls it on every worker.
#
#   tpu_scripts/mount_host.sh BUCKET FOLDER [--dry-run]
#
# On a TPU host gcsfuse's own defaults remember metadata for ever and rename folders file by file. Both would break checkpoints: the workers
# look for one another's files, and a checkpoint is committed by renaming its folder. So nothing is remembered, and folders are renamed in
# one step or not at all.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "mount_host.sh: $1" >&2; exit "${2:-2}"; }
run() { if [[ $dry_run ]]; then printf '%q ' "$@"; echo; else "$@"; fi; }

if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' tpu_scripts/mount_host.sh; exit 0; fi
dry_run=''
case "${3:-}" in
  '') ;;
  --dry-run) dry_run=1 ;;
  *) fail "unknown option $3; the only one is --dry-run" ;;
esac
[[ ${1:-} && ${2:-} && $1 != -* && $2 != -* && $# -le 3 ]] ||
  fail 'give the name of a bucket and a folder, as: mount_host.sh my-bucket bucket'
bucket=$1 folder=$2
gcsfuse_major=3  # the first whose advice for checkpoints holds

has_gcsfuse() { [[ $(gcsfuse --version 2>&1) =~ version\ v?([0-9]+) ]] && ((BASH_REMATCH[1] >= gcsfuse_major)); }

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc apt=(sudo apt-get -o DPkg::Lock::Timeout=300) codename
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  # apt checks the packages against this key.
  run sudo curl -fsSL --retry 5 -o "$key" https://packages.cloud.google.com/apt/doc/apt-key.gpg
  run sudo bash -c "echo 'deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$codename main' \
    > /etc/apt/sources.list.d/gcsfuse.list"
  run "${apt[@]}" update
  run "${apt[@]}" install -y "gcsfuse=$gcsfuse_major.*"
}

if mountpoint -q "$folder"; then
  [[ $(findmnt -no SOURCE "$folder") == "$bucket" ]] || fail "$folder: something else is mounted there; give another folder" 1
else
  has_gcsfuse || install_gcsfuse || fail 'gcsfuse could not be installed (above)' 1
  run mkdir -p "$folder"
  run gcsfuse --implicit-dirs --metadata-cache-ttl-secs 0 --metadata-cache-negative-ttl-secs 0 --rename-dir-limit 0 \
    "$bucket" "$folder" ||
    fail "$bucket: cannot be mounted (above); check the name and that the pod's service account may use it" 1
fi
# Now, and not at the first checkpoint.
probe=$folder/.atlas_jax_$(hostname)_$$
if [[ ! $dry_run ]] && ! { echo > "$probe" && rm "$probe"; } 2> /dev/null; then
  fail "$bucket: cannot be written; give the pod's service account the role roles/storage.objectUser on it" 1
fi
