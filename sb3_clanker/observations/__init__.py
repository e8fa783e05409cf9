"""Observations as data: what training saw of them, and those of a file."""
