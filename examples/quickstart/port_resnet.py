"""Carry a ResNet's weights over from torchvision to paddle.vision, with no table of names."""

import numpy as np
import paddle
import torch
from paddle.vision.models import resnet18 as paddle_resnet18
from torchvision.models import resnet18

import unifreeze as uf

images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype("float32")
source, target = resnet18(num_classes=5).eval(), paddle_resnet18(num_classes=5)
target.eval()

pairing = uf.pair(source, target, batch=images)
print(str(pairing).splitlines()[0])
print(uf.port_weights(source, target, pairing=pairing).tensors, "tensors carried over")

one = source(torch.tensor(images)).detach().numpy()
print("outputs equal:", np.allclose(one, target(paddle.to_tensor(images)).numpy(), atol=1e-4))
