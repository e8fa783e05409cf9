"""The files of one run: their names, which belong together, and which may go."""
