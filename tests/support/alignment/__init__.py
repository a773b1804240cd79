"""Porting errors for the acceptance report, and the checks that the field uses."""
