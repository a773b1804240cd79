"""`python -m unifreeze` is the same program as `unifreeze`."""

from unifreeze.cli import main

main()
