"""Checking the arguments of public functions; a wrong one is refused with what to write instead."""

from unifreeze._arguments.checked import checked, checked_methods
from unifreeze._arguments.cures import in_words
