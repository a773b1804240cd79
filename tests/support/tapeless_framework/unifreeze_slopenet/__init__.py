"""The slopenet backend of unifreeze: for a framework without a tape."""

from unifreeze_slopenet.backend import SlopenetBackend

backend = SlopenetBackend()

__all__ = ["SlopenetBackend", "backend"]
