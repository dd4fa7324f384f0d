"""Plots: a tidy frame in, a plot out."""
