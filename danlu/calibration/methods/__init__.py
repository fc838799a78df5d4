"""One file per method of rounding; each gives a `METHOD`."""
