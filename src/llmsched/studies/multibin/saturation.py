"""Figures 3, 4 and 9: throughput and latency against the arrival rate, one server.

Throughput is the paper's: requests over the time to finish all.  That time includes the start,
until the first batch is full, and the last partly full batches, which Theorem 4.2 leaves out; so
the saturated throughput is also measured with all requests at time 0 and every batch full.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmsched.studies.multibin.results import Check, FigureResult
from llmsched.studies.multibin.runs import Point, Results, Study, load_settings
from llmsched.theory.distributions import Exponential, Uniform
from llmsched.theory.makespans import infinite_server_latency_s, mean_makespan_s
from llmsched.theory.multi_bin import (
    equal_mass_edges_s,
    exponential_edges_s,
    exponential_makespan_bound_s,
    throughput_limit_per_s,
)
from llmsched.theory.service_laws import parse

THROUGHPUT, LATENCY = "Throughput [requests/s]", "Mean latency [s]"
ONE, UNLIMITED = "one server", "unlimited servers"

LOW_RATE_TOLERANCE = 0.02  # batches of several bins still meet now and then at the one server
END_EFFECTS = (
    "The paper's throughput counts the time until the first batch is full and the partly full last "
    "batches, which Theorem 4.2 leaves out; with all requests at time 0 and a number of requests "
    "that fills every batch, both vanish, and the theorem is held to 4 standard errors as well."
)
LATENCY_POPULATION = (
    "Lemma 5.1 is about full batches: the checks take the latency of the requests of full batches, "
    "the figure that of all requests. Above its saturated throughput (dotted) one server has no "
    "steady state, and its latency grows with the number of requests."
)
EXPONENTIAL = (
    "The mean service time of figure 9 is not stated in our source: it is that of figure 3 here, "
    "and only sets the scale. Equal-mass bins are drawn; the edges of Appendix A.4 do better from "
    "k = 2 on, because the longest exponential time grows with B only in the last bin, which they "
    "make small."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturationSettings:
    """Settings of one figure against the arrival rate; the field names are the TOML keys."""

    law: str
    batch_size: int
    n_requests: int
    replications: int
    draws: int
    n_bins: tuple[int, ...]
    throughput_rates_per_s: tuple[float, ...]
    latency_rates_per_s: tuple[float, ...]
    full_batches_n_bins: tuple[int, ...]  # saturated, all requests at time 0
    full_batches_n_requests: int  # a multiple of batch_size * k for each of these k
    full_batches_tolerance: float
    tolerance: float  # at the highest arrival rate: start and partly full batches are in it

    def point(self, n_bins: int, arrival_rate_per_s: float, n_gpus: float = 1) -> Point:
        """A place on the curves."""
        return Point(
            law=parse(self.law),
            n_requests=self.n_requests,
            batch_size=self.batch_size,
            n_bins=n_bins,
            arrival_rate_per_s=arrival_rate_per_s,
            n_gpus=n_gpus,
        )

    def full_point(self, n_bins: int) -> Point:
        """All requests at time 0, every batch full."""
        if self.full_batches_n_requests % (self.batch_size * n_bins):
            raise ValueError(
                f"full_batches_n_requests must be a multiple of {self.batch_size} * {n_bins}, got "
                f"{self.full_batches_n_requests}"
            )
        return Point(
            law=parse(self.law),
            n_requests=self.full_batches_n_requests,
            batch_size=self.batch_size,
            n_bins=n_bins,
        )

    def bound_point(self, n_bins: int) -> Point:
        """All requests at time 0, at the edges of Appendix A.4."""
        law = parse(self.law)
        edges_s = exponential_edges_s(n_bins, self.batch_size, mean_s=law.mean_s)
        return Point(
            law=law,
            n_requests=self.n_requests,
            batch_size=self.batch_size,
            n_bins=n_bins,
            edges_s=tuple(float(edge) for edge in edges_s),
        )

    @property
    def exponential(self) -> bool:
        """Whether Appendix A.4 applies."""
        return isinstance(parse(self.law), Exponential)

    def makespan_s(self, n_bins: int) -> float:
        """E[t_service,k] of equal-mass bins [s]."""
        law = parse(self.law)
        return mean_makespan_s(law, self.batch_size, edges_s=equal_mass_edges_s(law, n_bins))


@dataclass(frozen=True, slots=True)
class Saturation:
    """Figure 3, 4 or 9."""

    number: str
    title: str
    settings: SaturationSettings

    @classmethod
    def load(cls, number: str, title: str, *, quick: bool) -> Saturation:
        """The figure at the paper's sizes, or quick."""
        return cls(
            number, title, load_settings(SaturationSettings, f"figure_{number}", quick=quick)
        )

    @property
    def study(self) -> Study:
        """Every point of the curves, and the saturated ones."""
        settings = self.settings
        return Study(
            points=tuple(_points(settings)),
            replications=settings.replications,
            draws=settings.draws,
        )

    def result(self, results: Results | None) -> FigureResult:
        """Curves beside theory."""
        import pandas as pd

        assert results is not None
        settings = self.settings
        rows = [*_throughput_rows(settings, results), *_latency_rows(settings, results)]
        checks = [*_throughput_checks(settings, results), *_latency_checks(settings, results)]
        notes = [END_EFFECTS] if settings.throughput_rates_per_s else [LATENCY_POPULATION]
        if settings.exponential:
            checks += _bound_checks(settings, results)
            notes += [LATENCY_POPULATION, EXPONENTIAL]
        return FigureResult(
            number=self.number,
            title=self.title,
            setting=f"B = {settings.batch_size}, service times {settings.law} s, "
            f"{settings.n_requests} requests, {settings.replications} replications",
            table=pd.DataFrame(rows),
            checks=tuple(checks),
            notes=tuple(notes),
            provided="as its theory says; the paper's curves are not printed as numbers",
            caption=f"Points: mean and 95 % interval of {settings.replications} replications of "
            f"{settings.n_requests:,} requests.",
        )


def _points(settings: SaturationSettings) -> Iterator[Point]:
    for k in settings.n_bins:
        for rate in settings.throughput_rates_per_s:
            yield settings.point(k, rate)
        for rate in settings.latency_rates_per_s:
            yield settings.point(k, rate)
            yield settings.point(k, rate, np.inf)
        if settings.exponential and k > 1:
            yield settings.bound_point(k)
    for k in settings.full_batches_n_bins:
        yield settings.full_point(k)


def _throughput_rows(settings: SaturationSettings, results: Results) -> Iterator[dict[str, object]]:
    mean_s = parse(settings.law).mean_s
    limit = float(throughput_limit_per_s(settings.batch_size, mean_s=mean_s))
    for k in settings.n_bins:
        saturated = settings.batch_size / settings.makespan_s(k)
        bound = float("nan")
        if settings.exponential and k > 1:
            bound = settings.batch_size / _bound_s(settings, k)
        for rate in settings.throughput_rates_per_s:
            interval = results.interval(settings.point(k, rate), "throughput_per_s")
            yield {
                "panel": THROUGHPUT,
                "n_bins": k,
                "arrival_rate_per_s": rate,
                "servers": ONE,
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "theory": min(rate, saturated),
                "saturated": saturated,
                "limit": limit,
                "bound": bound,
            }


def _latency_rows(settings: SaturationSettings, results: Results) -> Iterator[dict[str, object]]:
    for k in settings.n_bins if settings.latency_rates_per_s else ():
        for rate in settings.latency_rates_per_s:
            for servers, n_gpus in ((ONE, 1.0), (UNLIMITED, np.inf)):
                interval = results.interval(settings.point(k, rate, n_gpus), "latency_s")
                yield {
                    "panel": LATENCY,
                    "n_bins": k,
                    "arrival_rate_per_s": rate,
                    "servers": servers,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "theory": _lemma_s(settings, k, rate),
                    "saturated": settings.batch_size / settings.makespan_s(k),
                }


def _lemma_s(settings: SaturationSettings, n_bins: int, rate: float) -> float:
    law = parse(settings.law)
    return float(
        infinite_server_latency_s(
            law,
            settings.batch_size,
            edges_s=equal_mass_edges_s(law, n_bins),
            arrival_rate_per_s=rate,
        )
    )


def _throughput_checks(settings: SaturationSettings, results: Results) -> Iterator[Check]:
    theorem = "Theorem 4.2" if isinstance(parse(settings.law), Uniform) else "exact B/E[t]"
    for k in settings.full_batches_n_bins:
        yield Check(
            what=f"saturated throughput, k = {k}, full batches, against {theorem} [requests/s]",
            expected=settings.batch_size / settings.makespan_s(k),
            source="theory",
            ours=results.interval(settings.full_point(k), "throughput_per_s"),
            tolerance=settings.full_batches_tolerance,
            in_standard_errors=True,
        )
    if not settings.throughput_rates_per_s:
        return
    lowest, highest = min(settings.throughput_rates_per_s), max(settings.throughput_rates_per_s)
    for k in settings.n_bins:
        saturated = settings.batch_size / settings.makespan_s(k)
        if lowest < saturated:
            yield Check(
                what=f"throughput at arrival rate {lowest:g}/s, k = {k}: the rate itself "
                "[requests/s]",
                expected=lowest,
                source="theory",
                ours=results.interval(settings.point(k, lowest), "throughput_per_s"),
                tolerance=settings.tolerance,
            )
        yield Check(
            what=f"throughput at arrival rate {highest:g}/s, k = {k}, against {theorem} "
            "[requests/s]",
            expected=min(saturated, highest),
            source="theory",
            ours=results.interval(settings.point(k, highest), "throughput_per_s"),
            tolerance=settings.tolerance,
        )


def _latency_checks(settings: SaturationSettings, results: Results) -> Iterator[Check]:
    if not settings.latency_rates_per_s:
        return
    lowest = min(settings.latency_rates_per_s)
    for k in settings.n_bins:
        for rate in _three(settings.latency_rates_per_s):
            yield Check(
                what=f"mean latency, unlimited servers, k = {k}, arrival rate {rate:g}/s, against "
                "Lemma 5.1 [s]",
                expected=_lemma_s(settings, k, rate),
                source="theory",
                ours=results.interval(settings.point(k, rate, np.inf), "full_latency_s"),
                tolerance=0.01,
                in_standard_errors=True,
            )
        yield Check(
            what=f"mean latency, one server, k = {k}, low rate {lowest:g}/s, against Lemma 5.1 [s]",
            expected=_lemma_s(settings, k, lowest),
            source="theory",
            ours=results.interval(settings.point(k, lowest), "full_latency_s"),
            tolerance=LOW_RATE_TOLERANCE,
        )


def _three(rates: tuple[float, ...]) -> tuple[float, ...]:
    """The lowest, the middle and the highest rate."""
    ordered = sorted(rates)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def _bound_checks(settings: SaturationSettings, results: Results) -> Iterator[Check]:
    for k in settings.n_bins[1:]:
        point = settings.bound_point(k)
        bound_s = _bound_s(settings, k)
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


def _bound_s(settings: SaturationSettings, n_bins: int) -> float:
    point = settings.bound_point(n_bins)
    return exponential_makespan_bound_s(point.edges_s, settings.batch_size, mean_s=point.law.mean_s)
