#!/usr/bin/env bash
# Judges words for towers and experts on models of PaddleFormers, pairs transformers with
# PaddleFormers, each in an environment of its own, and writes
# docs/en/pairs-formers.md. PaddleFormers is PaddleNLP's successor; it needs transformers 5 and hides
# PyTorch from it, so it gets an environment that has no PyTorch at all.
#   ci/formers.sh [FOLDER]   where that environment goes; .venv-formers by default
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv-formers}
if [ ! -x "$folder/bin/python" ]; then
  "${PYTHON:-python3}" -m venv "$folder"
  "$folder/bin/pip" install --quiet --upgrade pip
  "$folder/bin/pip" install --quiet paddleformers==1.2.0 paddlepaddle==3.3.1 -e '.[cli]'
fi
PYTHONPATH="$PWD:$PWD/backends" "$folder/bin/python" -W ignore -m tests.support.pairs.formers_words
python -m tests.support.pairs.formers "$folder/bin/python"
