"""Shipped plans; only the command line imports them."""
