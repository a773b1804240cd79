"""Random hostile input for everything that reads files, text or arguments.

    python -m tests.support.fuzz --seconds 60

`samples.py` writes one good file of each format, `mutations.py` spoils them, `targets.py` says what
reads them, `__main__.py` runs all of it with limits on time and memory.
"""
