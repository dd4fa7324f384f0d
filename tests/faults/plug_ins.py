"""Faults of other people's packages: each is one line that names the package or the object."""

from __future__ import annotations

from injection import Fault

RUN = "llmsched compare --requests 60 --seeds 1 --schedulers static-fifo,ours"
BATCHER = """
from llmsched import Scheduler
class Batcher:
    def limit(self): {limit}
    def observe(self, batch, service_s): {observe}
def ours(settings): return Scheduler(batcher=Batcher, batch_max=8)
"""
CHOICE = """
from llmsched import Scheduler
class Policy:
    def next_batch(self, waiting, now_s): {plan}
    def observe(self, batch, service_s): pass
def ours(settings): return Scheduler(policy=Policy())
"""
PREDICTOR = """
import numpy as np
from llmsched.prediction import Prediction
class Mine:
    name, random = "ours", False
    def predict(self, trace, binning, rng): {predict}
def ours(argument): return Mine()
"""


def scheduler(name: str, source: str, says: str = "plug", code: int = 2) -> Fault:
    """A package whose scheduler is faulty."""
    return Fault(
        f"a scheduler {name}", f"plugin schedulers <<'END'\n{source}\nEND\n{RUN}", code, says
    )


def predictor(name: str, predict: str, says: str = "plug") -> Fault:
    """A package whose predictor is faulty."""
    source = PREDICTOR.format(predict=predict)
    run = "llmsched multi-bin-dynamic --requests 60 --predictor ours"
    return Fault(f"a predictor {name}", f"plugin predictors <<'END'\n{source}\nEND\n{run}", 2, says)


PLUG_INS = [
    scheduler("that fails", "def ours(settings): raise RuntimeError('boom')", "boom"),
    scheduler("with another signature", "def ours(): pass"),
    scheduler("that is none", "def ours(settings): return 42"),
    scheduler("that is a number", "ours = 42"),
    scheduler("that is not in its module", "other = 1"),
    scheduler("that is no Python", "def ours(:"),
    scheduler("that ends the process on import", "raise SystemExit(7)"),
    scheduler("that interrupts on import", "raise KeyboardInterrupt"),
    *(
        scheduler(f"whose limit {limit}", BATCHER.format(limit=limit, observe="pass"))
        for limit in (
            "return 2.5",
            "return None",
            "return '8'",
            "return 0",
            "raise ValueError('x')",
            "raise SystemExit(3)",
        )
    ),
    scheduler(
        "that writes the truth",
        BATCHER.format(limit="return 8", observe="batch.columns.total[:] = 1"),
        "AttributeError",
    ),
    *(
        scheduler(
            f"whose plan is {plan}",
            CHOICE.format(plan=f"from llmsched.schedulers.base import Head; return {plan}"),
        )
        for plan in (
            "Head(99, 1)",
            "Head(0, 10**9)",
            "Head(0.0, 1)",
            "Head(0, -1)",
            "99",
            "'all'",
            "waiting.counts.clear()",
        )
    ),
    predictor("that fails", "raise RuntimeError('boom')", "boom"),
    predictor("of another length", "return Prediction(tokens=np.ones(3, int))"),
    predictor("of no numbers", "return Prediction(tokens=np.full(len(trace), np.nan))"),
    predictor(
        "that writes the truth",
        "t = trace.output_tokens; t //= 2; return Prediction(tokens=t)",
        "read-only",
    ),
    predictor("of nothing", "return None"),
    *(
        Fault(
            f"a trace format that {name}",
            f"plugin trace_formats <<'END'\n{source}\nEND\necho prose > x.odd; llmsched trace info x.odd",
            *(2, "plug"),
        )
        for name, source in (
            ("fails on import", "raise RuntimeError('boom')"),
            ("is no Python", "def ours(:"),
            ("is a number", "ours = 42"),
            (
                "fails",
                "class ours:\n  name = summary = 'ours'\n  def recognises(head): raise RuntimeError('boom')\n  read = write = recognises",
            ),
        )
    ),
]
