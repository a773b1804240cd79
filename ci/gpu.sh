#!/usr/bin/env bash
# Parity on a GPU. Each framework runs on the GPU where it can; Paddle's usual package computes on
# the CPU alone, and then its record from the CPU is compared with PyTorch's from the GPU.
#   ci/gpu.sh [FOLDER]   where the records go; runs/gpu by default
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu}
mkdir -p "$out"

devices() { python -m unifreeze backends --json - | python -c "
import json, sys
rows = {row['name']: row['devices'] for row in json.load(sys.stdin)}
print('gpu' if 'gpu' in rows.get('$1', []) else 'cpu')"; }

torch=$(devices torch)
paddle=$(devices paddle)
if [ "$torch" = cpu ] && [ "$paddle" = cpu ]; then
  echo "skipped: neither torch nor paddle sees a GPU here"
  exit 0
fi
echo "torch on $torch, paddle on $paddle"
python -m pytest -m gpu -q

check() {  # name, plan, torch model, paddle model, batch options
  local name=$1 plan=$2 one=$3 other=$4
  shift 4
  python -m unifreeze record "$plan" "$one" -o "$out/$name-torch.json" --device "torch=$torch" "$@"
  python -m unifreeze record "$plan" "$other" -o "$out/$name-paddle.json" --device "paddle=$paddle" "$@"
  python -m unifreeze compare "$out/$name-torch.json" "$out/$name-paddle.json" --json "$out/$name.json"
}

check resnet examples/resnet/head_and_last_stage.yaml \
  examples.resnet.models:torch_resnet50 examples.resnet.models:paddle_resnet50 \
  --batch 'float32[4,3,64,64]'
check ernie examples/ernie/top_two_blocks.yaml \
  examples.ernie.models:torch_ernie examples.ernie.models:paddle_ernie \
  --batch 'input_ids=int64[2,32]<1:40000>' --batch 'attention_mask=int64[2,32]<1:2>' \
  --batch 'token_type_ids=int64[2,32]<0:2>'
echo "records in $out"
