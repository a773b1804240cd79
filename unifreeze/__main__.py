"""`python -m unifreeze` is the same program as `unifreeze`."""

from unifreeze._cli import main

main()
