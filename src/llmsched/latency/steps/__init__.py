"""How long one step takes: layer tables, the two-regime form, and their files."""
