"""Two policies beside each other: what their records say, how they act, and what that is worth."""
