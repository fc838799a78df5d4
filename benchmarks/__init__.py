"""Measurements of speed and memory beside the stock tools; see README.md in this folder."""
