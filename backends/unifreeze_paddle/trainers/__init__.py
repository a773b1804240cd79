"""Plans in the trainers of PaddlePaddle: each a thin adapter around one handle."""
