"""The two-regime form fitted to any step-time model, sampled on a grid of steps.

Decode-only steps are fitted first and alone: a fit over all steps is ruled by the prefills and is
10 % off in the decodes, which most steps are. Both fits are least squares of relative errors, with
no coefficient below 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llmsched._util.arrays import FloatArray
from llmsched.latency.steps.base import StepLatency
from llmsched.latency.steps.two_regime import DecodeTerms, MixedTerms, RegimeErrors, TwoRegime

_DECODE = ("c0_s", "cb_s", "ckv_s")
_MIXED = ("c0_s", "cp_s", "cb_s", "ckv_s", "cpair_s")
_N0_STRIDE = 16  # of the first, coarse search


class Step(NamedTuple):
    """One step of the grid: at most one prefill, and decodes."""

    chunk: int
    kv_before: int
    n_decodes: int
    decode_kv: int  # their sum


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGrid:
    """The steps that a form is fitted to: those of these values that fit a server.

    The constants are good where these steps are, so give the limits of the server to simulate.
    """

    kv_tokens: int  # context that fits its memory
    step_tokens: int = 2048  # vLLM's max_num_batched_tokens; longer prefills are cut to it
    decodes: Sequence[int] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    mean_kv: Sequence[int] = tuple(range(128, 2049, 128))
    chunks: Sequence[int] = (64, 128, 256, 512, 1024, 2048)
    kv_before: Sequence[int] = (0, 512, 2048)

    def decode_steps(self) -> list[Step]:
        """Every number of decodes at every mean context."""
        every = (Step(0, 0, n, n * kv) for n in self.decodes for kv in self.mean_kv)
        return [step for step in every if step.decode_kv <= self.kv_tokens]

    def mixed_steps(self) -> list[Step]:
        """One prefill alone, and one beside each set of decodes."""
        found: dict[Step, None] = {}  # a set that keeps the order
        for _, _, n, kv in (Step(0, 0, 0, 0), *self.decode_steps()):
            for chunk in self.chunks:
                cut = min(chunk, self.step_tokens - n)
                for before in self.kv_before:
                    if cut > 0 and kv + before + cut <= self.kv_tokens:
                        found[Step(cut, before, n, kv)] = None
        return list(found)


def fit_two_regime(model: StepLatency, grid: StepGrid, *, name: str, source: str) -> TwoRegime:
    """The two-regime form nearest to another model's step times, with its errors.

    Parameters
    ----------
    model : StepLatency
        What gives the times, for instance layer tables.
    grid : StepGrid
        The steps to fit to.
    name, source : str
        Of the result.

    Raises
    ------
    ValueError
        If the grid's steps cannot tell the constants apart.
    """
    decodes, mixed = grid.decode_steps(), grid.mixed_steps()
    decode_s, mixed_s = _times_s(model, decodes), _times_s(model, mixed)
    decode = _fit(_decode_design(decodes), decode_s, _DECODE)
    n0, terms = _fit_mixed(mixed, mixed_s)
    form = TwoRegime(
        decode=DecodeTerms(**dict(zip(_DECODE, decode.tolist(), strict=True))),
        mixed=MixedTerms(n0_tokens=float(n0), **dict(zip(_MIXED, terms.tolist(), strict=True))),
        name=name,
        source=source,
        kind=model.kind,
    )
    return form.with_errors(
        decode=_errors(form, decodes, decode_s), mixed=_errors(form, mixed, mixed_s)
    )


def two_regime_errors(
    form: StepLatency, model: StepLatency, grid: StepGrid
) -> tuple[RegimeErrors, RegimeErrors]:
    """How far a form is from a model: without a prefill, and with one."""
    decodes, mixed = grid.decode_steps(), grid.mixed_steps()
    return (
        _errors(form, decodes, _times_s(model, decodes)),
        _errors(form, mixed, _times_s(model, mixed)),
    )


def _times_s(model: StepLatency, steps: Sequence[Step]) -> FloatArray:
    return np.array([model.step_s([(c, before)] if c else (), n, kv) for c, before, n, kv in steps])


def _errors(form: StepLatency, steps: Sequence[Step], times_s: FloatArray) -> RegimeErrors:
    errors = np.abs(_times_s(form, steps) / times_s - 1)
    return RegimeErrors(
        steps=len(steps),
        mean=float(errors.mean()),
        median=float(np.median(errors)),
        max=float(errors.max()),
    )


def _decode_design(steps: Sequence[Step]) -> FloatArray:
    """Columns of c0, cb and ckv."""
    _, _, n, kv = np.array(steps, dtype=np.float64).reshape(-1, 4).T
    return np.column_stack([np.ones_like(n), n, kv])


def _mixed_design(steps: Sequence[Step], n0: float) -> FloatArray:
    """Columns of c0, cp, cb, ckv and cpair."""
    c, before, n, kv = np.array(steps, dtype=np.float64).reshape(-1, 4).T
    beyond = np.maximum(c + n - n0, 0)
    return np.column_stack([np.ones_like(n), beyond, n, kv, c * (before + c / 2)])


def _fit_mixed(steps: Sequence[Step], times_s: FloatArray) -> tuple[int, FloatArray]:
    """The whole n0 with the smallest misfit, found in two passes, and the terms linear in it."""
    tokens = sorted({step.chunk + step.n_decodes for step in steps})
    if len(tokens) < 3:
        raise ValueError(
            f"mixed steps must hold at least 3 sums of prefill and decode tokens to tell cp_s and "
            f"n0_tokens apart, got {tokens}; give the grid more chunks"
        )

    def best(candidates: Iterable[int]) -> tuple[float, int, FloatArray]:
        fits = []
        for n0 in candidates:
            design = _mixed_design(steps, n0)
            terms = _fit(design, times_s, _MIXED)
            fits.append((float(np.sum(np.square(design @ terms / times_s - 1))), n0, terms))
        return min(fits, key=lambda fit: fit[:2])

    # up to the shortest of the steps n0 only moves c0, so there it is 0
    least, last = tokens[0] + 1, tokens[-3]  # two values must lie beyond n0
    _, coarse, _ = best([0, *range(least, last + 1, _N0_STRIDE)])
    near = range(max(least, coarse - _N0_STRIDE), min(last, coarse + _N0_STRIDE) + 1)
    _, n0, terms = best(near if coarse else [0])
    return n0, terms


def _fit(design: FloatArray, times_s: FloatArray, names: Sequence[str]) -> FloatArray:
    """Least squares of relative errors with no term below 0."""
    from scipy.optimize import nnls

    relative = design / times_s[:, None]
    scale = np.linalg.norm(relative, axis=0)
    if len(design) <= len(names) or not scale.all() or _rank(relative / scale) < len(names):
        raise ValueError(
            f"a grid must hold steps that tell {', '.join(names)} apart, got {len(design)} steps "
            "in which some make up for others; give it more values"
        )
    terms: FloatArray = nnls(relative / scale, np.ones(len(relative)))[0] / scale
    return terms


def _rank(scaled: FloatArray) -> int:
    return int(np.linalg.matrix_rank(scaled, tol=1e-9))
