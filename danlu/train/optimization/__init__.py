"""How weights are moved: optimizers, their states, rates and loss scales."""
