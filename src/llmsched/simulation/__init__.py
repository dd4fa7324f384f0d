"""One scenario, or many on equal terms."""
