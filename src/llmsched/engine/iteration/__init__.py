"""The iteration-level engine: requests join and leave at every step."""
