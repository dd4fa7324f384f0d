"""The step form fitted to a grid: from prefills and decode steps, or from whole batches.

Prefills and decode steps are two observations per cell; the whole batch is their sum and says
nothing more. From whole batches alone, prompts and outputs must come in several ratios: with one,
a prompt token in the prefill and a request in a decode step cost in the same column, and only the
kink at n0 would tell them apart, which is to trust the form more than the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from llmsched.latency.base import CalibrationError
from llmsched.latency.fit.estimate import (
    MAX_CONDITION,
    Problem,
    Solution,
    Trials,
    trials_of,
    whole_batches,
)
from llmsched.latency.fit.grid import LatencyGrid
from llmsched.latency.step import STEP_PARAMETERS

FloatArray = NDArray[np.float64]

NEGLIGIBLE = 1e-9  # of the longest time: a prefill that adds less does not show n0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Steps:
    """Observations as sums of steps: how often each term of a step is in them, shapes (m,)."""

    steps: FloatArray  # c0: how many
    requests: FloatArray  # cb: over all steps
    kv_tokens: FloatArray  # ckv: over all steps
    prompt_tokens: FloatArray  # n of the prefill step; -1 where none is in it

    def design(self, beyond: FloatArray) -> FloatArray:
        """Columns of c0, cp, cb and ckv, `beyond` being the prompt tokens that cost."""
        return np.column_stack([self.steps, beyond, self.requests, self.kv_tokens])

    def beyond(self, n0: float) -> FloatArray:
        """Prompt tokens beyond n0, 0 where there is no prefill, shape (m,)."""
        return np.maximum(self.prompt_tokens - n0, 0)

    def seconds(self, parameters: FloatArray) -> FloatArray:
        """The times that (c0, cp, n0, cb, ckv) mean [s], shape (m,)."""
        c0, cp, n0, cb, ckv = parameters
        return np.asarray(self.design(self.beyond(n0)) @ np.array([c0, cp, cb, ckv]))


def step_problem(grid: LatencyGrid) -> Problem:
    """The least squares of the step form on a grid.

    Raises
    ------
    CalibrationError
        If the grid does not know prompts and outputs apart, or only in one ratio and as a whole.
    """
    if grid.prompt_tokens is None or grid.output_tokens is None:
        raise CalibrationError(
            "must know prompts and outputs apart (columns prompt_tokens, output_tokens, "
            "prefill_mean_sec, ...), got max_seq_len only; prefill and decode cannot be told apart"
        )
    b = grid.batch_size.astype(np.float64)
    p, o = grid.prompt_tokens.astype(np.float64), grid.output_tokens.astype(np.float64)
    context = p + o / 2  # mean over the o - 1 decode steps of p + t
    if grid.prefill_s is None or grid.decode_step_s is None:
        if np.ptp(p / o) == 0:  # only a kink at n0 would tell cp·b·p from cb·b·o: a guess
            raise CalibrationError(
                "must tell cp_s and n0_tokens from cb_s, got whole batches with prompts and "
                "outputs in one ratio; measure prefills on their own, or other ratios"
            )
        whole = _Steps(
            steps=o, requests=b * o, kv_tokens=b * (o - 1) * context, prompt_tokens=b * p
        )
        return whole_batches(grid, lambda y, deviation: _solve_steps(whole, y, deviation))
    decoded = o > 1
    none = np.zeros_like(b)
    steps = _Steps(
        steps=np.ones(len(b) + int(decoded.sum())),
        requests=np.concatenate([b, b[decoded]]),
        kv_tokens=np.concatenate([none, (b * context)[decoded]]),
        prompt_tokens=np.concatenate([b * p, np.full(int(decoded.sum()), -1.0)]),
    )
    return Problem(
        observed=np.concatenate([grid.prefill_s, grid.decode_step_s[decoded]]),
        trials=_step_trials(grid, decoded),
        solve=lambda y, deviation: _solve_steps(steps, y, deviation),
    )


def _step_trials(grid: LatencyGrid, decoded: NDArray[np.bool_]) -> Trials | None:
    """The errors of prefills and decode steps, which scatter differently, one after the other."""
    if grid.prefill_s is None or grid.prefill_std_s is None:
        return None
    if grid.decode_step_s is None or grid.decode_step_std_s is None:
        return None
    n = grid.n_trials
    prefill = trials_of(grid.prefill_s, grid.prefill_std_s, n)
    decode = trials_of(grid.decode_step_s[decoded], grid.decode_step_std_s[decoded], n[decoded])
    if prefill is None or decode is None:
        return None
    return Trials(
        relative_error=np.concatenate([prefill.relative_error, decode.relative_error]),
        degrees_of_freedom=prefill.degrees_of_freedom + decode.degrees_of_freedom,
    )


def _solve_steps(rows: _Steps, observed: FloatArray, deviation: FloatArray) -> Solution:
    """The best n0 with the four terms that are linear once it is known.

    Between two neighbouring values of n, the fit is linear in (c0, cp, cp·n0, cb, ckv). It is
    solved there, and, where its n0 falls outside, at the two ends; the best of all is taken.
    """
    n = rows.prompt_tokens
    tokens = np.unique(n[n >= 0])
    ends = np.concatenate([[0.0], tokens[:-1]])  # two values of n must lie beyond n0
    if len(tokens) < 3:
        raise CalibrationError(
            f"must hold at least 3 values of batch_size × prompt_tokens to identify cp and n0, "
            f"got {tokens.tolist()}"
        )
    if not rows.kv_tokens.any():
        raise CalibrationError("must hold outputs of 2 tokens or more to identify ckv_s, got none")
    weight, target = 1 / deviation, observed / deviation
    best: tuple[float, FloatArray] | None = None
    for candidate in _candidates(rows, ends, weight, target):
        misfit = float(np.sum(np.square(rows.seconds(candidate) * weight - target)))
        if best is None or misfit < best[0]:
            best = misfit, candidate
    assert best is not None
    parameters = best[1]
    _, cp_s, n0, _, _ = parameters
    beyond, fitted = rows.beyond(n0), rows.seconds(parameters)
    if cp_s * beyond.max() <= NEGLIGIBLE * fitted.max():
        raise CalibrationError(
            "must show a prefill that grows with its tokens, to tell cp_s and n0_tokens from cb_s "
            "and ckv_s; measure longer prompts, and prefills on their own"
        )
    c0, cp, cb, ckv = rows.design(beyond).T
    jacobian = np.column_stack([c0, cp, -cp_s * (beyond > 0), cb, ckv])
    _check_told_apart(jacobian * weight[:, None])
    return Solution(
        parameters=parameters,
        free=parameters > 0,
        fitted=fitted,
        jacobian=jacobian,
    )


def _candidates(
    rows: _Steps, ends: FloatArray, weight: FloatArray, target: FloatArray
) -> list[FloatArray]:
    """(c0, cp, n0, cb, ckv) of every segment and of every end where n0 may lie."""
    from scipy.optimize import nnls

    found = []
    n = rows.prompt_tokens
    for low, high in pairwise(ends):
        active = n > low
        design = np.column_stack([rows.design(n * active), -1.0 * active]) * weight[:, None]
        scale = np.linalg.norm(design, axis=0)
        c0, cp, cb, ckv, cp_n0 = nnls(design / scale, target)[0] / scale
        if cp > 0 and low <= cp_n0 / cp <= high:
            found.append(np.array([c0, cp, cp_n0 / cp, cb, ckv]))
            continue
        design = rows.design(rows.beyond(low)) * weight[:, None]
        scale = np.linalg.norm(design, axis=0)
        c0, cp, cb, ckv = nnls(design / scale, target)[0] / scale
        found.append(np.array([c0, cp, low, cb, ckv]))
    return found


def _check_told_apart(jacobian: FloatArray) -> None:
    """Fail, naming the parameters, if a change of some can be made up for by others."""
    scale = np.linalg.norm(jacobian, axis=0)
    silent = [name for name, length in zip(STEP_PARAMETERS, scale, strict=True) if length == 0]
    if not silent:
        _, singular, directions = np.linalg.svd(jacobian / scale, full_matrices=False)
        if singular[0] <= MAX_CONDITION * singular[-1]:
            return
        silent = [
            name
            for name, part in zip(STEP_PARAMETERS, directions[-1], strict=True)
            if abs(part) > 0.1
        ]
    raise CalibrationError(
        f"must tell {', '.join(silent)} apart, got cells in which they make up for each other; "
        "measure prefill and decode steps on their own"
    )
