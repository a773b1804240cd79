"""Asks for a plan by the field's rules of thumb, and prints it with its reasons."""

from torchvision.models import resnet18

import unifreeze as uf

model = resnet18(num_classes=5)
print(uf.suggest(model, examples=2000, similarity="similar", new_head=True))
