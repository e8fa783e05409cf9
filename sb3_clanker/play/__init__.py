"""A policy in its environment: rebuilt from the record, and played on seeds."""
