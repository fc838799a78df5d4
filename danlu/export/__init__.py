"""A model written for other tools: as an architecture or a file format that they open.

`danlu.export.targets` holds one file for each target; `danlu.export.target` is what they share.
"""
