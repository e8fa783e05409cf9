"""C99: a proven graph as one header, for what has no runtime."""
