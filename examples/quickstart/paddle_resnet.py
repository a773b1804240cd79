"""The same in PaddlePaddle: the same plan, the same numbers."""

import paddle
from paddle.vision.models import resnet50

import unifreeze as uf

model = resnet50()
plan = uf.FreezePlan().only("head | stages[-1]").freeze("norm")
print(plan.resolve(model))

handle = plan.apply(model)
optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=1e-3, weight_decay=0.01)
for _ in range(2):
    model.train()
    model(paddle.randn([4, 3, 64, 64])).square().mean().backward()
    optimizer.step()
    optimizer.clear_grad()

print(handle)
print(handle.verify())
