"""What a fit means, in words: where the α/β/γ form fails, and what to make of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llmsched.latency.fit.form_fit import LatencyFit

if TYPE_CHECKING:
    import numpy as np

    from llmsched.latency.base import LatencyModel
    from llmsched.latency.fit.bootstrap import Bootstrap
    from llmsched.latency.fit.form_fit import LatencyFit
    from llmsched.latency.fit.validation import FormComparison


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


TABLE_TOKENS = (128, 512, 1024, 2048, 4096)  # for a model without a measured range
TABLE_SIZES = (1, 2, 4, 8, 16, 32, 64)


def fit_dict(
    comparison: FormComparison, taken: LatencyFit, redrawn: Bootstrap | None
) -> dict[str, Any]:
    """All of it in JSON types."""
    from llmsched.latency.files import model_to_dict

    fits = [result.fit for result in comparison.results if result.fit is not None]
    return {
        "grid": comparison.grid.source,
        "cells": len(comparison.grid),
        "out_of_memory": [[c.batch_size, c.max_seq_len] for c in comparison.grid.failed],
        "forms": [result.to_dict() for result in comparison.results],
        "in_words": {fit.form: misfit_in_words(fit) for fit in fits},
        "chosen": taken.form,
        "rule": comparison.rule if taken is comparison.best else "asked for",
        "weighting": taken.weighting,
        "model_error": taken.model_error,
        "degrees_of_freedom": taken.degrees_of_freedom,
        "parameters": _parameter_dicts(taken),
        "bootstrap": None if redrawn is None else _bootstrap_dict(redrawn),
        "model": model_to_dict(taken.model),
    }


def _parameter_dicts(taken: LatencyFit) -> list[dict[str, Any]]:
    values = zip(
        taken.parameter_names,
        taken.parameters,
        taken.standard_errors,
        taken.intervals(),
        strict=True,
    )
    return [
        {
            "name": name,
            "value": float(value),
            "standard_error": None if math.isnan(error) else float(error),
            "interval": None if math.isnan(error) else interval.tolist(),
            "on_bound": name in taken.at_bound,
        }
        for name, value, error, interval in values
    ]


def _bootstrap_dict(redrawn: Bootstrap) -> dict[str, Any]:
    intervals = zip(redrawn.parameter_names, redrawn.intervals().tolist(), strict=True)
    return {
        "form": redrawn.form,
        "fits": len(redrawn.parameters),
        "refused": redrawn.refused,
        "redrawn_from": redrawn.how,
        "intervals": dict(intervals),
    }


def fit_text(comparison: FormComparison, taken: LatencyFit, redrawn: Bootstrap | None) -> str:
    """The table of forms, the one taken with its parameters, and what the reference form misses."""

    grid = comparison.grid
    parts = [f"{len(grid)} cells of {grid.source}", _forms_table(comparison)]
    refused = [f"{r.form}: {r.refusal}" for r in comparison.results if r.refusal]
    if refused:
        parts.append("\n".join(refused))
    how = comparison.rule if taken is comparison.best else "asked for"
    parts.append(f"Taken: {taken.form}, {how}\n{taken.model.equation()}")
    own = redrawn is not None and redrawn.form == taken.form
    parts.append(_parameters_text(taken, redrawn if own else None))
    if redrawn is not None and not own:
        other = comparison.named(redrawn.form).fit
        assert other is not None
        parts.append(f"For comparison, {other.form}\n{_parameters_text(other, redrawn)}")
    shown = [r.fit for r in comparison.results if r.form in ("reference", taken.form) and r.fit]
    words = [misfit_in_words(fit) for fit in shown if fit.form != "interpolation"]
    return "\n\n".join([*parts, "\n".join(text[0].upper() + text[1:] for text in words)]).rstrip()


def _forms_table(comparison: FormComparison) -> str:
    """A row per form: errors in sample and held out, AIC."""
    from llmsched.cli.text import aligned, number

    header = ["form", "parameters", "R²", "median", "worst", "AIC"]
    header += ["held-out median", "worst", "batch sizes", "lengths"]
    rows = [header]
    for result in comparison.results:
        row = result.to_dict()
        rows.append(
            [
                result.form,
                number(row["parameters"]),
                "-" if row["r_squared"] is None else f"{row['r_squared']:.4f}",
                _percent(row["median_relative_error"]),
                _percent(row["max_relative_error"]),
                "-" if row["aic"] is None else f"{row['aic']:.1f}",
                _percent(row["held_out_median_relative_error"]),
                _percent(row["held_out_max_relative_error"]),
                _percent(row["held_out_batch_sizes_median"]),
                _percent(row["held_out_lengths_median"]),
            ]
        )
    return "Relative errors, in sample and on what was held out of the fit\n" + aligned(rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _parameters_text(taken: LatencyFit, redrawn: Bootstrap | None) -> str:
    from llmsched.cli.text import aligned

    if taken.estimate is None:
        return "Its parameters are the cells of the grid, each with the error of its trials."
    rows = [["parameter", "value", "± standard error", "95 % interval"]]
    rows[0] += ["bootstrap 95 %"] if redrawn is not None else []
    for i, parameter in enumerate(_parameter_dicts(taken)):
        error, interval = parameter["standard_error"], parameter["interval"]
        row = [parameter["name"], f"{parameter['value']:.4g}"]
        row += ["-" if error is None else f"{error:.2g}"]
        row += [f"on its bound {parameter['value']:g}" if interval is None else _interval(interval)]
        row += [_interval(redrawn.intervals()[i])] if redrawn is not None else []
        rows.append(row)
    return aligned(rows) + "\n" + _errors_text(taken, redrawn)


def _interval(ends: list[float] | np.ndarray[Any, Any]) -> str:
    return f"{ends[0]:.4g} .. {ends[1]:.4g}"


def _errors_text(taken: LatencyFit, redrawn: Bootstrap | None) -> str:
    """Where the errors come from."""
    if taken.weighting == "size":
        text = f"Errors from the residuals: {taken.model_error:.1%} per observation."
    elif taken.model_error > 0:
        text = (
            f"Errors from the trials and a model error of {taken.model_error:.1%}, without which "
            "the residuals would be too large."
        )
    else:
        text = "Errors from the trials; the residuals are no larger."
    if redrawn is not None:
        text += f" Bootstrap: {len(redrawn.parameters)} fits redrawn from the {redrawn.how}"
        text += f", {redrawn.refused} more refused." if redrawn.refused else "."
    return text


def model_dict(model: LatencyModel) -> dict[str, Any]:
    """A model and a table of its times, in JSON types."""
    from llmsched.latency.files import MODELS, model_to_dict

    known = type(model) in MODELS.values()
    sizes, lengths, times_s = _times(model)
    return {
        "name": model.name,
        "kind": model.kind,
        "equation": model.equation(),
        "measured": None if model.measured is None else str(model.measured),
        "source": model.source,
        "calibration_errors": model.uncertainty is not None,
        "model": model_to_dict(model) if known else None,
        "batch_sizes": sizes,
        "total_tokens": lengths,
        "service_s": times_s,
    }


def model_text(model: LatencyModel) -> str:
    """A model: what it is, its parameters, and a table of its times."""
    from llmsched.cli.text import aligned, number

    measured = str(model.measured) if model.measured else "nowhere: a formula"
    rows = [
        ["name", model.name],
        ["kind", model.kind],
        ["equation", model.equation()],
        ["measured", measured],
        ["source", model.source],
    ]
    parts = ["\n".join(f"{title:<10}{text}" for title, text in rows)]
    uncertainty = model.uncertainty
    if uncertainty is not None and (values := _values(model)):
        errors = dict(zip(uncertainty.parameter_names, uncertainty.standard_errors, strict=True))
        lines = [["parameter", "value", "± standard error"]]
        lines += [
            [name, f"{value:.4g}", f"{errors[name]:.2g}" if name in errors else "not known"]
            for name, value in values.items()
        ]
        parts.append(aligned(lines))
    elif uncertainty is None:
        parts.append("Calibration errors: none known.")
    sizes, lengths, times_s = _times(model)
    if times_s is None:
        return "\n\n".join([*parts, "Its times come with the workload, so there is no table."])
    table = [["batch size", *(f"{length} tokens" for length in lengths)]]
    table += [[str(b), *map(number, row)] for b, row in zip(sizes, times_s, strict=True)]
    title = "Time of a batch [s], prompt = output = half of the tokens"
    return "\n\n".join([*parts, f"{title}\n{aligned(table)}"])


def _values(model: LatencyModel) -> dict[str, float]:
    """The parameters of a model that is a few numbers; none of a grid of cells."""
    from llmsched.latency.files import MODELS, parameter_names

    if type(model) not in MODELS.values():
        return {}
    values = {name: getattr(model, name) for name in parameter_names(type(model))}
    return {name: value for name, value in values.items() if isinstance(value, float | int)}


def _times(model: LatencyModel) -> tuple[list[int], list[int], list[list[float]] | None]:
    """A table of service times over batch sizes and total tokens, within what was measured."""
    import numpy as np

    from llmsched.latency.base import Shape, service_times_s

    sizes, lengths = list(TABLE_SIZES), list(TABLE_TOKENS)
    if (measured := model.measured) is not None:
        sizes = _spread(measured.size, 6)
        tokens = measured.max_total_tokens
        if tokens is None and measured.max_prompt_tokens and measured.max_output_tokens:
            prompt, output = measured.max_prompt_tokens, measured.max_output_tokens
            tokens = prompt[0] + output[0], prompt[1] + output[1]
        lengths = _spread(tokens, 5) if tokens is not None else lengths
    b, total = np.meshgrid(sizes, lengths, indexing="ij")
    times = service_times_s(model, Shape(b, total, total // 2, total - total // 2))
    if not np.all(np.isfinite(times)):
        return sizes, lengths, None
    return sizes, lengths, times.tolist()


def _spread(ends: tuple[int, int], n: int) -> list[int]:
    """At most `n` whole numbers from the first to the last, in equal ratios."""
    import numpy as np

    spread = np.unique(np.round(np.geomspace(max(ends[0], 1), max(ends[1], 1), n)).astype(int))
    return [int(value) for value in spread]
