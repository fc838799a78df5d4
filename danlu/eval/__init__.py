"""Measurements of models: perplexity, comparison of two, exact answers, speed."""
