"""Prefix ids: ragged rows beside a trace, and the shared-prefix CSV they can come from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.shared_prefixes import with_shared_prefixes
from llmsched.workload.trace import Trace, TraceError


def trace_of(prompts: list[int], **columns: object) -> Trace:
    n = len(prompts)
    return Trace(
        arrival_s=np.arange(n, dtype=np.float64),
        prompt_tokens=np.array(prompts, np.int32),
        output_tokens=np.ones(n, np.int32),
        **columns,
    )


@given(st.lists(st.lists(st.integers(0, 2**40), max_size=5), max_size=8), st.data())
def test_take__gives_the_rows_asked_for(rows, data):
    ids = PrefixIds.of(rows, tokens_per_id=16)
    some = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9)) if rows else []
    taken = ids.take(np.array(some, np.intp))
    assert [taken.row(i).tolist() for i in range(len(taken))] == [rows[i] for i in some]


def test_of__keeps_small_ids_in_four_bytes():
    assert PrefixIds.of([[2**31 - 1]], tokens_per_id=16).ids.dtype == np.int32
    assert PrefixIds.of([[2**31]], tokens_per_id=16).ids.dtype == np.int64


def test_trace__takes_its_optional_columns_along():
    trace = trace_of(
        [40, 50, 60],
        priority=np.array([3, 1, 2], np.int32),
        prefix_ids=PrefixIds.of([[1, 2], [], [1]], tokens_per_id=16),
    )
    kept = trace.take(np.array([True, False, True]))
    assert kept.priority.tolist() == [3, 2]
    assert [kept.prefix_ids.row(i).tolist() for i in range(2)] == [[1, 2], [1]]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([[1]], "must have 2 rows in trace 'trace', got 1"),
        ([[1], [1, 2, 3]], "per 16 tokens, got 3 for 32 tokens in request 1"),
    ],
)
def test_trace__refuses_ids_that_do_not_fit_its_requests(rows, told):
    with pytest.raises(TraceError, match=told):
        trace_of([40, 32], prefix_ids=PrefixIds.of(rows, tokens_per_id=16))


def test_trace__refuses_priorities_of_another_length():
    with pytest.raises(TraceError, match="priority must have 2 entries in trace 'trace', got 1"):
        trace_of([40, 32], priority=np.zeros(1, np.int32))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"offsets": [0, 3]}, "offsets must go from 0 to the 2 ids"),
        ({"offsets": [0, 2, 1, 2]}, "offsets must not decrease"),
        ({"tokens_per_id": 0}, "tokens_per_id must be >= 1, got 0"),
        ({"ids": [4, -1]}, "prefix ids must be >= 0, got -1"),
    ],
)
def test_prefix_ids__refuse_what_is_no_ragged_table(arguments, told):
    given = {"ids": [4, 5], "offsets": [0, 2], "tokens_per_id": 16, **arguments}
    with pytest.raises(ValueError, match=told):
        PrefixIds(
            ids=np.array(given["ids"]),
            offsets=np.array(given["offsets"]),
            tokens_per_id=given["tokens_per_id"],
        )


HEADER = "request,earlier_request,shared_blocks\n"


def test_shared_prefixes__agree_in_as_many_blocks_as_said(tmp_path):
    (tmp_path / "s.csv").write_text(HEADER + "3,1,2\n2,0,1\n4,3,1\n")
    trace = with_shared_prefixes(trace_of([40, 40, 20, 64, 16]), tmp_path / "s.csv")
    rows = [trace.prefix_ids.row(i).tolist() for i in range(5)]
    assert [len(row) for row in rows] == [1, 2, 1, 2, 1]
    assert rows[3] == rows[1]
    assert rows[2] == rows[0]
    assert rows[4] == rows[1][:1]
    assert not set(rows[0]) & set(rows[1])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("1,1,1", "line 2: must name two requests of the trace"),
        ("9,1,1", "0 <= earlier_request < request < 3, got 1 and 9"),
        ("2,1,0", "from 1 to the 1 full blocks of the shorter prompt, got 0"),
        ("2,0,2", "from 1 to the 1 full blocks of the shorter prompt, got 2"),
        ("2,x,1", "line 2, column 'earlier_request': must be a whole number >= 0, got 'x'"),
        ("2,1", "line 2, column 'shared_blocks': must be a whole number >= 0, got ''"),
    ],
)
def test_shared_prefixes__a_row_that_cannot_be_is_refused(tmp_path, row, told):
    (tmp_path / "s.csv").write_text(HEADER + row + "\n")
    with pytest.raises(TraceError, match=told):
        with_shared_prefixes(trace_of([40, 40, 20]), tmp_path / "s.csv")


def test_shared_prefixes__a_file_without_the_columns_is_refused(tmp_path):
    (tmp_path / "s.csv").write_text("request,other\n")
    with pytest.raises(TraceError, match="must name the columns request, earlier_request"):
        with_shared_prefixes(trace_of([40]), tmp_path / "s.csv")
