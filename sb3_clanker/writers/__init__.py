"""An actor as bytes, one file for each format."""
