"""The evidence: parity of two runs, and the same training step on two ports."""
