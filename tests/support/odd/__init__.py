"""One network whose structure is derived wrongly, in each framework with other names.

What is derived: its head is everything after the trunk, and no layer before the trunk is its stem
alone. What is meant: the head is the part called `odd` or `strange`, and each pair of layers in the
trunk is a block.
"""
