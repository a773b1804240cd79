"""What public functions are called with: checked as they begin, and refused with the cure."""

from unifreeze._arguments.checked import checked, checked_methods
from unifreeze._arguments.cures import in_words

__all__ = ["checked", "checked_methods", "in_words"]
