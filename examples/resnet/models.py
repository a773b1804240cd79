"""ResNet-50 at full size in both frameworks, with seeded random weights."""

from __future__ import annotations

from typing import Any


def torch_resnet50(num_classes: int = 1000) -> Any:
    """Build torchvision's ResNet-50."""
    from examples.torchvision_on_cpu import import_torchvision

    return import_torchvision().models.resnet50(num_classes=num_classes)


def paddle_resnet50(num_classes: int = 1000) -> Any:
    """Build paddle.vision's ResNet-50."""
    from paddle.vision.models import resnet50

    return resnet50(num_classes=num_classes)
