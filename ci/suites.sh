#!/usr/bin/env bash
# Trains the recipes of examples/suites for two steps each, with the suites as their wheels ship them.
#   ci/suites.sh [SECONDS [FOLDER]]   for at most 360 seconds, installing included; .venv-zoo by default
set -euo pipefail
cd "$(dirname "$0")/.."
budget=${1:-360} folder=$(realpath -m "${2:-.venv-zoo}")
ci/zoo_packages.sh "$folder" suites
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
PYTHONPATH="$PWD:$PWD/backends${PYTHONPATH:+:$PYTHONPATH}" \
  python -W ignore -m tests.support.suites --packages "$folder" --budget "$((budget - SECONDS))"
