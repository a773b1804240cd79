"""Libraries of models whose own account of their structure is held against the words of a plan."""
