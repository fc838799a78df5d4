"""Adapters wrap linear layers of a base; they never re-declare it."""
