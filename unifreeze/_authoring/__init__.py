"""Where plans come from: captured from flags, suggested, compared."""
