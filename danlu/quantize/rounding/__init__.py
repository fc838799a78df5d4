"""From dense weights to codes: rounding to nearest, code books, GPTQ, AWQ."""
