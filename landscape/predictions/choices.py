"""What the command line offers to choose from: read before any numerics are imported."""

SIZES = (1, 2, 3, 4, 5, 10, 20, 30, 50)
# Choices of passes that a curve averages over.
RESAMPLES = 10
