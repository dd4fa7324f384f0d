"""A leap is its steps: the same stamps, gaps, KV and step table, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from random_cases import random_case
from serving import DYADIC, RTX_4090, poisson, serve

from llmsched.engine.export import write_table
from llmsched.engine.iteration.log import TokenGaps
from llmsched.engine.iteration.run import IterationRun
from llmsched.latency.step_times import step_time_from_spec
from llmsched.schedulers.iteration.routing import ROUTERS


def columns(table: Any) -> dict[str, Any]:
    return {name: getattr(table, name) for name in table.__slots__}


def assert_same(leapt: IterationRun, stepped: IterationRun) -> None:
    for name, values in columns(leapt.requests).items():
        np.testing.assert_array_equal(values, getattr(stepped.requests, name), err_msg=name)
    for name, values in columns(leapt.replicas).items():
        other = getattr(stepped.replicas, name)
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, other, rtol=1e-9, err_msg=name)
        else:
            np.testing.assert_array_equal(values, other, err_msg=name)
    assert gaps(leapt.gaps) == gaps(stepped.gaps)
    if leapt.steps is not None:
        for name, values in columns(leapt.steps).items():
            np.testing.assert_array_equal(values, getattr(stepped.steps, name), err_msg=name)


def gaps(token_gaps: TokenGaps) -> list[float]:
    return np.sort(np.repeat(*token_gaps.expand())).tolist()


@pytest.mark.parametrize("step", [RTX_4090, DYADIC], ids=["rtx-4090", "dyadic"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("rate_per_s", [0.3, 3, 9, 30])
def test_leap__equals_single_steps(step, depth, rate_per_s):
    trace = poisson(400, rate_per_s, seed=depth)
    options = {"blocks": 900, "step": step, "depth": depth, "prefix_caching": depth == 2}
    leapt = serve(trace, **options, run={"most_steps": 10**6})
    stepped = serve(trace, **options, run={"most_steps": 10**6, "leaps": False})
    assert_same(leapt, stepped)
    assert leapt.steps is not None
    assert len(leapt.steps) == leapt.replicas.steps.sum()


@pytest.mark.parametrize("seed", range(2000, 2030))
def test_leap__records_the_steps_that_single_steps_record(seed):
    case = random_case(seed, limits=seed % 4 == 0)
    leapt = case.engine(RTX_4090, most_steps=10**6)
    stepped = case.engine(RTX_4090, most_steps=10**6, leaps=False)
    assert_same(leapt, stepped)


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_leap__shows_routers_what_single_steps_show(router):
    trace = poisson(600, 12, seed=5)
    options = {"blocks": 400, "step": RTX_4090, "prefix_caching": router == "prefix-affine"}
    run = {"n_replicas": 3, "router": ROUTERS[router]}
    leapt = serve(trace, **options, run=run)
    assert_same(leapt, serve(trace, **options, run={**run, "leaps": False}))
    assert (np.bincount(leapt.requests.replica) > 100).all()


@pytest.mark.parametrize("name", ["rtx-4090-llama-3.1-8b", "rtx-pro-6000-llama-3.1-8b"])
def test_leap__equals_single_steps_with_a_measured_model(name):
    step, trace = step_time_from_spec(name), poisson(200, 4, seed=1)
    assert_same(
        serve(trace, blocks=900, step=step),
        serve(trace, blocks=900, step=step, run={"leaps": False}),
    )


def test_step_table__is_bounded_and_says_what_it_left_out():
    run = serve([(0, 10, 50), (0, 10, 30)], blocks=90, run={"most_steps": 20})
    assert run.steps is not None
    assert len(run.steps) == 20
    assert run.steps.left_out == run.replicas.steps.sum() - 20 == 30


def test_step_table__has_a_row_per_step_with_the_counts_of_its_decision():
    # given a second request that comes while the first, of 20 prompt tokens, decodes
    run = serve([(0, 20, 4), (45, 17, 2)], blocks=9, depth=1, run={"most_steps": 99})
    table = run.steps
    rows = zip(
        table.start_s,
        table.end_s,
        table.prefill_tokens,
        table.decodes,
        table.kv_tokens,
        table.running,
        table.waiting,
        table.used_blocks,
        strict=True,
    )
    assert [tuple(row) for row in rows] == [
        (0, 30, 20, 0, 0, 1, 0, 2),
        (30, 42, 0, 1, 20, 1, 0, 2),
        (42, 54, 0, 1, 21, 1, 0, 2),
        (54, 83, 17, 1, 22, 2, 0, 4),
        (83, 95, 0, 1, 17, 1, 0, 2),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables__are_written_with_empty_cells_for_what_never_happened(tmp_path, suffix):
    run = serve([(0, 20, 4), (45, 999, 2)], blocks=9, depth=1, run={"most_steps": 99})
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    write_table(run.requests, tmp_path / f"r{suffix}")
    requests = read(tmp_path / f"r{suffix}")
    assert list(requests) == ["request", *run.requests.__slots__]
    assert requests.finish_s[0] == run.requests.finish_s[0]
    assert requests.loc[1, ["queued_s", "finish_s", "replica"]].isna().all()
    assert requests.output_tokens.tolist() == [4, 2]
    assert run.requests.to_frame().replica.isna().tolist() == [False, True]
    assert run.steps is not None
    write_table(run.steps, tmp_path / f"s{suffix}")
    steps = read(tmp_path / f"s{suffix}")
    assert list(steps)[:3] == ["step", "start_s", "end_s"]
    assert steps.kv_tokens.tolist() == [0, 20, 21, 22]


@pytest.mark.parametrize("bad", [float("nan"), -1.0, float("inf")])
@pytest.mark.parametrize("leaps", [True, False])
def test_step_times__that_are_none_are_refused(bad, leaps):
    class Broken:
        def step_s(self, prefills, n_decodes, decode_kv):
            return bad if decode_kv == 29 else 1.0

        def decode_run_s(self, n_decodes, decode_kv, steps):
            return np.array([self.step_s((), 1, decode_kv + j) for j in range(steps)])

    for output in (15, 40):  # a loop and a vector
        with pytest.raises(ValueError, match=r"must give a finite time >= 0 s, got (nan|-1|inf)"):
            serve([(0, 20, output)], blocks=90, step=Broken(), run={"leaps": leaps})
