"""Plans in the trainers of PyTorch: each a thin adapter around one handle."""
