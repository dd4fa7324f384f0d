"""Figures 3, 4 and 9: throughput and latency against the arrival rate, one server.

Throughput is the paper's: requests over the time to finish all.  That time includes the start,
until the first batch is full, and the last partly full batches, which Theorem 4.2 leaves out; so
the saturated throughput is also measured with all requests at time 0 and every batch full.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmsched.studies.multibin.results import Check, FigureResult, ends
from llmsched.studies.multibin.runs import Point, Results, Sizes, Study, load_settings
from llmsched.theory.distributions import Exponential, ServiceLaw, Uniform
from llmsched.theory.makespans import infinite_server_latency_s, mean_makespan_s
from llmsched.theory.multi_bin import (
    equal_mass_edges_s,
    exponential_edges_s,
    exponential_makespan_bound_s,
    throughput_limit_per_s,
)
from llmsched.theory.service_laws import parse

THROUGHPUT, LATENCY = "Throughput [requests/s]", "Mean latency [s]"
SERVERS = {"one server": 1.0, "unlimited servers": np.inf}
LOW_RATE_TOLERANCE = 0.02  # batches of several bins still meet now and then at the one server

END_EFFECTS = (
    "The paper's throughput counts the wait for the first batch and the partly full last ones; "
    "'full batches' has all requests at time 0 and every batch full, as Theorem 4.2."
)
FULL_ONLY = (
    "Lemma 5.1 is about full batches, and so are its checks; the figure has all requests. Above "
    "its saturated throughput (dotted) one server has no steady state."
)
SCALE = "The mean service time is not stated; it is figure 3's, and only sets the scale."


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturationSettings(Sizes):
    """Settings of one figure against the arrival rate; the field names are the TOML keys."""

    law: str
    n_bins: tuple[int, ...]
    throughput_rates_per_s: tuple[float, ...]
    latency_rates_per_s: tuple[float, ...]
    full_batches_n_bins: tuple[int, ...]  # saturated, all requests at time 0
    full_batches_n_requests: int  # a multiple of batch_size * k for each of these k
    full_batches_tolerance: float
    tolerance: float  # at the highest arrival rate: start and partly full batches are in it

    @property
    def service_law(self) -> ServiceLaw:
        """Of one request's service time."""
        return parse(self.law)

    @property
    def bounded(self) -> tuple[int, ...]:
        """The numbers of bins for which Appendix A.4 has a bound."""
        return self.n_bins[1:] if isinstance(self.service_law, Exponential) else ()

    def at(self, n_bins: int, rate_per_s: float, n_gpus: float = 1) -> Point:
        """A place on the curves."""
        return self.point(self.service_law, n_bins, arrival_rate_per_s=rate_per_s, n_gpus=n_gpus)

    def full_point(self, n_bins: int) -> Point:
        """All requests at time 0, every batch full."""
        if self.full_batches_n_requests % (self.batch_size * n_bins):
            raise ValueError(
                f"full_batches_n_requests must be a multiple of {self.batch_size} * {n_bins}, got "
                f"{self.full_batches_n_requests}"
            )
        return self.point(self.service_law, n_bins, n_requests=self.full_batches_n_requests)

    def bound_point(self, n_bins: int) -> Point:
        """All requests at time 0, at the edges of Appendix A.4."""
        law = self.service_law
        edges_s = exponential_edges_s(n_bins, self.batch_size, mean_s=law.mean_s)
        return self.point(law, n_bins, edges_s=tuple(map(float, edges_s)))

    def bound_s(self, n_bins: int) -> float:
        """What Appendix A.4 guarantees for a batch's mean time [s]."""
        point = self.bound_point(n_bins)
        mean_s = point.law.mean_s
        return exponential_makespan_bound_s(point.edges_s, self.batch_size, mean_s=mean_s)

    def saturated_per_s(self, n_bins: int) -> float:
        """B / E[t_service,k] of equal-mass bins [requests/s]."""
        edges_s = equal_mass_edges_s(self.service_law, n_bins)
        return self.batch_size / mean_makespan_s(self.service_law, self.batch_size, edges_s=edges_s)

    def lemma_s(self, n_bins: int, rate_per_s: float) -> float:
        """Lemma 5.1: mean latency with unlimited servers [s]."""
        edges_s = equal_mass_edges_s(self.service_law, n_bins)
        found = infinite_server_latency_s(
            self.service_law, self.batch_size, edges_s=edges_s, arrival_rate_per_s=rate_per_s
        )
        return float(found)


@dataclass(frozen=True, slots=True)
class Saturation:
    """Figure 3, 4 or 9."""

    number: str
    title: str
    settings: SaturationSettings

    @classmethod
    def load(cls, number: str, title: str, *, quick: bool) -> Saturation:
        """The figure at the paper's sizes, or quick."""
        settings = load_settings(SaturationSettings, f"figure_{number}", quick=quick)
        return cls(number, title, settings)

    @property
    def study(self) -> Study:
        """Every point of the curves, and the saturated ones."""
        settings = self.settings
        latencies = [(k, rate) for k in settings.n_bins for rate in settings.latency_rates_per_s]
        return settings.study(
            [
                *(
                    settings.at(k, r)
                    for k in settings.n_bins
                    for r in settings.throughput_rates_per_s
                ),
                *(settings.at(k, r, n) for k, r in latencies for n in SERVERS.values()),
                *map(settings.bound_point, settings.bounded),
                *map(settings.full_point, settings.full_batches_n_bins),
            ]
        )

    def result(self, results: Results | None) -> FigureResult:
        """Curves beside theory."""
        import pandas as pd

        assert results is not None
        settings = self.settings
        rows = [*_throughput_rows(settings, results), *_latency_rows(settings, results)]
        checks = [
            *_throughput_checks(settings, results),
            *_latency_checks(settings, results),
            *_bound_checks(settings, results),
        ]
        notes = {
            END_EFFECTS: settings.throughput_rates_per_s,
            FULL_ONLY: settings.latency_rates_per_s,
            SCALE: settings.bounded,
        }
        return FigureResult(
            number=self.number,
            title=self.title,
            setting=f"B = {settings.batch_size}, service times {settings.law} s, "
            f"{settings.n_requests} requests, {settings.replications} replications",
            table=pd.DataFrame(rows),
            checks=tuple(checks),
            notes=tuple(note for note, applies in notes.items() if applies),
            provided="as its theory says; the paper's curves are not printed as numbers",
            caption=settings.caption,
        )


def _throughput_rows(settings: SaturationSettings, results: Results) -> Iterator[dict[str, object]]:
    limit = throughput_limit_per_s(settings.batch_size, mean_s=settings.service_law.mean_s)
    for k in settings.n_bins:
        saturated = settings.saturated_per_s(k)
        bounded = k in settings.bounded
        for rate in settings.throughput_rates_per_s:
            yield {
                "panel": THROUGHPUT,
                "n_bins": k,
                "arrival_rate_per_s": rate,
                "servers": "one server",
                **ends(results.interval(settings.at(k, rate), "throughput_per_s")),
                "theory": min(rate, saturated),
                "saturated": saturated,
                "limit": float(limit),
                "bound": settings.batch_size / settings.bound_s(k) if bounded else np.nan,
            }


def _latency_rows(settings: SaturationSettings, results: Results) -> Iterator[dict[str, object]]:
    for k in settings.n_bins:
        for rate in settings.latency_rates_per_s:
            for servers, n_gpus in SERVERS.items():
                yield {
                    "panel": LATENCY,
                    "n_bins": k,
                    "arrival_rate_per_s": rate,
                    "servers": servers,
                    **ends(results.interval(settings.at(k, rate, n_gpus), "latency_s")),
                    "theory": settings.lemma_s(k, rate),
                    "saturated": settings.saturated_per_s(k),
                }


def _throughput_checks(settings: SaturationSettings, results: Results) -> Iterator[Check]:
    theorem = "Theorem 4.2" if isinstance(settings.service_law, Uniform) else "exact B/E[t]"
    for k in settings.full_batches_n_bins:
        yield Check(
            what=f"saturated throughput, k = {k}, full batches, against {theorem} [requests/s]",
            expected=settings.saturated_per_s(k),
            source="theory",
            ours=results.interval(settings.full_point(k), "throughput_per_s"),
            tolerance=settings.full_batches_tolerance,
            in_standard_errors=True,
        )
    rates = sorted(settings.throughput_rates_per_s)
    for k in settings.n_bins if rates else ():
        saturated = settings.saturated_per_s(k)
        for rate in (rates[0], rates[-1]) if rates[0] < saturated else rates[-1:]:
            against = f"against {theorem}" if rate == rates[-1] else "the rate itself"
            joint = ", " if rate == rates[-1] else ": "
            yield Check(
                what=f"throughput at arrival rate {rate:g}/s, k = {k}{joint}{against} [requests/s]",
                expected=min(saturated, rate),
                source="theory",
                ours=results.interval(settings.at(k, rate), "throughput_per_s"),
                tolerance=settings.tolerance,
            )


def _latency_checks(settings: SaturationSettings, results: Results) -> Iterator[Check]:
    rates = sorted(settings.latency_rates_per_s)
    for k in settings.n_bins if rates else ():
        for rate in (rates[0], rates[len(rates) // 2], rates[-1]):
            yield Check(
                what=f"mean latency, unlimited servers, k = {k}, arrival rate {rate:g}/s, against "
                "Lemma 5.1 [s]",
                expected=settings.lemma_s(k, rate),
                source="theory",
                ours=results.interval(settings.at(k, rate, np.inf), "full_latency_s"),
                tolerance=0.01,
                in_standard_errors=True,
            )
        yield Check(
            what=f"mean latency, one server, k = {k}, low rate {rates[0]:g}/s, against Lemma 5.1 "
            "[s]",
            expected=settings.lemma_s(k, rates[0]),
            source="theory",
            ours=results.interval(settings.at(k, rates[0]), "full_latency_s"),
            tolerance=LOW_RATE_TOLERANCE,
        )


def _bound_checks(settings: SaturationSettings, results: Results) -> Iterator[Check]:
    for k in settings.bounded:
        point, bound_s = settings.bound_point(k), settings.bound_s(k)
        exact_s = mean_makespan_s(point.law, settings.batch_size, edges_s=point.edges_s)
        yield Check(
            what=f"mean batch time at the edges of A.4, k = {k}, against the exact mean [s] "
            f"(the paper's bound: {bound_s:.2f} s, {bound_s / exact_s - 1:+.1%})",
            expected=exact_s,
            source="theory",
            ours=results.interval(point, "full_batch_s"),
            tolerance=0.02,
            in_standard_errors=True,
        )
