"""Where a training step's bytes go, at any size, without allocating them."""
