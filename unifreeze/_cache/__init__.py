"""What the frozen part of a model computes is kept, so that it runs once for each row of data."""
