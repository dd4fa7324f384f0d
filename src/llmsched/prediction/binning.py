"""Bins: which lengths belong together, by equal-mass, optimal or fixed edges.

The exact semantics of the project: the edges are the i/K quantiles (numpy, linear) of what is
binned, over the requests being run; a request's bin is the number of edges <= its value; equal
edges merge.  The K-bin batching they serve is Guldogan et al., arXiv:2412.04504, Algorithm 1;
optimal edges, which go beyond it, are in `optimal_edges`.  Rolling edges are equal-mass ones over
recent arrivals only: what a scheduler can know that has not seen the whole run.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast, get_args

from llmsched._util.limits import DEFAULT_BINS, MAX_BINS
from llmsched._util.options import check_options, option

if TYPE_CHECKING:
    from llmsched._util.arrays import FloatArray, IntArray
    from llmsched.latency.base import LatencyModel
    from llmsched.workload.trace import Trace

BinBy = Literal["output", "total", "service"]
EdgeRule = Literal["equal-mass", "optimal", "rolling"]
# Batch that optimal edges are made for where the batcher is dynamic: about what it forms in
# saturation, and any from 4 to 128 does nearly as well (docs/decisions/003-optimal-edges.md).
DYNAMIC_BATCH_SIZE = 16
ONE_QUEUE = "use 1 for a single FIFO queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binning:
    """How requests are split into bins: by what, and at which edges.

    Parameters
    ----------
    n_bins : int
        Bins (K), in [1, 64]; with fixed edges it becomes their number plus one, and a value
        other than the default must agree with them.
    by : {"output", "total", "service"}, optional
        What is binned: predicted output [tokens], prompt + predicted output [tokens], or the
        latency model's predicted service time of the request alone [s]. None leaves it to the
        scheduler: output, unless it says otherwise.
    edges : tuple of float, optional
        Fixed edges, positive and increasing, in the unit of `by`; None where `rule` finds them.
    rule : {"equal-mass", "optimal", "rolling"}, optional
        How edges that are not fixed follow from the values: bins of equal mass, of least
        expected batch maximum (`optimal_edges`), or of equal mass over recent arrivals
        (`rolling_bins`). None leaves it to the scheduler: equal mass, unless it says otherwise.
    batch_size : int, optional
        Batch that optimal edges are made for [requests]; None for the scheduler's own, which
        `simulate` fills in (`for_batches_of`).

    Raises
    ------
    ValueError
        If a field is out of range or two contradict each other.
    """

    n_bins: int = option(
        DEFAULT_BINS,
        "Number of bins.",
        flag="bins",
        metavar="N",
        least=1,
        most=MAX_BINS,
        hint=ONE_QUEUE,
    )
    by: BinBy | None = option(
        None,
        "What is binned: predicted output, prompt plus predicted output, or predicted service time "
        "alone.",
        flag="bin-by",
        choices=get_args(BinBy),
        default_text="output; service for multi_bin_adaptive",
    )
    edges: tuple[float, ...] | None = option(
        None,
        "Equal mass, fixed edges in the unit of --bin-by, rolling (equal mass over recent arrivals "
        "only), or optimal: the edges at which a batch of B is shortest on average (B by default "
        "the fixed batch size, or 16).",
        flag="bin-edges",
        metavar="E1,E2,...|equal-mass|rolling|optimal[:B]",
        parse=str,
        default_text="equal-mass; rolling for multi_bin_adaptive",
    )
    rule: EdgeRule | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_options(self)
        self._check_rule()
        if self.edges is None:
            return
        _check_edges(self.edges)
        n_bins = len(self.edges) + 1
        if self.n_bins not in (DEFAULT_BINS, n_bins):
            raise ValueError(
                f"n_bins must be {n_bins} with the {len(self.edges)} fixed edges given, got "
                f"{self.n_bins}; leave one of the two out"
            )
        object.__setattr__(self, "n_bins", n_bins)

    def _check_rule(self) -> None:
        rules = get_args(EdgeRule)
        if self.rule is not None and self.rule not in rules:
            raise ValueError(f"rule must be one of {', '.join(rules)}; got {self.rule!r}")
        if self.rule in ("optimal", "rolling") and self.edges is not None:
            raise ValueError(
                f"{self.rule} edges must not be fixed as well, got {len(self.edges)} edges; leave "
                "one of the two out"
            )
        if self.batch_size is None:
            return
        if self.rule != "optimal":
            raise ValueError(
                f"batch_size must be left out unless edges are optimal, got {self.batch_size}"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size of optimal edges must be >= 1, got {self.batch_size}")

    @classmethod
    def parse(
        cls, spec: str | None, *, n_bins: int | None = None, by: BinBy | None = None
    ) -> Binning:
        """The binning that a text asks for; without one, the scheduler's own edges.

        `equal-mass`; `rolling`; `optimal`, or `optimal:B` for batches of B requests; or edges
        such as `64,256,1024`.

        Examples
        --------
        >>> Binning.parse("64,256,1024").n_bins
        4
        >>> Binning.parse("equal-mass", n_bins=8).edges is None
        True
        >>> Binning.parse("optimal:16").batch_size
        16
        """
        asked = DEFAULT_BINS if n_bins is None else n_bins
        if spec is None:
            return cls(n_bins=asked, by=by)
        rule, colon, size = spec.strip().partition(":")
        if rule == "optimal":
            return cls(
                n_bins=asked, by=by, rule="optimal", batch_size=_batch_size(size) if colon else None
            )
        if not colon and rule in ("equal-mass", "rolling"):
            return cls(n_bins=asked, by=by, rule=cast(EdgeRule, rule))
        try:
            edges = tuple(float(edge) for edge in spec.split(","))
        except ValueError:
            raise ValueError(
                "bin edges must be equal-mass, rolling, optimal or increasing numbers such as "
                f"64,256,1024; got {spec!r}"
            ) from None
        if n_bins is not None and n_bins != len(edges) + 1:
            raise ValueError(
                f"n_bins must be {len(edges) + 1} with bin edges {spec}, got {n_bins}; "
                "leave one of the two out"
            )
        return cls(by=by, edges=edges)

    def values(
        self, trace: Trace, predicted_tokens: IntArray, latency: LatencyModel
    ) -> FloatArray | IntArray:
        """What is binned, one value per request [tokens, or s for `by="service"`], shape (n,)."""
        if self.by in (None, "output"):
            return predicted_tokens
        total_tokens = trace.prompt_tokens.astype("int64") + predicted_tokens
        if self.by == "total":
            return total_tokens
        from llmsched.latency.base import alone_s

        return alone_s(latency, trace.prompt_tokens, predicted_tokens)

    @property
    def spec(self) -> str | None:
        """The edges as `parse` takes them; None where they are left to the scheduler."""
        if self.edges is not None:
            return ",".join(f"{edge:.15g}" for edge in self.edges)
        if self.rule == "optimal" and self.batch_size is not None:
            return f"optimal:{self.batch_size}"
        return self.rule

    def or_else(self, by: BinBy, rule: EdgeRule) -> Binning:
        """This binning, with these in place of what it leaves to the scheduler."""
        chosen = self.rule or ("equal-mass" if self.edges is not None else rule)
        return replace(self, by=self.by or by, rule=chosen)

    def for_batches_of(self, batch_size: int) -> Binning:
        """This binning, its optimal edges made for batches of this size unless one was given."""
        if self.rule != "optimal" or self.batch_size is not None:
            return self
        return replace(self, batch_size=batch_size)

    def edges_of(self, values: FloatArray | IntArray) -> FloatArray:
        """The edges these values are binned at: the fixed ones, or those of the rule.

        Raises
        ------
        ValueError
            If edges are optimal and the batch size is not known yet.
        """
        import numpy as np

        from llmsched.prediction.edges import equal_mass_edges

        if self.edges is not None:
            return np.asarray(self.edges, dtype=np.float64)
        if self.rule != "optimal":
            return equal_mass_edges(values, self.n_bins)
        if self.batch_size is None:
            raise ValueError(
                "optimal edges must know the batch size, got none; give batch_size, or use "
                "for_batches_of"
            )
        from llmsched.prediction.optimal_edges import optimal_edges

        return optimal_edges(values, self.n_bins, batch_size=self.batch_size)

    def bins_of(self, values: FloatArray | IntArray) -> tuple[IntArray, FloatArray]:
        """The bin of each value, and the edges; of rolling ones, those in force at the end."""
        from llmsched.prediction.edges import assign_bins, rolling_bins

        if self.rule == "rolling":
            return rolling_bins(values, self.n_bins)
        edges = self.edges_of(values)
        return assign_bins(values, edges), edges


def _batch_size(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"optimal:B must have a whole number of requests after the colon, got {text!r}"
        ) from None


def _check_edges(edges: tuple[float, ...]) -> None:
    if not 1 <= len(edges) < MAX_BINS:
        raise ValueError(
            f"fixed bin edges must number 1 to {MAX_BINS - 1}, got {len(edges)}; "
            "use n_bins=1 for a single FIFO queue"
        )
    increasing = all(low < high for low, high in itertools.pairwise(edges))
    if not (all(map(math.isfinite, edges)) and edges[0] > 0 and increasing):
        raise ValueError(
            "fixed bin edges must be positive, finite and strictly increasing, got "
            + ",".join(f"{edge:g}" for edge in edges)
        )
