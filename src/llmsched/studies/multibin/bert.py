"""Figure 11 and table 1: the BERT length predictor, through its published confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from llmsched._util.arrays import FloatArray
from llmsched.metrics.intervals import Interval
from llmsched.prediction.predictors import BERT_CONFUSION
from llmsched.studies.multibin.gsm8k import quantile_law
from llmsched.studies.multibin.results import Check, FigureResult, computed, ends, ratio
from llmsched.studies.multibin.runs import Point, Results, Sizes, Study, by_bins
from llmsched.theory.any_law import Span, implied_span, makespan_weights
from llmsched.theory.distributions import Empirical, ServiceLaw
from llmsched.theory.makespans import confusion_matrix, mean_makespan_s
from llmsched.theory.multi_bin import equal_mass_edges_s

ORACLE, BERT = "oracle", "confusion:bert"
N_BINS = 4  # of the printed gains


@dataclass(frozen=True, slots=True, kw_only=True)
class BertSettings(Sizes):
    """Settings of figure 11; the field names are the TOML keys."""

    n_bins: tuple[int, ...]
    max_tokens: int
    tokens_per_word: float
    length_levels: tuple[float, ...]  # 0 to 100 [%]
    length_words: tuple[float, ...]  # the quantile at each level
    oracle_gain: float  # printed, from k = 1 to 4
    predictor_gain: float
    prefill_tokens: float  # the most that a batch's prompts take, in decode steps
    tolerance: float


class Bert:
    """Figure 11: oracle lengths beside the BERT predictor's bins, offline."""

    def __init__(self, settings: BertSettings) -> None:
        self.settings = settings
        words = quantile_law(settings.length_levels, settings.length_words).values_s
        self.tokens = np.maximum(np.rint(words * settings.tokens_per_word), 1)
        self.law = self.law_of()
        self.printed = {ORACLE: settings.oracle_gain, BERT: settings.predictor_gain}

    def law_of(self, *, factor: float = 1.0, fixed: float = 0.0) -> Empirical:
        """Answers `factor` times as long, cut at the cap; `fixed` tokens' time a batch [tokens]."""
        return Empirical(np.minimum(self.tokens * factor, self.settings.max_tokens) + fixed)

    def point(self, n_bins: int, predictor: str) -> Point:
        """All requests at time 0; one bin needs no predictor."""
        predictor = ORACLE if n_bins == 1 else predictor
        return self.settings.point(self.law, n_bins, predictor=predictor)

    @property
    def study(self) -> Study:
        """Both predictors, every number of bins."""
        return self.settings.study(
            self.point(k, name) for name in self.printed for k in self.settings.n_bins
        )

    def result(self, results: Results | None) -> FigureResult:
        """Gains over one bin, beside the published ones."""
        import pandas as pd

        assert results is not None
        settings = self.settings

        def gain(name: str, n_bins: int) -> Interval:
            return results.gain(self.point(n_bins, name), self.point(1, ORACLE))

        rows = [
            {
                "predictor": name,
                "n_bins": k,
                **ends(gain(name, k)),
                "theory": full_gain(
                    self.law,
                    settings.batch_size,
                    k,
                    BERT_CONFUSION[k] if name == BERT and k > 1 else None,
                ),
                "published": printed if k == N_BINS else np.nan,
            }
            for name, printed in self.printed.items()
            for k in settings.n_bins
        ]
        needed = self.needed
        failing = {
            ORACLE: "shape only: LMSYS answers would have to be "
            f"{needed.length_factor:.1f} times as long",
            BERT: "shape only: needs a predictor right for at most "
            f"{percent(max(needed.accuracies))} of the requests",
        }
        checks = [
            Check(
                what=f"throughput, k = {N_BINS} over k = 1, {name} [ratio]",
                expected=1 + printed,
                source="published",
                ours=ratio(gain(name, N_BINS)),
                tolerance=settings.tolerance,
                failing=failing[name],
            )
            for name, printed in self.printed.items()
        ]
        return FigureResult(
            number="11",
            title="Oracle lengths and the BERT predictor, Vicuna-13B offline",
            setting=f"B = {settings.batch_size}, {settings.n_requests} requests at time 0, LMSYS "
            f"lengths of at most {settings.max_tokens} tokens, {settings.replications} "
            "replications",
            table=pd.DataFrame(rows),
            checks=tuple(checks),
            notes=self._notes(needed),
            caption=f"{settings.caption} Lines: theory, full batches. Crosses: published.",
        )

    def _notes(self, needed: Needed) -> tuple[str, ...]:
        settings, edge = self.settings, needed.predictor_gain
        oracle, printed = percent(settings.oracle_gain), percent(settings.predictor_gain)
        gains, accuracies = (
            f"{100 * min(shares):.0f} to {percent(max(shares))}"
            for shares in (needed.predictor_gains, needed.accuracies)
        )
        return (
            f"Where the oracle gains {oracle}, figure 10's predictor gains {100 * edge.low:.0f} to "
            f"{percent(edge.high)}, whatever the lengths, their cap and a batch's fixed cost. The "
            f"printed {printed} is the edge of that: it asks for a quarter of nearly empty answers "
            "and nearly equal others. (Misses depend on the true bin alone; full batches: the "
            "part-full last ones take 1 to 2 points.)",
            f"For {oracle}, LMSYS answers would have to be {needed.length_factor:.1f} times as "
            f"long, {percent(needed.share_cut)} of them cut at {settings.max_tokens} tokens. Or a "
            f"batch would need a fixed cost of {needed.fixed_tokens:.0f} decode steps; prefill is "
            f"at most {settings.prefill_tokens:g} (8 prompts of 512 tokens). Either way the "
            f"predictor gains {gains}: for {printed}, only {accuracies} of the requests may go to "
            f"their bin, not {percent(accuracy(N_BINS, 0))}.",
        )

    @property
    def needed(self) -> Needed:
        """What lengths, fixed cost and misses must have been to give both printed gains."""
        from scipy.optimize import brentq

        b, goal = self.settings.batch_size, self.settings.oracle_gain
        one_s, binned_s = (
            mean_makespan_s(self.law, b, edges_s=equal_mass_edges_s(self.law, k))
            for k in (1, N_BINS)
        )
        factor = brentq(lambda x: full_gain(self.law_of(factor=x), b, N_BINS) - goal, 1, 3)
        fixed = (one_s - (1 + goal) * binned_s) / goal
        laws = self.law_of(factor=factor), self.law_of(fixed=fixed)
        return Needed(
            predictor_gain=predictor_gains(b, goal),
            length_factor=factor,
            share_cut=float(np.mean(laws[0].values_s == self.settings.max_tokens)),
            fixed_tokens=fixed,
            predictor_gains=tuple(
                full_gain(law, b, N_BINS, BERT_CONFUSION[N_BINS]) for law in laws
            ),
            accuracies=tuple(self._accuracy_needed(law) for law in laws),
        )

    def _accuracy_needed(self, law: ServiceLaw) -> float:
        """Share of requests in their bin that gives the predictor's printed gain.

        Of the predictions, some are those of figure 10 and the others guesses.
        """
        from scipy.optimize import brentq

        published = confusion_matrix(BERT_CONFUSION[N_BINS], N_BINS)

        def mixed(guesses: float) -> FloatArray:
            return np.asarray(published + guesses * (1 / N_BINS - published))

        def excess(guesses: float) -> float:
            gain = full_gain(law, self.settings.batch_size, N_BINS, mixed(guesses))
            return gain - self.settings.predictor_gain

        return float(np.trace(mixed(brentq(excess, 0, 1))) / N_BINS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What unpublished quantities must have been for figure 11's gains at k = 4."""

    predictor_gain: Span  # beside the oracle's printed one, whatever the law
    length_factor: float  # the oracle's printed gain needs answers so many times as long,
    share_cut: float  # so many of them cut at the cap,
    fixed_tokens: float  # or this time per batch beside its longest member
    predictor_gains: tuple[float, ...]  # the predictor's, either way
    accuracies: tuple[float, ...]  # and its share of requests in their bin for its printed gain


def predictor_gains(batch_size: int, oracle_gain: float) -> Span:
    """Gains that figure 10's predictor can have where the oracle has `oracle_gain`, for any law.

    Of full batches in four bins of equal mass; a miss depends on the true bin alone.
    """
    one, oracle, bert = (
        makespan_weights(batch_size),
        makespan_weights(batch_size, N_BINS),
        makespan_weights(batch_size, N_BINS, confusion=BERT_CONFUSION[N_BINS]),
    )
    times = implied_span(bert, [(one, 1.0), (oracle, 1 / (1 + oracle_gain))])
    return Span(low=1 / times.high - 1, high=1 / times.low - 1)


def percent(share: float) -> str:
    """A share in words: `45 %`."""
    return f"{100 * share:.0f} %"


def full_gain(
    law: ServiceLaw, batch_size: int, n_bins: int, confusion: ArrayLike | None = None
) -> float:
    """Relative gain in throughput of full batches over one bin; oracle bins by default."""
    edges_s = equal_mass_edges_s(law, n_bins)
    binned_s = mean_makespan_s(law, batch_size, edges_s=edges_s, confusion=confusion)
    return mean_makespan_s(law, batch_size) / binned_s - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracySettings:
    """Published accuracies of table 1, by number of bins [%]; the field names are the TOML keys."""

    exact_percent: Mapping[str, float]
    within_one_percent: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Table 1, recomputed from the confusion matrices of figure 10."""

    settings: AccuracySettings
    study: None = None

    def result(self, results: Results | None) -> FigureResult:
        """Accuracies beside the printed ones."""
        import pandas as pd

        published = (
            ("bin accuracy", 0, self.settings.exact_percent),
            ("accuracy within one bin", 1, self.settings.within_one_percent),
        )
        checks = [
            Check(
                what=f"{name}, k = {k} [%]",
                expected=printed,
                source="published",
                ours=computed(100 * accuracy(k, reach)),
                tolerance=0.01 / printed,  # one unit of the last digit
                failing="not reproduced: the matrix and the table disagree",
            )
            for name, reach, values in published
            for k, printed in by_bins(values).items()
        ]
        return FigureResult(
            number="table-1",
            title="Bin accuracy of the BERT predictor, from figure 10's matrices",
            setting="The confusion matrices that `--predictor confusion:bert` uses",
            table=pd.DataFrame(
                {"what": check.what, "published": check.expected, "ours": check.ours.mean}
                for check in checks
            ),
            checks=tuple(checks),
            notes=("The printed percentages are cut off after two digits, not rounded.",),
        )


def accuracy(n_bins: int, reach: int) -> float:
    """Share of requests whose predicted bin is at most `reach` bins from the true one."""
    counts = np.asarray(BERT_CONFUSION[n_bins], dtype=np.float64)
    true, predicted = np.indices(counts.shape)
    return float(counts[abs(true - predicted) <= reach].sum() / counts.sum())
