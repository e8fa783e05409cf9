"""Which program takes a file."""
