"""Quantized weights: what they are, how they are made, computed with, read and written."""
