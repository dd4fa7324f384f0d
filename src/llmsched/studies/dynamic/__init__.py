"""Pang, Li, Wang, "Memory-aware and SLA-constrained Dynamic Batching", arXiv:2503.05248, redone.

Its figures 3 and 4 and tables I and II by simulation at the iteration level, and what Algorithm 2
does when load or hardware changes. The paper prints no step times beyond figure 3 and no hardware:
constants are fitted to its static columns alone, and its dynamic columns are predicted.
"""

from llmsched.studies.dynamic.reproduction import FIGURES, reproduce

__all__ = ["FIGURES", "reproduce"]
