"""The three-step stress plan."""
