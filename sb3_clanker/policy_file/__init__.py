"""What a policy file says: its bytes and its record."""
