"""Random sequences of plans on overlapping targets, and a plain model of what they must do."""
