"""Adapters in the format of PEFT: read and written, in the names of the published checkpoint."""
