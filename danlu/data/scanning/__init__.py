"""Contamination: evaluation items found in training data."""
