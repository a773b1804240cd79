#!/usr/bin/env bash
# Judges the words of plans by what libraries of models say of their layers, and writes docs/en/zoo.md.
#   ci/zoo.sh [FOLDER]   where the libraries go; .venv-zoo by default
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv-zoo}
ci/zoo_packages.sh "$folder"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1
PYTHONPATH="$PWD:$PWD/backends:$folder${PYTHONPATH:+:$PYTHONPATH}" python -W ignore -m tests.support.zoos --write
python -W ignore -m tests.support.zoos.deepmd --packages "$folder/deepmd"
