"""Latency models fitted to grids of measurements."""
