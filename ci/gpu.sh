#!/usr/bin/env bash
# The GPU run, on a machine that has PyTorch with CUDA: no Paddle, no network and no installation
# are needed, but what `make gpu-wheels` fetched into .gpu-wheels may be. See docs/en/gpu.md.
#   ci/gpu.sh [FOLDER]              where the records and the table go; runs/gpu by default
#   ci/gpu.sh [FOLDER] --rehearse   the same with the CPU in the GPU's place
#   ci/gpu.sh --bench               the GPU columns of docs/en/fine-tuning.md instead
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$(command -v python3 || command -v python)}
metadata=$(mktemp -d)
trap 'rm -rf "$metadata"' EXIT
found=$("$python" ci/gpu_wheels.py path "$metadata")
export PYTHONPATH="$found${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = --bench ]; then
  "$python" -W ignore benchmarks/fine_tuning.py --device cuda --rows 32 "${@:2}"
  exit
fi
export NVIDIA_TF32_OVERRIDE=0  # else products of float32 are computed with ten bits of precision
"$python" -W ignore ci/gpu.py "$@"
