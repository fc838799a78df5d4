"""Blocks that decoders are assembled from. Plain modules: no parallelism, no family, no options."""
