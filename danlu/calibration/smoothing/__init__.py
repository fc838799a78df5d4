"""Shifting and smoothing: dense blocks are made fit for 8-bit activations, folded exactly."""
