"""Guldogan et al., "Multi-Bin Batching", arXiv:2412.04504: its figures, redone by simulation.

Each figure is a study (what to run) and a result (a tidy table, and every published value beside
ours); settings are TOML files, one a figure, and theory is `llmsched.theory` and
`llmsched.theory.makespans`.  Left out: figure 5, which is an input here (0.0366 s per token), and
what needs the paper's unpublished lengths or its GPUs.
"""

from llmsched.studies.multibin.reproduction import FIGURES, Reproduction, reproduce
from llmsched.studies.multibin.results import Check, FigureResult

__all__ = ["FIGURES", "Check", "FigureResult", "Reproduction", "reproduce"]
