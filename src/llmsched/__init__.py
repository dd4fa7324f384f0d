"""llmsched: which batching scheduler, with how many GPUs, meets a latency SLA on your traffic.

The public names load on first use, so that `import llmsched` and `llmsched --help` stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmsched.arrivals import generate, load_profile
    from llmsched.binning import Binning
    from llmsched.comparison import Comparison, compare
    from llmsched.formats import read_trace, write_trace
    from llmsched.latency import load_latency
    from llmsched.metrics import Metrics
    from llmsched.prediction import predictor_from_spec
    from llmsched.preparation import describe, prepare
    from llmsched.schedulers import SCHEDULERS, Scheduler, Settings, make_scheduler
    from llmsched.simulation import Run, simulate
    from llmsched.tables import BatchTable, RequestTable
    from llmsched.trace import Trace, TraceError
    from llmsched.workload import Workload

__version__ = "0.1.0"

_HOME = {
    "BatchTable": "tables",
    "Binning": "binning",
    "Comparison": "comparison",
    "Metrics": "metrics",
    "RequestTable": "tables",
    "Run": "simulation",
    "SCHEDULERS": "schedulers",
    "Scheduler": "schedulers",
    "Settings": "schedulers",
    "Trace": "trace",
    "TraceError": "trace",
    "Workload": "workload",
    "compare": "comparison",
    "describe": "preparation",
    "generate": "arrivals",
    "load_latency": "latency",
    "load_profile": "arrivals",
    "make_scheduler": "schedulers",
    "predictor_from_spec": "prediction",
    "prepare": "preparation",
    "read_trace": "formats",
    "simulate": "simulation",
    "write_trace": "formats",
}

__all__ = [
    "SCHEDULERS",
    "BatchTable",
    "Binning",
    "Comparison",
    "Metrics",
    "RequestTable",
    "Run",
    "Scheduler",
    "Settings",
    "Trace",
    "TraceError",
    "Workload",
    "compare",
    "describe",
    "generate",
    "load_latency",
    "load_profile",
    "make_scheduler",
    "predictor_from_spec",
    "prepare",
    "read_trace",
    "simulate",
    "write_trace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'llmsched' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"llmsched.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
