"""The forward process, its exact reverse, and the last step."""
