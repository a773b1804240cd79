"""Every wrapper, trainer, compiler, quantiser and optimizer against all that a plan may do there.

python -m tests.support.matrix                 fill every cell, and write docs/en/wrappers.md again
python -m tests.support.matrix --only NAME     the same for the rows with this in their name
python -m tests.support.matrix --framework F   the same for the rows of PyTorch or of Paddle

To add a row: make a `Kit` (`columns.py`), and put it into a table of rows (`torch_rows.py`,
`paddle_rows.py`). Where a row does something in another way, give it a function for that column.
"""
