"""Quantization that watches the model at work: block by block, on calibration text."""
