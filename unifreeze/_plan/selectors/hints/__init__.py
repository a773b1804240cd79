"""What was likely meant by a selector that does not parse, or matches nothing."""
