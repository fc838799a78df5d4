"""Training: one loop; objective, data source and trainable weights are what differs."""
