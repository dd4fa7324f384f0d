"""Synthetic workloads: profiles, and what draws requests from them."""
