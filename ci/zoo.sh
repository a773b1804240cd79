#!/usr/bin/env bash
# Judges the words of plans by what libraries of models say of their layers, and writes docs/en/zoo.md.
# timm, PaddleClas and deepmd-kit go into a folder of their own, beside the environment that runs this.
#   ci/zoo.sh [FOLDER]   where they go; .venv-zoo by default
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv-zoo}
if [ ! -e "$folder/.installed" ]; then
  # Without what they need: PyTorch, PaddlePaddle and the like are here, the rest is never called.
  python -m pip install --quiet --no-deps --upgrade --target "$folder" timm==1.0.31 paddleclas==2.6.0
  python -m pip install --quiet --no-deps --upgrade --target "$folder/deepmd" \
    deepmd-kit==3.2.0 array-api-compat==1.16.0 dargs==0.5.1 ml_dtypes==0.6.0
  touch "$folder/.installed"
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1
PYTHONPATH="$PWD:$PWD/backends:$folder${PYTHONPATH:+:$PYTHONPATH}" python -W ignore -m tests.support.zoos --write
python -W ignore -m tests.support.zoos.deepmd --packages "$folder/deepmd"
