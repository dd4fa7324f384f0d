"""Predictors: what a scheduler believes about output lengths before they are known.

Two kinds: those that predict a length (`oracle`, `noisy`, `prompt-power-law`), and those that
predict a bin (`bin-error`, `confusion`), as the classifiers of Guldogan et al., arXiv:2412.04504,
do.  Left out: any predictor that reads a prompt's text, which traces do not have.

A new predictor is one class with `name`, `random` and `predict`, and one entry in `PREDICTORS`;
from a user's own package, one entry point in the group `llmsched.predictors`, whose object takes
the text after the colon of the spec (empty where there is none) and returns the predictor.
A predictor is handed the whole trace, true lengths and later requests included, since `oracle` and
`noisy` are made of them: what it uses is its author's word. The trace is read-only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray, IntArray
from llmsched._util.plugins import (
    CALL_ERRORS,
    PluginError,
    is_ours,
    name_of,
    raise_failure,
    said,
)
from llmsched._util.registry import Registry
from llmsched.prediction.binning import Binning
from llmsched.prediction.edges import assign_bins
from llmsched.workload.trace import Trace

# The noise that gives equal-mass bins the published 4-bin accuracy, 62.97 %; derived in
# docs/decisions/001-default-predictor-sigma.md and again by a test.
DEFAULT_SIGMA = 0.674

# Figure 10 of arXiv:2412.04504: counts, rows the true bin, columns the predicted one.
BERT_CONFUSION: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((25802, 4778), (3668, 26716)),
    4: (
        (12165, 2584, 490, 178),
        (2668, 8385, 3386, 724),
        (287, 2569, 8145, 4186),
        (82, 730, 4689, 9696),
    ),
    8: (
        (5925, 1143, 410, 175, 53, 30, 13, 24),
        (1242, 3855, 1356, 643, 280, 127, 92, 49),
        (294, 1619, 3060, 1350, 601, 276, 149, 96),
        (147, 608, 1515, 2460, 1713, 796, 359, 120),
        (35, 170, 482, 1284, 2428, 1767, 1070, 251),
        (18, 64, 188, 615, 1683, 2267, 2154, 711),
        (7, 35, 110, 313, 915, 1902, 2998, 1329),
        (8, 32, 87, 220, 595, 1277, 2577, 2792),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Predicted output lengths, and the edges that turn them into the predicted bins."""

    tokens: IntArray  # (n,) predicted output length
    edges: FloatArray | None = None  # set by predictors of a bin: bin what is predicted at these
    service_s: FloatArray | None = None  # (n,) predicted time alone, where the workload draws it


class Predictor(Protocol):
    """Something that predicts the output length of every request of a trace."""

    @property
    def name(self) -> str:
        """The spec that names this predictor, such as `noisy:0.5`."""
        ...

    @property
    def random(self) -> bool:
        """Whether `predict` draws from `rng`, so that replications differ."""
        ...

    def predict(self, trace: Trace, binning: Binning, rng: np.random.Generator) -> Prediction:
        """Predictions for the whole trace; `binning` matters to predictors of a bin only."""
        ...


def predictor_from_spec(spec: str) -> Predictor:
    """The predictor that a text such as `oracle`, `noisy:0.5` or `bin-error:0.1` names.

    Raises
    ------
    ValueError
        If no predictor has that name, or it does not accept the text after the colon.

    Examples
    --------
    >>> predictor_from_spec("bin-error:0.10").name
    'bin-error:0.1'
    """
    if not isinstance(spec, str):
        raise ValueError(f"predictor must be a text such as noisy:0.5, got {spec!r}")
    name, _, argument = spec.partition(":")
    maker = PREDICTORS.named(name)
    try:
        made = maker(argument)
    except CALL_ERRORS as error:
        if is_ours(maker):
            raise
        label = PREDICTORS.label(name)
        raise PluginError(f"{label} must accept {argument!r}, got {said(error)}") from error
    if not callable(getattr(made, "predict", None)):
        label = PREDICTORS.label(name)
        raise PluginError(f"{label} must make an object with predict, got {made!r}")
    return made


def predict(
    predictor: Predictor, trace: Trace, binning: Binning, rng: np.random.Generator
) -> Prediction:
    """What a predictor says of a trace, checked.

    Raises
    ------
    PluginError
        If somebody else's predictor fails, or says what cannot be meant for this trace.
    """
    try:
        made = predictor.predict(trace, binning, rng)
    except CALL_ERRORS as error:
        raise_failure(predictor, "predict", error)
    if not isinstance(made, Prediction):
        raise PluginError(f"{name_of(predictor)}.predict must give a Prediction, got {made!r}")
    for column, kinds in (("tokens", "iu"), ("service_s", "iuf")):
        values = getattr(made, column)
        if column == "service_s" and values is None:
            continue
        shape, kind = np.shape(values), getattr(values, "dtype", np.dtype(object)).kind
        if shape != (len(trace),) or kind not in kinds or not (values >= 0).all():
            raise PluginError(
                f"{name_of(predictor)}.predict must give {column} >= 0, one "
                f"{'whole ' if kinds == 'iu' else ''}number for each of {len(trace)} requests, "
                f"got shape {shape} of kind {kind!r}"
            )
    return made


@dataclass(frozen=True, slots=True)
class Oracle:
    """The true output length."""

    name: ClassVar[str] = "oracle"
    random: ClassVar[bool] = False

    def predict(self, trace: Trace, binning: Binning, rng: np.random.Generator) -> Prediction:
        return Prediction(tokens=trace.output_tokens, service_s=trace.service_s)


@dataclass(frozen=True, slots=True)
class Noisy:
    """The true length times a lognormal(0, sigma) factor, in whole tokens, at least 1.

    A failed request (0 output tokens) is predicted as if it had 1: what it would have said is
    not in the trace.
    """

    sigma: float = DEFAULT_SIGMA

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < np.inf:
            raise ValueError(f"noisy:SIGMA must be finite and >= 0, got {self.sigma:g}")

    @property
    def name(self) -> str:
        return f"noisy:{self.sigma}"

    @property
    def random(self) -> bool:
        return self.sigma > 0

    def predict(self, trace: Trace, binning: Binning, rng: np.random.Generator) -> Prediction:
        true_tokens = np.maximum(trace.output_tokens, 1)
        if not self.random:
            return Prediction(tokens=true_tokens, service_s=trace.service_s)
        factors = _lognormal(rng, self.sigma, len(trace))
        service_s = None if trace.service_s is None else trace.service_s * factors
        factors *= true_tokens
        return Prediction(tokens=_whole_tokens(factors, self.name), service_s=service_s)


@dataclass(frozen=True, slots=True)
class PromptPowerLaw:
    """1.5 * prompt^0.7 * lognormal(0, 0.1), clamped to 1..4096: knows nothing of the output.

    Both the law and the clamp are those of the simulator that this project grew out of, kept for
    comparison; the two extremes are part of the published predictor.
    """

    name: ClassVar[str] = "prompt-power-law"
    random: ClassVar[bool] = True

    def predict(self, trace: Trace, binning: Binning, rng: np.random.Generator) -> Prediction:
        tokens = _lognormal(rng, 0.1, len(trace))
        tokens *= 1.5 * trace.prompt_tokens**0.7
        np.minimum(tokens, 4096, out=tokens)
        return Prediction(tokens=_whole_tokens(tokens, self.name))


@dataclass(frozen=True, slots=True)
class BinError:
    """True bin i is taken for i - 1 and for i + 1 with probability p each (§6.2 of the paper).

    The first and the last bin are taken for their only neighbour with probability p.  Bins that
    hold no request are skipped: neighbours are those among the bins that do.
    """

    probability: float

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 0.5:
            raise ValueError(f"bin-error:P must have P in [0, 0.5], got {self.probability:g}")

    @property
    def name(self) -> str:
        return f"bin-error:{self.probability}"

    def predict(self, trace: Trace, binning: Binning, rng: np.random.Generator) -> Prediction:
        def confusion(count: NDArray[np.intp]) -> FloatArray:
            n_held = int(np.count_nonzero(count))
            neighbours = np.eye(n_held, k=1) + np.eye(n_held, k=-1)
            mistaken = self.probability * neighbours
            return mistaken + np.diag(1 - mistaken.sum(axis=1))

        return _predict_bins(trace, binning, rng, confusion, self.name)


@dataclass(frozen=True, slots=True)
class BertConfusion:
    """The published BERT predictor's mistakes: its confusion matrices of 2, 4 and 8 bins.

    Rows are normalised to probabilities.  Where tied lengths leave fewer equal-mass bins, each
    mixes the rows and columns of the quarters (or eighths) that it covers.  With fixed edges, row
    i is bin i's; bins that hold no request are left out and the rows normalised again.
    """

    name: ClassVar[str] = "confusion:bert"
    random: ClassVar[bool] = True

    def predict(self, trace: Trace, binning: Binning, rng: np.random.Generator) -> Prediction:
        if binning.n_bins != 1 and binning.n_bins not in BERT_CONFUSION:
            raise ValueError(
                "confusion:bert is published for 2, 4 and 8 bins, got "
                f"{binning.n_bins}; use one of those, or bin-error:P"
            )

        def confusion(count: NDArray[np.intp]) -> FloatArray:
            rates = np.asarray(BERT_CONFUSION[binning.n_bins], dtype=np.float64)
            rates /= rates.sum(axis=1, keepdims=True)
            held = count > 0
            if binning.edges is None:
                return rates if held.sum() == len(rates) else _mixed(rates, count[held])
            rates = rates[np.ix_(held, held)]
            return cast(FloatArray, rates / rates.sum(axis=1, keepdims=True))

        return _predict_bins(trace, binning, rng, confusion, self.name)


def _number(form: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{form} must have a number after the colon, got {text!r}") from None


def _without_argument(predictor: Predictor, text: str) -> Predictor:
    if text:
        raise ValueError(f"{predictor.name} takes nothing after its name, got {text!r}")
    return predictor


def _bert(text: str) -> Predictor:
    if text != "bert":
        raise ValueError(f"confusion must name a published matrix, confusion:bert; got {text!r}")
    return BertConfusion()


def _lognormal(rng: np.random.Generator, sigma: float, n: int) -> FloatArray:
    factors = rng.standard_normal(n)
    factors *= sigma
    with np.errstate(over="ignore"):  # an absurd sigma is reported by `_whole_tokens`
        return np.exp(factors, out=factors)


def _whole_tokens(tokens: FloatArray, name: str) -> IntArray:
    """Rounded to whole tokens, at least 1; overwrites `tokens`."""
    np.rint(tokens, out=tokens)
    np.maximum(tokens, 1, out=tokens)
    largest = tokens.max(initial=1)
    if not largest <= np.iinfo(np.int32).max:
        raise ValueError(
            f"predicted lengths must fit 32 bits, got {largest:.3g} tokens from {name}; "
            "use less noise"
        )
    return tokens.astype(np.int32)


def _predict_bins(
    trace: Trace,
    binning: Binning,
    rng: np.random.Generator,
    confusion: Callable[[NDArray[np.intp]], FloatArray],
    name: str,
) -> Prediction:
    """Draw each request's predicted bin, then the length of a random true member of that bin.

    `confusion(count)` gives the probabilities, rows the true and columns the predicted bin, over
    those bins that hold a request; `count` is how many each bin holds.
    """
    true_tokens, drawn_s = trace.output_tokens, trace.service_s
    if binning.n_bins == 1:  # no bins, nothing to mistake
        return Prediction(tokens=true_tokens, service_s=drawn_s)
    by_service = binning.by == "service" and drawn_s is not None
    if binning.by not in (None, "output") and not by_service:
        raise ValueError(
            f"{name} predicts a bin of output tokens, so bins must be by output, got "
            f"{binning.by!r}; bin by output, or use noisy:SIGMA"
        )
    true_values = drawn_s if by_service and drawn_s is not None else true_tokens
    edges = binning.edges_of(true_values)
    true_bin = assign_bins(true_values, edges)
    count = np.bincount(true_bin, minlength=len(edges) + 1)
    first = np.cumsum(count) - count
    held = np.flatnonzero(count).astype(np.int32)
    cumulative = np.cumsum(confusion(count), axis=1)
    cumulative /= cumulative[:, -1:]
    # at most 64 bins: one byte each makes the stable sort a radix sort
    by_bin = np.argsort(true_bin.astype(np.uint8), kind="stable")
    which_bin, which_member = rng.random(len(true_tokens)), rng.random(len(true_tokens))
    like = np.empty(len(true_tokens), dtype=np.intp)  # the request whose length is predicted
    for row, true in enumerate(held):
        members = by_bin[first[true] : first[true] + count[true]]
        target = held[np.searchsorted(cumulative[row], which_bin[members], side="right")]
        pick = (which_member[members] * count[target]).astype(np.intp)
        like[members] = by_bin[first[target] + pick]
    service_s = None if drawn_s is None else drawn_s[like]
    return Prediction(tokens=true_tokens[like], edges=edges, service_s=service_s)


def _mixed(rates: FloatArray, count: NDArray[np.intp]) -> FloatArray:
    """A confusion matrix of K equal-mass bins, over the bins of other masses that ties have left.

    A bin stands for the K-ths of the ranked requests that it covers, in proportion.
    """
    n_bins = len(rates)
    upper = np.cumsum(count) / count.sum()
    lower = upper - count / count.sum()
    kth = np.arange(n_bins) / n_bins
    overlap = np.minimum(upper[:, None], kth + 1 / n_bins) - np.maximum(lower[:, None], kth)
    overlap = np.maximum(overlap, 0)
    rows = overlap / overlap.sum(axis=1, keepdims=True)
    columns = overlap / overlap.sum(axis=0)
    return cast(FloatArray, rows @ rates @ columns.T)


# Name -> what makes the predictor from the text after the colon.
PREDICTORS: Registry[Callable[[str], Predictor]] = Registry(
    "predictor",
    "llmsched.predictors",
    {
        "oracle": lambda text: _without_argument(Oracle(), text),
        "noisy": lambda text: Noisy(_number("noisy:SIGMA", text)) if text else Noisy(),
        "bin-error": lambda text: BinError(_number("bin-error:P", text)),
        "confusion": _bert,
        "prompt-power-law": lambda text: _without_argument(PromptPowerLaw(), text),
    },
)
