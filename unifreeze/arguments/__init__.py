"""What public functions are called with: checked as they begin, and refused with the cure."""

from unifreeze.arguments.cures import in_words
from unifreeze.arguments.door import checked, checked_methods

__all__ = ["checked", "checked_methods", "in_words"]
