"""Typed configs: models <-> YAML <-> flags. Imports no torch."""
