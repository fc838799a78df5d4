"""One file per format of quantized checkpoints; a format is discovered by its file name."""
