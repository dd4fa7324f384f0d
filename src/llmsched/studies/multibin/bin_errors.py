"""Figure 8: true bin i is taken for each neighbouring bin with probability p_e."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.studies.multibin.results import Check, FigureResult, ends
from llmsched.studies.multibin.runs import Point, Results, Sizes, Study, by_bins
from llmsched.theory.makespans import saturated_throughput_per_s
from llmsched.theory.multi_bin import equal_mass_edges_s
from llmsched.theory.service_laws import parse


@dataclass(frozen=True, slots=True, kw_only=True)
class BinErrorSettings(Sizes):
    """Settings of figure 8; the field names are the TOML keys."""

    law: str
    n_bins: tuple[int, ...]
    error_probabilities: tuple[float, ...]
    read_off_without_errors: Mapping[str, float]  # by number of bins [requests/s]
    read_off_at_one_half: Mapping[str, float]
    tolerance: float  # of theory, partly full last batches included
    reading_tolerance: float

    @property
    def read_off(self) -> dict[tuple[int, float], float]:
        """What can be read off the plot, by number of bins and probability [requests/s]."""
        values = ((0.0, self.read_off_without_errors), (0.5, self.read_off_at_one_half))
        return {(k, p): rate for p, rates in values for k, rate in by_bins(rates).items()}

    def at(self, n_bins: int, probability: float) -> Point:
        """All requests at time 0; one bin has no other to be taken for."""
        predictor = f"bin-error:{probability if n_bins > 1 else 0.0}"
        return self.point(parse(self.law), n_bins, predictor=predictor)

    def theory_per_s(self, n_bins: int, probability: float) -> float:
        """Throughput of full batches, members of neighbouring bins among them [requests/s]."""
        law = parse(self.law)
        return saturated_throughput_per_s(
            law,
            self.batch_size,
            edges_s=equal_mass_edges_s(law, n_bins),
            confusion=neighbour_confusion(n_bins, probability),
        )


@dataclass(frozen=True, slots=True)
class BinErrors:
    """Figure 8: true bin i is taken for i - 1 and i + 1 with probability p_e each."""

    settings: BinErrorSettings

    @property
    def study(self) -> Study:
        """Every probability, and no bins."""
        return self.settings.study(self.settings.at(k, p) for k, p in self._points())

    def _points(self) -> list[tuple[int, float]]:
        bins = (1, *self.settings.n_bins)
        return [(k, p) for k in bins for p in self.settings.error_probabilities]

    def result(self, results: Results | None) -> FigureResult:
        """Throughput against the error probability."""
        import pandas as pd

        assert results is not None
        settings = self.settings
        rows = [
            {
                "n_bins": k,
                "error_probability": p,
                **ends(results.interval(settings.at(k, p), "throughput_per_s")),
                "theory": settings.theory_per_s(k, p),
                "published": settings.read_off.get((k, p), np.nan),
            }
            for k, p in self._points()
        ]
        at_1_percent = (f"{settings.theory_per_s(k, 0.01):.2f} (k = {k})" for k in settings.n_bins)
        return FigureResult(
            number="8",
            title="Throughput against the probability of a wrong bin",
            setting=f"B = {settings.batch_size}, service times {settings.law} s, "
            f"{settings.n_requests} requests at time 0, {settings.replications} replications",
            table=pd.DataFrame(rows),
            checks=tuple(self._checks(results)),
            notes=(
                "The plot's axis begins at 0.01; what is read off there is taken as p_e = 0. At "
                "p_e = 0.01 72 % of the batches in an edge bin hold a stranger (1 - 0.99^128), and "
                f"theory gives {', '.join(at_1_percent)} requests/s.",
            ),
            provided="within what can be read off, the left end taken as p_e = 0",
            caption=f"{settings.caption} Lines: theory. Crosses: read off the paper's plot.",
        )

    def _checks(self, results: Results) -> Iterator[Check]:
        settings = self.settings
        for (k, p), read_off in settings.read_off.items():
            yield Check(
                what=f"throughput, k = {k}, p_e = {p:g} [requests/s]",
                expected=read_off,
                source="read off",
                ours=results.interval(settings.at(k, p), "throughput_per_s"),
                tolerance=settings.reading_tolerance,
                failing="shape only: beyond what can be read off",
            )
        for k, p in self._points():
            if k > 1:
                yield Check(
                    what=f"full-batch time, k = {k}, p_e = {p:g}, against the exact mixture [s]",
                    expected=settings.batch_size / settings.theory_per_s(k, p),
                    source="theory",
                    ours=results.interval(settings.at(k, p), "full_batch_s"),
                    tolerance=settings.tolerance,
                    in_standard_errors=True,
                )


def neighbour_confusion(n_bins: int, probability: float) -> FloatArray:
    """Chance of each predicted bin (columns) given the true one (rows), errors to neighbours."""
    mistaken = probability * (np.eye(n_bins, k=1) + np.eye(n_bins, k=-1))
    return mistaken + np.diag(1 - mistaken.sum(axis=1))
