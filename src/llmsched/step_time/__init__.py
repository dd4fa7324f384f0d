"""How long one forward pass takes: two regimes, layer tables, and files of both."""
