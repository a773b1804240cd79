"""The toynet backend of unifreeze: what the author of a third framework writes."""

from unifreeze_toynet.backend import ToynetBackend

backend = ToynetBackend()

__all__ = ["ToynetBackend", "backend"]
