"""One run on each level: whole batches, and iterations."""
