"""Figures 6 and 7: GSM8K answers of Phi-3.5-mini, whose lengths are not published.

Lengths take a law with one free parameter, its scale, which the published threshold of k = 1 alone
fixes; everything else is predicted.  The law is lognormal, with the spread of real GSM8K answers
of another model; beside it stand those answers themselves, scaled the same way.  Figure 7 takes the
same laws, offline on one server, scaled to its own value of k = 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.metrics.intervals import mean_interval
from llmsched.studies.multibin.results import Check, FigureResult, ends, ratio
from llmsched.studies.multibin.runs import Point, Results, Sizes, Study, by_bins
from llmsched.theory.any_law import Span, implied_span, makespan_weights
from llmsched.theory.distributions import Empirical, Lognormal, ServiceLaw
from llmsched.theory.makespans import mean_makespan_s, saturated_throughput_per_s
from llmsched.theory.multi_bin import equal_mass_edges_s

LOGNORMAL, REAL = "lognormal", "GPT-3 175B lengths"
THRESHOLD, LATENCY = "Threshold [requests/s]", "Mean latency [s]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gsm8kSettings(Sizes):
    """Settings of figure 6; the field names are the TOML keys."""

    token_s: float  # per generated token, figure 5
    n_gpus: int
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

    @property
    def real_tokens(self) -> Empirical:
        """The answers of the other model, in tokens."""
        return quantile_law(self.length_levels, self.length_tokens)

    def scale_s(self, law: ServiceLaw) -> float:
        """The factor that gives the law the published threshold of one bin."""
        return self.threshold_per_s(law, 1) / self.thresholds[1]

    def threshold_per_s(self, law: ServiceLaw, n_bins: int) -> float:
        """Saturated throughput of all servers, by theory [requests/s]."""
        edges_s = equal_mass_edges_s(law, n_bins)
        return saturated_throughput_per_s(law, self.batch_size, edges_s=edges_s, n_gpus=self.n_gpus)

    def at(self, law: ServiceLaw, n_bins: int, rate_per_s: float = np.inf) -> Point:
        """A place on the curves."""
        return self.point(law, n_bins, arrival_rate_per_s=rate_per_s, n_gpus=self.n_gpus)


def fitted_laws(settings: Gsm8kSettings) -> dict[str, ServiceLaw]:
    """Both laws, scaled to the published threshold of one bin [s]."""
    shape, real = Lognormal(1.0, settings.log_sd), settings.real_tokens
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
        return settings.study(
            settings.at(law, k, rate)
            for law in self.laws.values()
            for k in settings.thresholds
            for rate in (np.inf, *settings.rates_per_s)
        )

    def result(self, results: Results | None) -> FigureResult:
        """Thresholds beside the published ones, latency curves, and what they imply."""
        import pandas as pd

        assert results is not None
        settings = self.settings
        tokens = self.laws[LOGNORMAL].mean_s / settings.token_s
        return FigureResult(
            number="6",
            title="GSM8K, 8 servers: throughput thresholds and latency",
            setting=f"B = {settings.batch_size}, {settings.n_gpus} servers, service time "
            f"{settings.token_s} s per token, {settings.n_requests} requests, "
            f"{settings.replications} replications",
            table=pd.DataFrame([row for name in self.laws for row in self._rows(name, results)]),
            checks=(*self._threshold_checks(results), *self._latency_checks(results)),
            notes=self._notes(),
            provided="five thresholds from the first, whose level implies answers of "
            f"{tokens:.0f} tokens on average",
            caption=f"{settings.caption} The scale of the lengths is fitted to the threshold of "
            "k = 1 alone.",
        )

    def _rows(self, name: str, results: Results) -> Iterator[dict[str, object]]:
        settings, law = self.settings, self.laws[name]
        for k, published in settings.thresholds.items():
            for rate in (np.inf, *settings.rates_per_s):
                saturated = bool(np.isinf(rate))
                quantity = "throughput_per_s" if saturated else "latency_s"
                yield {
                    "panel": THRESHOLD if saturated else LATENCY,
                    "lengths": name,
                    "n_bins": k,
                    "arrival_rate_per_s": rate,
                    **ends(results.interval(settings.at(law, k, rate), quantity)),
                    "theory": settings.threshold_per_s(law, k) if saturated else np.nan,
                    "published": published if saturated else np.nan,
                }

    def _threshold_checks(self, results: Results) -> Iterator[Check]:
        settings = self.settings
        for name, law in self.laws.items():
            for k, published in settings.thresholds.items():
                yield Check(
                    what=f"threshold, k = {k}, {name}{' (fitted)' if k == 1 else ''} [requests/s]",
                    expected=published,
                    source="published",
                    ours=results.interval(settings.at(law, k), "throughput_per_s"),
                    tolerance=settings.tolerance,
                    failing="shape only: a scale alone does not give it",
                )

    def _latency_checks(self, results: Results) -> Iterator[Check]:
        """Latency at low traffic: below k = 1's at k = 2 and 4, then rising with k."""
        settings, law = self.settings, self.laws[LOGNORMAL]

        def latency_s(k: int) -> FloatArray:
            return results.samples(settings.at(law, k, settings.low_rate_per_s), "latency_s")

        rising = itertools.pairwise(sorted(settings.thresholds)[2:])
        orders = [(f"k = {k} below k = 1", k, 1) for k in (2, 4)]
        orders += [(f"rises from k = {k} to k = {more}", k, more) for k, more in rising]
        for what, lower, higher in orders:
            holds = latency_s(higher) > latency_s(lower)
            yield Check(
                what=f"latency at {settings.low_rate_per_s:g}/s: {what} [share of replications]",
                expected=1.0,
                source="published",
                ours=mean_interval(holds.astype(np.float64)),
                tolerance=0.0,
                failing="not reproduced: the order is another one",
            )

    def _notes(self) -> tuple[str, ...]:
        settings, law = self.settings, self.laws[LOGNORMAL]
        wait = (settings.batch_size - 1) / 2  # times 1/rate: what a second bin costs, Lemma 5.1
        one_s, two_s = (
            mean_makespan_s(law, settings.batch_size, edges_s=equal_mass_edges_s(law, k))
            for k in (1, 2)
        )
        highest = max(settings.thresholds.values())
        most = settings.n_gpus * settings.batch_size / (settings.token_s * highest)
        return (
            f"Below {wait / (one_s - two_s):.1f} requests/s k = 1 is the fastest (Lemma 5.1): the "
            "published order of latencies holds only while forming a batch is quick.",
            "The ratios of the thresholds are reproduced, their level is not that of full answers: "
            f"{highest} requests/s need a mean of at most {most:.1f} tokens, and GPT-3's answers "
            f"have {settings.real_tokens.mean_s:.1f}. Figure 7 asks for about 8 times as much.",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineSettings:
    """Settings of figure 7; its laws and its batches are those of figure 6."""

    max_tokens: int
    n_requests: int
    replications: int
    draws: int
    n_bins: tuple[int, ...]
    throughput_per_s: Mapping[str, float]  # read off, by number of bins
    gain: float  # printed
    tolerance: float
    gain_tolerance: float


class Offline:
    """Figure 7: all requests at time 0, one server, at most 1,024 tokens."""

    def __init__(self, settings: OfflineSettings, gsm8k: Gsm8kSettings) -> None:
        self.settings = settings
        self.gsm8k = gsm8k
        self.sizes = Sizes(
            batch_size=gsm8k.batch_size,
            n_requests=settings.n_requests,
            replications=settings.replications,
            draws=settings.draws,
        )
        self.read_off = by_bins(settings.throughput_per_s)
        self.cap_s = settings.max_tokens * gsm8k.token_s
        self.laws = {name: self._scaled(law) for name, law in fitted_laws(gsm8k).items()}

    def _scaled(self, law: ServiceLaw) -> Empirical:
        """The law at the scale that gives the throughput of one bin, cut at the cap."""
        from scipy.optimize import brentq

        times_s = law.quantile_s(MID_LEVELS)

        def capped(factor: float) -> Empirical:
            return Empirical(np.minimum(times_s * factor, self.cap_s))

        def excess_per_s(factor: float) -> float:
            rate = saturated_throughput_per_s(capped(factor), self.sizes.batch_size)
            return rate - self.read_off[1]

        return capped(brentq(excess_per_s, 1e-3, 1e3))

    @property
    def mean_tokens(self) -> Span:
        """Mean answers that the plot leaves, whatever their law: read at both ends, or the gain."""
        one, b = self.read_off[1], self.sizes.batch_size
        weights = [makespan_weights(b, k) for k in (1, self.settings.n_bins[-1])]
        spans_s = [
            implied_span(
                makespan_weights(1),
                list(zip(weights, (b / one, b / many), strict=True)),
                longest=self.cap_s,
            )
            for many in (self.read_off[self.settings.n_bins[-1]], one * (1 + self.settings.gain))
        ]
        token_s = self.gsm8k.token_s
        return Span(
            low=min(span.low for span in spans_s) / token_s,
            high=max(span.high for span in spans_s) / token_s,
        )

    @property
    def study(self) -> Study:
        """Every number of bins, under both laws."""
        return self.sizes.study(
            self.sizes.point(law, k) for law in self.laws.values() for k in self.settings.n_bins
        )

    def result(self, results: Results | None) -> FigureResult:
        """Throughput against the number of bins, and the gain."""
        import pandas as pd

        assert results is not None
        settings, gsm8k = self.settings, self.gsm8k
        ours = " and ".join(
            f"{law.mean_s / gsm8k.token_s:.0f} ({name})" for name, law in self.laws.items()
        )
        mean = f"{self.mean_tokens.low:.0f} to {self.mean_tokens.high:.0f} tokens"
        return FigureResult(
            number="7",
            title="Phi-3.5-mini offline, one server: throughput against the number of bins",
            setting=f"B = {gsm8k.batch_size}, {settings.n_requests} requests at time 0, "
            f"at most {settings.max_tokens} tokens, {settings.replications} replications",
            table=pd.DataFrame([row for name in self.laws for row in self._rows(name, results)]),
            checks=tuple(check for name in self.laws for check in self._checks(name, results)),
            notes=(
                f"Whatever the law of lengths, these throughputs, {gsm8k.token_s} s per token and "
                f"a cap of {settings.max_tokens} leave answers of {mean} on average. The laws "
                f"here, a little faster at k = {settings.n_bins[-1]}, have {ours}. A fixed cost "
                "per batch counts as tokens, so with one they are shorter. Figure 6's level asks "
                "for about an eighth: the two cannot both hold for the same service times.",
            ),
            provided=f"k = {settings.n_bins[-1]} from k = 1, whose level asks for answers of "
            f"{mean} on average, whatever their law",
            caption=f"{self.sizes.caption} Crosses: read off the paper's plot. The scale of the "
            "lengths is fitted to k = 1 alone.",
        )

    def _rows(self, name: str, results: Results) -> Iterator[dict[str, object]]:
        law = self.laws[name]
        for k in self.settings.n_bins:
            edges_s = equal_mass_edges_s(law, k)
            yield {
                "lengths": name,
                "n_bins": k,
                **ends(results.interval(self.sizes.point(law, k), "throughput_per_s")),
                "theory": saturated_throughput_per_s(law, self.sizes.batch_size, edges_s=edges_s),
                "published": self.read_off.get(k, np.nan),
            }

    def _checks(self, name: str, results: Results) -> Iterator[Check]:
        settings, law = self.settings, self.laws[name]
        for k, read_off in self.read_off.items():
            yield Check(
                what=f"throughput, k = {k}, {name}{' (fitted)' if k == 1 else ''} [requests/s]",
                expected=read_off,
                source="read off",
                ours=results.interval(self.sizes.point(law, k), "throughput_per_s"),
                tolerance=settings.tolerance,
                failing="shape only: a scale alone does not give it",
            )
        few, many = (self.sizes.point(law, settings.n_bins[end]) for end in (0, -1))
        yield Check(
            what=f"throughput, k = {many.n_bins} over k = {few.n_bins}, {name} [ratio]",
            expected=1 + settings.gain,
            source="published",
            ours=ratio(results.gain(many, few)),
            tolerance=settings.gain_tolerance,
            failing="shape only",
        )
