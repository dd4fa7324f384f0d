"""The figures of rule 17, computed naively from the stamps that the stepping reference left."""

from __future__ import annotations

from itertools import pairwise
from math import nan

import numpy as np
from stepping import Engine, Request, Result

Summary = dict[str, float]  # mean, p50, p90, p95, p99


def summary(values: list[float]) -> Summary:
    """Mean and numpy's linear percentiles; NaN where there is nothing to average."""
    if not values:
        return dict.fromkeys(("mean", "p50", "p90", "p95", "p99"), nan)
    percentiles = {f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 95, 99)}
    return {"mean": float(np.mean(values)), **percentiles}


def ttft_s(one: Request) -> float:
    return one.token_s[0] - one.arrival_s


def tpot_s(one: Request) -> float | None:
    """Undefined for an output of one token."""
    if one.output == 1:
        return None
    return (one.token_s[-1] - one.token_s[0]) / (one.output - 1)


def e2e_s(one: Request) -> float:
    return one.token_s[-1] - one.arrival_s


def figures(
    result: Result,
    *,
    ttft_slo_s: float | None = None,
    tpot_slo_s: float | None = None,
    e2e_slo_s: float | None = None,
) -> dict[str, Summary | float]:
    """Every figure of a run; times in seconds, rates per second of makespan."""
    done = [one for one in result.requests if not one.rejected]
    start_s = min(one.arrival_s for one in result.requests)  # rejected ones arrive too
    end_s = max((one.token_s[-1] for one in done), default=start_s)
    makespan_s = end_s - start_s
    tpot = [(one, tpot_s(one)) for one in done]
    good = [
        one
        for one, per_token_s in tpot
        if (ttft_slo_s is None or ttft_s(one) <= ttft_slo_s)
        and (tpot_slo_s is None or per_token_s is None or per_token_s <= tpot_slo_s)
        and (e2e_slo_s is None or e2e_s(one) <= e2e_slo_s)
    ]
    steps, engines = result.steps, result.engines
    usable = result.options.usable_blocks
    return {
        "ttft_s": summary([ttft_s(one) for one in done]),
        "tpot_s": summary([value for _, value in tpot if value is not None]),
        "itl_s": summary(
            [after - before for one in done for before, after in pairwise(one.token_s)]
        ),
        "e2e_s": summary([e2e_s(one) for one in done]),
        "queueing_s": summary([one.scheduled_s - one.arrival_s for one in done]),
        "makespan_s": makespan_s,
        "goodput_per_s": len(good) / makespan_s if makespan_s else nan,
        "attainment": len(good) / len(result.requests),
        "rejected": len(result.requests) - len(done),
        "preemptions_per_request": sum(one.preemptions for one in done) / max(1, len(done)),
        "recomputed_tokens": sum(one.recomputed_tokens for one in done),
        "cached_tokens": sum(one.cached_tokens for one in done),
        "kv_mean": sum(mean_used(e, start_s, end_s) for e in engines) / len(engines) / usable,
        "kv_max": max((d.used_blocks for e in engines for d in e.decisions), default=0) / usable,
        "steps": len(steps),
        "tokens_per_step": sum(step.tokens for step in steps) / max(1, len(steps)),
        "busy_share": sum(s.duration_s for s in steps) / len(engines) / makespan_s
        if makespan_s
        else nan,
    }


def mean_used(engine: Engine, start_s: float, end_s: float) -> float:
    """Time-weighted mean of the blocks used, from first arrival to last finish of the whole run."""
    if end_s == start_s:
        return nan
    ends = [at for at, _ in engine.levels[1:]] + [end_s]
    area = sum(used * (until - at) for (at, used), until in zip(engine.levels, ends, strict=False))
    return area / (end_s - start_s)
