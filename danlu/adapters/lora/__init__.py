"""Low-rank updates: what they compute, and how they begin."""
