"""From files to batches: sources, encoding, packing, collating, sampling, and the ledger.

Import from the modules; `tiny_world` is a generated corpus that needs no files at all.
"""
