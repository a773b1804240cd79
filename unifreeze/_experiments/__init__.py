"""Seeded runs on a live model: probe, step, sketch, measure. Everything is put back after each."""
