"""Two ports of one network: which tensor is which, weight files, weights carried over."""
