"""What prompts share: block identities, and the tree that they make."""
