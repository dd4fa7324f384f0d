"""Timing a real model (torch): the only room that knows it."""
