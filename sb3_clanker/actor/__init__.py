"""``predict`` as one torch module."""
