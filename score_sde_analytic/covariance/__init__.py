"""What a reverse step adds to its mean."""
