"""Answers as text for a terminal: the verdict, a table, a line on each caution."""
