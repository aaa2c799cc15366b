"""Pictures of curves, variances, bounds and samples."""
