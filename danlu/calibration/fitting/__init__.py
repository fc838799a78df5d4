"""A budget shared out among the layers of a model: candidates, their errors, and the choice."""
