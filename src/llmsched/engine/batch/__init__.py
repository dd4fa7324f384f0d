"""Batch level: a batch holds its GPU until its longest member ends."""
