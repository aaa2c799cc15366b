"""Where to put the steps, and what they cost."""
