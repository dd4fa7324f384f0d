"""Figure 1(b): four requests by hand, in one queue and in two bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmsched.prediction.binning import Binning
from llmsched.schedulers.settings import Settings
from llmsched.simulation.simulate import Run, simulate
from llmsched.studies.multibin.results import Check, FigureResult, computed
from llmsched.studies.multibin.runs import Results
from llmsched.workload.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSettings:
    """Settings of figure 1(b); the field names are the TOML keys."""

    service_s: tuple[float, ...]
    batch_size: int
    makespan_s: tuple[float, float]  # one queue, two bins


@dataclass(frozen=True, slots=True)
class Example:
    """Figure 1(b), exact."""

    settings: ExampleSettings
    study: None = None

    def result(self, results: Results | None) -> FigureResult:
        """The schedule of both, request by request."""
        import pandas as pd

        names = ("one queue", "two bins")
        runs = [self._run(n_bins) for n_bins in (1, 2)]
        checks = [
            Check(
                what=f"time to finish all, {name} [s]",
                expected=published,
                source="published",
                ours=computed(run.metrics.makespan_s),
                tolerance=0.0,
            )
            for name, run, published in zip(names, runs, self.settings.makespan_s, strict=True)
        ]
        frames = [
            run.requests.to_frame()[["request", "batch", "start_s", "finish_s"]].assign(
                queues=name, service_s=list(self.settings.service_s)
            )
            for name, run in zip(names, runs, strict=True)
        ]
        return FigureResult(
            number="1b",
            title="Four requests, batches of two, in one queue and in two bins",
            setting=f"B = {self.settings.batch_size}, service times "
            f"{', '.join(f'{s:g}' for s in self.settings.service_s)} s at time 0, one server",
            table=pd.concat(frames, ignore_index=True),
            checks=tuple(checks),
            caption="Dark: the request's own time; light: waiting for the longest of its batch.",
        )

    def _run(self, n_bins: int) -> Run:
        n = len(self.settings.service_s)
        none = np.zeros(n, dtype=np.int32)
        trace = Trace(
            arrival_s=np.zeros(n),
            prompt_tokens=none,
            output_tokens=none,
            service_s=np.array(self.settings.service_s),
        )
        return simulate(
            trace,
            "multi_bin_only",
            n_gpus=1,
            latency="drawn",
            predictor="oracle",
            binning=Binning(n_bins=n_bins, by="service"),
            settings=Settings(batch_size=self.settings.batch_size),
        )
