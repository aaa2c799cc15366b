"""Networks as score models, mixtures with exact scores, and the probability flow of either."""
