"""Step time from a data sheet and a model shape, with constants fitted to real servers."""
