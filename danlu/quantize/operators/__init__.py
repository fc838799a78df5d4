"""Products with quantized weights: one file per layout in memory."""
