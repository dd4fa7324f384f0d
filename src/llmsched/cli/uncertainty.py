"""`--latency-uncertainty`: draws of the latency's parameters, for the commands that take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from llmsched.latency import LatencyModel

UNCERTAINTY: Sequence[Any] = (
    click.option(
        "--latency-uncertainty",
        "n_draws",
        type=click.IntRange(2, 1000),
        metavar="N",
        show_default="off",
        help="Run everything under N draws of the latency's parameters too, for intervals that "
        "include calibration error; 95 % take 39 draws.",
    ),
)


def take_draws(values: dict[str, Any], latency: LatencyModel) -> tuple[LatencyModel, ...]:
    """Take the draws of the latency out of the parsed values; none if not asked for."""
    from llmsched.calibration_intervals import FULL_DRAWS, draw_latencies, reached_confidence

    n_draws = values.pop("n_draws")
    if n_draws is None:
        return ()
    draws = draw_latencies(latency, n_draws, seed=values["seed"])
    if n_draws < FULL_DRAWS:
        reached = 100 * reached_confidence(n_draws)
        click.echo(
            f"Note: intervals over {n_draws} draws of the latency's parameters hold "
            f"{reached:.3g} %, not 95 %; take {FULL_DRAWS} or more",
            err=True,
        )
    return draws
