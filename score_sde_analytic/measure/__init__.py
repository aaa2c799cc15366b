"""What one Monte Carlo pass finds: moments, curves, and residuals in a basis."""
