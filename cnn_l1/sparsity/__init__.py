"""Penalties, proximal optimizers, counting, thresholding, callbacks, targets."""
