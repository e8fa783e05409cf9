"""The command line: the same from a shell."""
