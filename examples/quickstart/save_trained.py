"""What was trained as a file of its own, and onto which models it goes."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torchvision.models import resnet18

import unifreeze as uf

model = resnet18(num_classes=5)
pretrained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
handle = uf.FreezePlan().only("head").apply(model)
optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-3)
model(torch.randn(4, 3, 64, 64)).square().mean().backward()
optimizer.step()
print(handle.rates())

file = Path(tempfile.mkdtemp()) / "head.safetensors"
handle.save_trained(file)
print({name: list(tensor.shape) for name, tensor in load_file(file).items()})

fresh = resnet18(num_classes=5)
try:
    uf.load_trained(fresh, file)
except uf.UnifreezeError as error:
    print(error.fact.replace(str(file), file.name))
fresh.load_state_dict(pretrained)
print(uf.load_trained(fresh, file))
