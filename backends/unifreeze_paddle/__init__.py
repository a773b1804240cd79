"""The PaddlePaddle backend of unifreeze: one framework described in neutral terms."""

from unifreeze_paddle._backend import PaddleBackend

backend = PaddleBackend()

__all__ = ["PaddleBackend", "backend"]
