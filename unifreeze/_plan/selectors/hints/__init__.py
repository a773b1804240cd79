"""What was probably meant by a selector that does not parse or matches nothing."""
