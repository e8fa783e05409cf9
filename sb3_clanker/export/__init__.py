"""Options in, proven files out."""
