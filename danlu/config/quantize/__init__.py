"""How models are quantized: schemes by method, the cache, and the run file of `danlu quantize`."""
