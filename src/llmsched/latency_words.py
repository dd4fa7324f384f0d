"""What a fit means, in words: where the α/β/γ form fails, and what to make of it."""

from __future__ import annotations

import numpy as np

from llmsched.latency_form_fit import LatencyFit

GOOD, BAD = 0.10, 0.20  # worst relative error up to which a form fits well; beyond which badly


def misfit_in_words(fit: LatencyFit) -> str:
    """How well a form describes its grid, and where it does not, in one to three sentences."""
    name = "the α/β/γ form" if fit.form == "reference" else f"the {fit.form} form"
    measured, fitted = fit.grid.mean_latency_s, fit.fitted_s()
    relative = fitted / measured - 1
    worst = int(np.argmax(np.abs(relative)))
    cell = (
        f"at batch {fit.grid.batch_size[worst]} and {fit.grid.max_seq_len[worst]} tokens it says "
        f"{_seconds(fitted[worst])} where {_seconds(measured[worst])} were measured "
        f"({relative[worst]:+.0%})"
    )
    if abs(relative[worst]) <= GOOD:
        return f"{name} fits: its worst cell is {abs(relative[worst]):.1%} off."
    saturates = _saturation(fit) if fit.form == "reference" else ""
    if abs(relative[worst]) <= BAD:
        return f"{name} fits roughly: {cell}.{saturates}"
    start = f"{name} saturates in the batch size" if saturates else f"{name} fits badly"
    return f"{start}: {cell}.{saturates} Don't size a cluster with it."


def _saturation(fit: LatencyFit) -> str:
    """How the time grows between the two largest batches, if the form misses that growth."""
    b, tokens = np.unique(fit.grid.batch_size), fit.grid.max_seq_len
    fitted = fit.fitted_s()
    for length in np.unique(tokens)[::-1]:
        cells = [np.flatnonzero((fit.grid.batch_size == i) & (tokens == length)) for i in b[-2:]]
        if any(len(cell) != 1 for cell in cells):
            continue
        smaller, larger = (int(cell[0]) for cell in cells)
        measured = fit.grid.mean_latency_s[larger] / fit.grid.mean_latency_s[smaller]
        said = fitted[larger] / fitted[smaller]
        if measured <= 1 + 2 * (said - 1) or measured < 1.1:
            return ""
        return (
            f" From batch {b[-2]} to {b[-1]} the measured time grows {measured:.2f} times, in the "
            f"form {said:.2f} times: its large batches look almost free."
        )
    return ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
