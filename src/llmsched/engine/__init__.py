"""The SimPy engine, batch level: arrivals, bins and GPUs as processes and resources."""

from llmsched.engine.run import Admission, run_engine

__all__ = ["Admission", "run_engine"]
