"""Where measured numbers come from."""
