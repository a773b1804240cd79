"""Carry a ResNet's weights over from torchvision to paddle.vision, with no table of names."""

import numpy as np
import paddle
import torch
from paddle.vision.models import resnet18 as paddle_resnet18
from torchvision.models import resnet18

import unifreeze as uf

images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype("float32")
source, target = resnet18(num_classes=5), paddle_resnet18(num_classes=5)

pairing = uf.pair(source, target, batch=images)
print(str(pairing).splitlines()[0])
print(uf.port_weights(source, target, pairing=pairing).tensors, "tensors carried over")

source.double().eval(), target.to(dtype="float64").eval()  # else rounding would tell them apart
one = source(torch.tensor(images).double()).detach().numpy()
other = target(paddle.to_tensor(images, dtype="float64")).numpy()
print("outputs equal:", np.allclose(one, other, rtol=1e-9))
