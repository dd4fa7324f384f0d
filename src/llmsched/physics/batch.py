"""A batch that runs to its end, timed as the sum of its steps."""
