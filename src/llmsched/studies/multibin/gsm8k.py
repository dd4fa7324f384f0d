"""Figure 6: GSM8K answers of Phi-3.5-mini, whose lengths are not published.

Lengths take a law with one free parameter, its scale, which the published threshold of k = 1 alone
fixes; everything else is predicted.  The law is lognormal, with the spread of real GSM8K answers
of another model; beside it stand those answers themselves, scaled the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmsched._util.types import FloatArray
from llmsched.metrics.intervals import mean_interval
from llmsched.studies.multibin.results import Check, FigureResult
from llmsched.studies.multibin.runs import Point, Results, Study, by_bins
from llmsched.theory.distributions import Empirical, Lognormal, ServiceLaw
from llmsched.theory.makespans import mean_makespan_s, saturated_throughput_per_s
from llmsched.theory.multi_bin import equal_mass_edges_s

LOGNORMAL, REAL = "lognormal", "GPT-3 175B lengths"
THRESHOLD, LATENCY = "Threshold [requests/s]", "Mean latency [s]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gsm8kSettings:
    """Settings of figure 6; the field names are the TOML keys."""

    token_s: float  # per generated token, figure 5
    batch_size: int
    n_gpus: int
    n_requests: int
    replications: int
    draws: int
    thresholds_per_s: Mapping[str, float]  # published, by number of bins
    rates_per_s: tuple[float, ...]
    low_rate_per_s: float  # where the published latency order is checked
    log_sd: float  # of the answers whose quantiles follow
    length_levels: tuple[float, ...]  # 0 to 100 [%]
    length_tokens: tuple[float, ...]  # the quantile at each level
    tolerance: float

    @property
    def thresholds(self) -> dict[int, float]:
        """Published throughput thresholds by number of bins [requests/s]."""
        return by_bins(self.thresholds_per_s)

    def scale_s(self, law: ServiceLaw) -> float:
        """The factor that gives the law the published threshold of one bin."""
        unscaled = saturated_throughput_per_s(law, self.batch_size, n_gpus=self.n_gpus)
        return unscaled / self.thresholds[1]

    def threshold_per_s(self, law: ServiceLaw, n_bins: int) -> float:
        """Saturated throughput of all servers, by theory [requests/s]."""
        edges_s = equal_mass_edges_s(law, n_bins)
        return saturated_throughput_per_s(law, self.batch_size, edges_s=edges_s, n_gpus=self.n_gpus)

    def point(self, law: ServiceLaw, n_bins: int, rate_per_s: float = np.inf) -> Point:
        """A place on the curves."""
        return Point(
            law=law,
            n_requests=self.n_requests,
            batch_size=self.batch_size,
            n_bins=n_bins,
            arrival_rate_per_s=rate_per_s,
            n_gpus=self.n_gpus,
        )


def fitted_laws(settings: Gsm8kSettings) -> dict[str, ServiceLaw]:
    """Both laws, scaled to the published threshold of one bin [s]."""
    shape, real = (
        Lognormal(1.0, settings.log_sd),
        quantile_law(settings.length_levels, settings.length_tokens),
    )
    return {
        LOGNORMAL: Lognormal(settings.scale_s(shape), settings.log_sd),
        REAL: Empirical(real.values_s * settings.scale_s(real)),
    }


class Thresholds:
    """Figure 6: thresholds and latency of 8 servers against the arrival rate."""

    def __init__(self, settings: Gsm8kSettings) -> None:
        self.settings = settings
        self.laws = fitted_laws(settings)

    @property
    def study(self) -> Study:
        """Saturated, and against the arrival rate, under both laws."""
        settings = self.settings
        points = [
            settings.point(law, k, rate)
            for law in self.laws.values()
            for k in settings.thresholds
            for rate in (np.inf, *settings.rates_per_s)
        ]
        return Study(points=tuple(points), replications=settings.replications, draws=settings.draws)

    def result(self, results: Results | None) -> FigureResult:
        """Thresholds beside the published ones, latency curves, and what they imply."""
        import pandas as pd

        assert results is not None
        settings = self.settings
        rows = [row for name in self.laws for row in self._rows(name, results)]
        checks = [check for name in self.laws for check in self._threshold_checks(name, results)]
        checks += self._latency_checks(results)
        return FigureResult(
            number="6",
            title="GSM8K, 8 servers: throughput thresholds and latency",
            setting=f"B = {settings.batch_size}, {settings.n_gpus} servers, service time "
            f"{settings.token_s} s per token, {settings.n_requests} requests, "
            f"{settings.replications} replications",
            table=pd.DataFrame(rows),
            checks=tuple(checks),
            notes=tuple(self._notes()),
            provided="five thresholds from the first, whose level implies answers of "
            f"{self.laws[LOGNORMAL].mean_s / settings.token_s:.0f} tokens on average",
            caption=f"Points: mean and 95 % interval of {settings.replications} replications of "
            f"{settings.n_requests:,} requests. Crosses: published. Dashed: theory. The scale of "
            "the lengths is fitted to the threshold of k = 1 alone.",
        )

    def _rows(self, name: str, results: Results) -> Iterator[dict[str, object]]:
        settings, law = self.settings, self.laws[name]
        for k, published in settings.thresholds.items():
            for rate in (np.inf, *settings.rates_per_s):
                saturated = bool(np.isinf(rate))
                quantity = "throughput_per_s" if saturated else "latency_s"
                interval = results.interval(settings.point(law, k, rate), quantity)
                yield {
                    "panel": THRESHOLD if saturated else LATENCY,
                    "lengths": name,
                    "n_bins": k,
                    "arrival_rate_per_s": rate,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "theory": settings.threshold_per_s(law, k) if saturated else np.nan,
                    "published": published if saturated else np.nan,
                }

    def _threshold_checks(self, name: str, results: Results) -> Iterator[Check]:
        settings, law = self.settings, self.laws[name]
        for k, published in settings.thresholds.items():
            yield Check(
                what=f"threshold, k = {k}, {name}"
                + (" (fitted)" if k == 1 else "")
                + " [requests/s]",
                expected=published,
                source="published",
                ours=results.interval(settings.point(law, k), "throughput_per_s"),
                tolerance=settings.tolerance,
                failing="shape only: a scale alone does not give it",
            )

    def _latency_checks(self, results: Results) -> Iterator[Check]:
        """Latency at low traffic: below k = 1's at k = 2 and 4, then rising with k."""
        settings, law = self.settings, self.laws[LOGNORMAL]
        bins = sorted(settings.thresholds)

        def latency_s(k: int) -> FloatArray:
            return results.samples(settings.point(law, k, settings.low_rate_per_s), "latency_s")

        for k in (2, 4):
            yield _order(
                f"latency at {settings.low_rate_per_s:g}/s: k = {k} below k = 1",
                latency_s(1) - latency_s(k),
            )
        for k, next_k in itertools.pairwise(bins[2:]):
            yield _order(
                f"latency at {settings.low_rate_per_s:g}/s: rises from k = {k} to k = {next_k}",
                latency_s(next_k) - latency_s(k),
            )

    def _notes(self) -> Iterator[str]:
        settings = self.settings
        for name, law in self.laws.items():
            mean_tokens = law.mean_s / settings.token_s
            unbinned = mean_makespan_s(law, settings.batch_size) / settings.token_s
            limit = settings.n_gpus * settings.batch_size / law.mean_s
            yield (
                f"{name}: the threshold of k = 1 gives a mean length of {mean_tokens:.1f} tokens "
                f"(the largest of {settings.batch_size}: {unbinned:.1f}); as k grows the threshold "
                f"tends to {settings.n_gpus * settings.batch_size}/({settings.token_s} * "
                f"{mean_tokens:.1f}) = {limit:.1f} requests/s."
            )
        wait = (settings.batch_size - 1) / 2
        law = self.laws[LOGNORMAL]
        one_s, two_s = (
            mean_makespan_s(law, settings.batch_size, edges_s=equal_mass_edges_s(law, k))
            for k in (1, 2)
        )
        yield (
            "The published order of the latencies at low traffic holds only while forming a batch "
            "is quick: by Lemma 5.1 a second bin costs "
            f"{wait:g}/rate and saves {one_s - two_s:.2f} s, so below "
            f"{wait / (one_s - two_s):.1f} requests/s k = 1 is fastest here too."
        )
        highest = max(settings.thresholds.values())
        in_service = settings.n_gpus * settings.batch_size
        real = quantile_law(settings.length_levels, settings.length_tokens)
        unscaled = Empirical(real.values_s * settings.token_s)
        each = ", ".join(
            f"k = {k}: {settings.threshold_per_s(unscaled, k):.2f}" for k in settings.thresholds
        )
        yield (
            f"Whatever the law, a threshold of {highest} requests/s needs a mean of at most "
            f"{in_service}/({settings.token_s} * {highest}) = "
            f"{in_service / (settings.token_s * highest):.1f} tokens. Real GPT-3 175B answers to "
            f"the same questions have {real.mean_s:.1f} tokens, and as they are would give {each}; "
            "chat models write longer ones. So the ratios between the thresholds are reproduced, "
            f"and their level cannot be that of {settings.n_gpus} servers of {settings.batch_size} "
            f"requests at {settings.token_s} s per token with full GSM8K answers: figure 7 points "
            "to a factor of 8."
        )


def _order(what: str, difference: FloatArray) -> Check:
    """A published order, as a sign: the share of replications in which it holds is 1."""
    return Check(
        what=what + " [share of replications]",
        expected=1.0,
        source="published",
        ours=mean_interval((difference > 0).astype(np.float64)),
        tolerance=0.0,
        failing="not reproduced: the order is another one",
    )


_N_LEVELS = 5000
MID_LEVELS = (np.arange(_N_LEVELS) + 0.5) / _N_LEVELS  # they stand for a law, equally probable


def quantile_law(levels_percent: Sequence[float], quantiles: Sequence[float]) -> Empirical:
    """The law with these quantiles, and straight lines between them, in the quantiles' unit.

    Raises
    ------
    ValueError
        Unless the levels go from 0 to 100, each with its quantile, and neither decreases.

    Examples
    --------
    >>> quantile_law([0, 50, 100], [1.0, 2.0, 5.0]).mean_s
    2.5
    """
    levels, values = np.asarray(levels_percent), np.asarray(quantiles, dtype=np.float64)
    if len(levels) != len(values) or len(levels) < 2 or (levels[0], levels[-1]) != (0, 100):
        raise ValueError(
            f"levels must go from 0 to 100 %, one quantile each, got {len(levels)} levels and "
            f"{len(values)} quantiles"
        )
    if not ((np.diff(levels) > 0).all() and (np.diff(values) >= 0).all()):
        raise ValueError("levels must increase and quantiles must not decrease; sort them")
    return Empirical(np.interp(MID_LEVELS, levels / 100, values))
