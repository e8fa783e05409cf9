"""The policy card: one page that a person looks at, to know what a policy is, how good, and what it has never seen."""
