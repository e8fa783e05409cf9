"""Run a policy file, without torch."""
