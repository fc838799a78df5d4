"""Which rows are seen when: sides, mixtures, passes, streams."""
