#!/usr/bin/env bash
# Sets up one TPU host: a virtual environment in .venv with atlas_jax for TPU, then a look at the devices.
#
#   tpu_scripts/set_up_host.sh [--dry-run]
#
# Run it in a checkout on the TPU VM; Python 3.11 to 3.13. Afterwards: . .venv/bin/activate && atlas-jax train ...
set -euo pipefail
cd "$(dirname "$0")/.."

run() { if [[ "${dry_run:-}" ]]; then printf '%q ' "$@"; echo; else "$@"; fi; }

case "${1:-}" in
  '') ;;
  --dry-run) dry_run=1 ;;
  *) echo "set_up_host.sh: unknown option $1; the only one is --dry-run" >&2; exit 2 ;;
esac

run python3 -m venv .venv
run .venv/bin/python -m pip install '.[tpu]'
run .venv/bin/python -c 'import jax; print(jax.device_count(), "devices:", jax.devices()[0].device_kind)'
