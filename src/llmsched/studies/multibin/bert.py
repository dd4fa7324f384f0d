"""Figure 11 and table 1: the BERT length predictor, through its published confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmsched.metrics.intervals import Interval
from llmsched.prediction.predictors import BERT_CONFUSION
from llmsched.studies.multibin.gsm8k import quantile_law
from llmsched.studies.multibin.results import Check, FigureResult, computed, ends, ratio
from llmsched.studies.multibin.runs import Point, Results, Sizes, Study, by_bins
from llmsched.theory.distributions import Empirical, ServiceLaw
from llmsched.theory.makespans import mean_makespan_s
from llmsched.theory.multi_bin import equal_mass_edges_s

ORACLE, BERT = "oracle", "confusion:bert"


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
    tolerance: float


class Bert:
    """Figure 11: oracle lengths beside the BERT predictor's bins, offline."""

    def __init__(self, settings: BertSettings) -> None:
        self.settings = settings
        words = quantile_law(settings.length_levels, settings.length_words).values_s
        tokens = np.maximum(np.rint(words * settings.tokens_per_word), 1)
        self.law = Empirical(np.minimum(tokens, settings.max_tokens))  # 1 s per token
        self.printed = {ORACLE: settings.oracle_gain, BERT: settings.predictor_gain}

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
                "theory": bert_gain(self.law, settings.batch_size, k, name),
                "published": printed if k == 4 else np.nan,
            }
            for name, printed in self.printed.items()
            for k in settings.n_bins
        ]
        checks = [
            Check(
                what=f"throughput, k = 4 over k = 1, {name} [ratio]",
                expected=1 + printed,
                source="published",
                ours=ratio(gain(name, 4)),
                tolerance=settings.tolerance,
                failing="shape only: the lengths, and what a batch costs beside its longest "
                "member, are not published",
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
            notes=(
                "With the published confusion matrix, misses that depend on the true bin alone "
                "cost less than the paper measured.",
            ),
            caption=f"{settings.caption} Lines: theory, full batches. Crosses: published.",
        )


def bert_gain(law: ServiceLaw, batch_size: int, n_bins: int, predictor: str) -> float:
    """Relative gain in throughput of full batches over one bin, with oracle or BERT bins."""
    confusion = BERT_CONFUSION[n_bins] if predictor == BERT and n_bins > 1 else None
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
