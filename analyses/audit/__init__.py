"""The audit of a new smoothing layer: whether it does what blurs do."""
