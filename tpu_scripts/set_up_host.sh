#!/usr/bin/env bash
# Sets up one TPU host: a virtual environment in .venv with atlas_jax for TPU, then a look at the devices.
#
#   tpu_scripts/set_up_host.sh [--dry-run]
#
# Run it in a checkout on the TPU VM. Afterwards: . .venv/bin/activate && atlas-jax train ...
#
# The default image has Python 3.10 and no venv; atlas_jax needs 3.11. Python comes from uv, at fixed versions: uv's file is compared with
# the checksum below, and uv compares Python's. (The deadsnakes archive would need root, waits for the updates that a new VM makes, and has
# the newest patch only.) UV_URL and UV_SHA256 name another place for uv, UV_PYTHON_INSTALL_MIRROR and UV_INDEX_URL others for the rest.
set -euo pipefail
cd "$(dirname "$0")/.."

uv_version=@UV@
uv_url=${UV_URL:-@URL@}
uv_sha256=${UV_SHA256:-@SHA@}
python_version=@PY@
device_limit_s=${DEVICE_LIMIT_S:-300}

fail() { echo "set_up_host.sh: $1" >&2; exit "${2:-2}"; }
run() { if [[ $dry_run ]]; then printf '%q ' "$@"; echo; else "$@"; fi; }

dry_run=''
case "${1:-}" in
  '') ;;
  --dry-run) dry_run=1 ;;
  -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
  *) fail "unknown option $1; the only one is --dry-run" ;;
esac

if [[ $(tpu_scripts/run_host.sh state) == 'run: RUNNING' ]]; then fail 'a run is going on here; stop it first (tpu_scripts/stop.sh)'; fi
# An earlier try may have been cut off while it looked at the devices.
run tpu_scripts/run_host.sh end

uv=.uv/$uv_version/uv
if [[ ! -x $uv || $dry_run ]]; then
  run mkdir -p .uv/"$uv_version"
  run curl -fsSL --retry 5 -o .uv/uv.whl "$uv_url" || fail "uv cannot be fetched from $uv_url; a host without an external address needs Cloud NAT" 1
  if [[ ! $dry_run ]]; then
    sha256sum --check --status <<< "$uv_sha256  .uv/uv.whl" || fail "$uv_url: not the file that was expected (SHA-256); nothing was installed" 1
  fi
  run python3 -m zipfile -e .uv/uv.whl .uv/wheel
  run chmod +x ".uv/wheel/uv-$uv_version.data/scripts/uv"
  run mv ".uv/wheel/uv-$uv_version.data/scripts/uv" "$uv"
fi
run "$uv" venv --clear --managed-python --python "$python_version" .venv
run "$uv" pip install --python .venv/bin/python '.[tpu]'
run timeout --kill-after=10 "$device_limit_s" .venv/bin/python -c 'import jax; print(jax.device_count(), "devices:", jax.devices()[0].device_kind)' ||
  fail "the TPU does not answer within $device_limit_s s; all workers of a slice must be set up at the same time" 1
