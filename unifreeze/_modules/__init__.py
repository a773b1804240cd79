"""What backends over trees of modules share: the walk, flags, hooks, tracing, digests."""
