"""One network of home-made layers, written in each framework with other names and orders.

Both are read with whatever is taught of their classes; untaught, nothing in them is a layer.
"""
