#!/usr/bin/env bash
# Sets up one TPU host: a virtual environment in .venv with atlas_jax for TPU. Then it checks the devices.
#
#   tpu_scripts/set_up_host.sh [--dry-run]
#
# Run it in a checkout on the TPU VM. Afterwards: . .venv/bin/activate && atlas-jax train ...
#
# The default image has Python 3.10 and no venv; atlas_jax needs 3.11. Python comes from uv, at fixed versions: pip compares uv with the
# checksum below, and uv compares Python. (The deadsnakes archive needs root, waits for a new VM's updates, and has only the newest patch
# version.)
set -euo pipefail
cd "$(dirname "$0")/.."

uv_version=0.13.8
uv_sha256=${UV_SHA256:-e18a57b8b352eb7c8feb317b9f6f533c8f0ad9673fd6cf34bbe3cf1a9f6a8984}  # of the wheel for Linux on x86-64
python_version=3.12.16
device_limit_s=${DEVICE_LIMIT_S:-300}

fail() { echo "set_up_host.sh: $1" >&2; exit "${2:-2}"; }
run() { if [[ $dry_run ]]; then printf '%q ' "$@"; echo; else "$@"; fi; }

dry_run=''
case "${1:-}" in
  '') ;;
  --dry-run) dry_run=1 ;;
  -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' tpu_scripts/set_up_host.sh; exit 0 ;;
  *) fail "unknown option $1; the only one is --dry-run" ;;
esac

as_root() { if ((EUID)); then sudo -n "$@"; else "$@"; fi; }

if [[ $(tpu_scripts/run_host.sh state) == 'run: RUNNING' ]]; then fail 'a run is in progress here; stop it first (tpu_scripts/stop.sh)'; fi
# An earlier try may have been interrupted while it checked the devices.
run tpu_scripts/run_host.sh end
# Or it may still be installing: a call that the caller gave up continues here.
if [[ ! $dry_run ]]; then
  exec 9> .set_up.lock
  flock -w "${LOCK_WAIT_S:-300}" 9 || fail 'an earlier set_up is still installing; run the same command again in a minute' 1
fi

uv=.uv/$uv_version/bin/uv
if [[ ! -x $uv || $dry_run ]]; then
  [[ $dry_run ]] || python3 -m pip --version > /dev/null 2>&1 || run as_root apt-get -o DPkg::Lock::Timeout=300 install -y python3-pip ||
    fail 'pip cannot be installed' 1
  # pip accepts checksums only from a file.
  run python3 -m pip install --quiet --target ".uv/$uv_version" --only-binary :all: --require-hashes -r /dev/stdin \
    <<< "uv==$uv_version --hash=sha256:$uv_sha256" ||
    fail 'uv was not installed (above); a host without an external address needs Cloud NAT' 1
fi
run "$uv" venv --clear --managed-python --python "$python_version" .venv
run "$uv" pip install --python .venv/bin/python '.[tpu,gcs]'
run timeout --kill-after=10 "$device_limit_s" .venv/bin/python -c \
  'import jax; print(jax.device_count(), "devices:", jax.devices()[0].device_kind)' ||
  fail "the TPU does not answer within $device_limit_s s; all workers of a slice must be set up at the same time" 1
