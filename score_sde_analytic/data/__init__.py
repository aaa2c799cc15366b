"""Declared ranges, statistics of data, and readers."""
