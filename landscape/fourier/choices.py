"""What the command line offers to choose from: read before any numerics are imported."""

# Through the plane of frequencies: along the diagonal, as the authors' code goes, or averaged over rings.
PATHS = ("half_diagonal", "radial")
