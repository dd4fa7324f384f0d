"""Trace files, one module per kind."""
