"""What the command line offers to choose from: read before any numerics are imported."""

# Of a band, units of pi.
WIDTH = 0.1
