"""A run over time: what each GPU did and when."""
