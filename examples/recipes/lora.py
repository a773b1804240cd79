"""LoRA on queries and values, through peft or PaddleNLP, and one plan for what trains beside it.

Run from the root of the repository: python -m examples.recipes.lora torch (or paddle)
"""

import re
import sys
from pathlib import Path

import numpy as np

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision

PLAN = uf.FreezePlan.load(Path(__file__).parent / "lora_with_frozen_norms.yaml")
ADAPTED = uf.FreezePlan().only("(query | value) & weight")
"""What is adapted: the same words find `query` in one framework, `q_proj` in the other."""
SIZES = {
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "type_vocab_size": 2,
}
WORDS = np.random.default_rng(0).integers(1, 99, (4, 12))


def layers(model):
    """Return the native names of the layers to adapt."""
    return [path.removesuffix(".weight") for path in ADAPTED.resolve(model).trainable_paths]


def in_torch():
    """Wrap a BERT, put the plan in force and train two steps."""
    import_torchvision()
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(**SIZES))
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=layers(model)))
    handle = PLAN.apply(wrapped)
    optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-3, weight_decay=0.01)
    for _ in range(2):
        wrapped.train()
        wrapped(torch.tensor(WORDS)).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return handle


def in_paddle():
    """Wrap a BERT, put the plan in force and train two steps."""
    import paddle
    from paddlenlp.peft import LoRAConfig, LoRAModel
    from paddlenlp.transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(**SIZES))
    patterns = [re.escape(name) for name in layers(model)]
    wrapped = LoRAModel(model, LoRAConfig(r=4, target_modules=patterns))
    handle = PLAN.apply(wrapped)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=1e-3, weight_decay=0.01)
    for _ in range(2):
        wrapped.train()
        wrapped(paddle.to_tensor(WORDS)).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    return handle


if __name__ == "__main__":
    if sys.argv[1:] not in (["torch"], ["paddle"]):
        sys.exit(__doc__)
    trained = {"torch": in_torch, "paddle": in_paddle}[sys.argv[1]]()
    print(trained)
    print(trained.verify())
