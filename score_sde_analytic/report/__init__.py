"""Pictures of curves, variances, bounds and samples; the HTML page of a comparison of solvers."""
