"""Public trace formats: what each means, and that the examples of docs/formats.md are read."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from llmsched.workload.describe import describe
from llmsched.workload.formats import registry
from llmsched.workload.formats.registry import FORMATS, read_trace, recognise, write_trace
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.sessions import Turns
from llmsched.workload.trace import Labels, Trace, TraceError

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
CASES = Path(__file__).parents[4] / "shared" / "cases"
needs_cases = pytest.mark.skipif(
    not CASES.is_dir(), reason="NOT RUN ON THE SHARED CASES: ../shared/cases is not there"
)


def put(folder: Path, text: str | bytes, name: str = "trace.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(trace: Trace) -> list[tuple[float, int, int]]:
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(TraceError) as caught:
        read_trace(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- the page -------------------------------------------------------------------------------------


def examples() -> list[tuple[str, str, bool, list[str]]]:
    """Of each row of the page's table: format, times, whether it is written, the first lines."""
    table = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return [
        (row[0].strip("| `"), row[2], row[3] == "yes", re.findall(r"`([^`]+)`", row[4]))
        for row in cells
        if len(row) == 5
    ]


def test_page__has_every_format_once():
    names = [name for name, *_ in examples()]
    assert sorted(names) == sorted([*FORMATS, "table"])
    for name, _, written, _ in examples():
        assert written == (name in FORMATS and FORMATS[name].writable)


@pytest.mark.parametrize(
    ("name", "times", "lines"),
    [(name, times, lines) for name, times, _, lines in examples() if name != "parquet"],
)
def test_page__every_example_is_read_as_it_says(tmp_path, name, times, lines):
    path = put(tmp_path, "\n".join(lines) + "\n")
    if name == "guidellm":  # nothing tells it from other kinds
        trace = read_trace(path, trace_format=name)
    else:
        trace = read_trace(path)
        assert recognise(path) == name
    n = len(lines) - (0 if lines[0].startswith("{") else 1)
    extra = 1 if name == "llmservingsim" else 0  # its second line is a session of two requests
    assert len(trace) == n + extra
    assert trace.read_as.startswith(f"{name} (")
    unit = times.split()[-1].rstrip(",")
    assert unit in trace.read_as or name == "table"
    assert trace.arrival_s[0] == 0.0
    assert (trace.prompt_tokens > 0).all()


@pytest.mark.parametrize(
    "lines", [lines for *_, lines in examples() if "," in lines[0] and lines[0][0] != "{"]
)
@pytest.mark.parametrize("encoding", [";", "\t", "quoted", "bom", "gz", "parquet", "jsonl"])
def test_page__any_layout_in_any_encoding_is_the_same(tmp_path, lines, encoding):
    plain = read_trace(put(tmp_path, "\n".join(lines)))
    header, first = lines[0].split(","), lines[1].split(",")
    path = tmp_path / "again"
    match encoding:
        case ";" | "\t":
            put(tmp_path, "\n".join(encoding.join(row) for row in (header, first)), "again")
        case "quoted":
            quoted = [",".join(f'"{cell}"' for cell in row) for row in (header, first)]
            put(tmp_path, "\r\n".join(quoted), "again")
        case "bom":
            put(tmp_path, "\ufeff" + "\n".join(lines), "again")
        case "gz":
            put(tmp_path, gzip.compress("\n".join(lines).encode()), "again")
        case "jsonl":
            values = [json.loads(c) if re.fullmatch(r"[\d.]+", c) else c for c in first]
            put(tmp_path, json.dumps(dict(zip(header, values, strict=True))), "again")
        case "parquet":
            values = [json.loads(c) if re.fullmatch(r"[\d.]+", c) else c for c in first]
            columns = {name: [value] for name, value in zip(header, values, strict=True)}
            pyarrow.parquet.write_table(pa.table(columns), path)
    again = read_trace(path)
    assert rows(again) == rows(plain)
    assert again.read_as.split(" ")[0] in (plain.read_as.split(" ")[0], encoding)
    for labels in ("model", "log_type"):
        mine, other = getattr(again, labels), getattr(plain, labels)
        assert (mine and mine.names) == (other and other.names)


# --- sessions -------------------------------------------------------------------------------------


def test_bailian__is_seconds_with_whole_prompts_and_recorded_turns(tmp_path):
    lines = [
        '{"chat_id": 7, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 10, '
        '"output_length": 5, "type": "text", "turn": 1, "hash_ids": [1]}',
        '{"chat_id": 8, "parent_chat_id": -1, "timestamp": 2.0, "input_length": 20, '
        '"output_length": 6, "type": "text", "turn": 1, "hash_ids": [2]}',
        '{"chat_id": 9, "parent_chat_id": 7, "timestamp": 61.5, "input_length": 30, '
        '"output_length": 7, "type": "text", "turn": 2, "hash_ids": [1, 3]}',
    ]
    trace = read_trace(put(tmp_path, "\n".join(lines)))
    assert rows(trace) == [(0.0, 10, 5), (0.5, 20, 6), (60.0, 30, 7)]
    assert trace.turns.after.tolist() == [-1, -1, 0]
    assert not trace.closed
    summary = describe(trace)
    assert (summary.sessions, summary.waiting_share) == (2, 0.0)
    assert summary.arrival_rate_per_s == 2 / 60


def test_aiperf__a_delta_is_not_a_prompt_and_a_delay_waits_for_the_answer(tmp_path):
    lines = [
        '{"session_id": "a", "timestamp": 1000, "input_length": 100, "output_length": 10}',
        '{"session_id": "a", "delay": 500, "input_length": 5, "output_length": 20}',
        '{"session_id": "b", "timestamp": 1250.5, "input_length": 7, "output_length": 1}',
        '{"session_id": "a", "input_length": 6, "output_length": 30}',
    ]
    trace = read_trace(put(tmp_path, "\n".join(lines)))
    # in order of the earliest arrivals: a's first, b's, a's second 0.5 s after, its third with it
    assert rows(trace) == [(0.0, 100, 10), (0.2505, 7, 1), (0.5, 115, 20), (0.5, 141, 30)]
    assert trace.turns.after.tolist() == [-1, -1, 0, 2]
    assert trace.turns.think_s[2:].tolist() == [0.5, 0.0]
    assert trace.closed
    summary = describe(trace)
    assert summary.arrival_rate_per_s is None
    assert (summary.sessions, summary.waiting_share, summary.think_mean_s) == (2, 0.5, 0.25)


def test_aiperf__prefix_ids_are_read_where_no_turn_follows(tmp_path):
    alone = '{"timestamp": 1, "input_length": 600, "output_length": 9, "hash_ids": [3, 4]'
    trace = read_trace(put(tmp_path, f'{alone}, "session_id": "a"}}\n'))
    assert trace.prefix_ids.row(0).tolist() == [3, 4]
    later = f'{alone}, "session_id": "a", "delay": 5}}'
    trace = read_trace(put(tmp_path, f'{alone}, "session_id": "a"}}\n{later}\n'))
    assert trace.prefix_ids is None
    assert trace.notes == ("prefix ids are left out: in sessions they tell only of what is new",)


def test_aiperf__rows_that_hold_the_whole_conversation_are_prompts(tmp_path):
    mode = '"context_mode": "message_array_with_responses"'
    lines = [
        f'{{"session_id": "a", "timestamp": 0, "input_length": 100, "output_length": 10, {mode}}}',
        f'{{"session_id": "a", "delay": 1, "input_length": 115, "output_length": 20, {mode}}}',
    ]
    trace = read_trace(put(tmp_path, "\n".join(lines)))
    assert trace.prompt_tokens.tolist() == [100, 115]


def test_aiperf__turns_with_stamps_come_when_they_say(tmp_path):
    lines = [
        f'{{"session_id": "{s}", "timestamp": {t}, "input_length": 10, "output_length": 1}}'
        for s in "ab"
        for t in range(s == "b", 40, 2)
    ]
    trace = read_trace(put(tmp_path, "\n".join(lines)))
    assert not trace.closed
    assert trace.arrival_s.tolist() == [t / 1000 for t in range(40)]
    assert trace.prompt_tokens[:4].tolist() == [10, 10, 21, 21]
    assert trace.notes == ()  # a file in order of sessions is not out of order


def test_aiperf__without_any_stamp_needs_users(tmp_path):
    line = '{"session_id": "a", "input_length": 10, "output_length": 1}'
    trace = read_trace(put(tmp_path, f"{line}\n{line}\n"))
    assert trace.read_as == "aiperf (JSON lines, no times)"
    assert not trace.turns.timed
    assert trace.closed
    # while a file in which some sessions have one is incomplete
    path = put(tmp_path, line.replace("{", '{"timestamp": 0, ') + "\n" + line.replace('"a"', '"b"'))
    assert "line 2, column 'timestamp': must be there in the first turn" in refusal(path)


def test_llmservingsim__sub_requests_wait_for_the_one_before_and_its_tool(tmp_path):
    name = next(lines for name, _, _, lines in examples() if name == "llmservingsim")
    trace = read_trace(put(tmp_path, "\n".join(name)))
    assert rows(trace)[:2] == [(0.0, 128, 512), (0.00405974, 1472, 133)]
    assert trace.turns.after.tolist() == [-1, -1, 1]
    assert trace.turns.think_s[2] == 0.127348767
    assert trace.prompt_tokens[2] == 1582
    path = put(tmp_path, '{"arrival_time_ns": 1, "sub_requests": [3]}')
    assert "line 1: must be a session with a list of objects" in refusal(path)


def test_vidur__sessions_are_recorded_turns(tmp_path):
    header = "arrived_at,num_prefill_tokens,num_decode_tokens,session_id,session_turn_index"
    path = put(tmp_path, f"{header}\n0,32,8,7,0\n1.5,16,4,7,1\n2,8,2,,\n")
    trace = read_trace(path)
    assert trace.turns.after.tolist() == [-1, 0, -1]
    assert trace.prompt_tokens.tolist() == [32, 16, 8]
    assert not trace.closed


BLIS = next(lines[0] for name, _, _, lines in examples() if name == "blis")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({}, (0.0, 100, 50)),
        ({"prefix_group": "g", "prefix_length": 512}, (0.0, 612, 50)),
        ({"server_input_tokens": 130}, (0.0, 130, 50)),
        ({"server_input_tokens": 130, "prefix_group": "g", "prefix_length": 512}, (0.0, 612, 50)),
        ({"send_time_us": 3_500_000}, (2.5, 100, 50)),
    ],
)
def test_blis__is_read_as_blis_replays_it(tmp_path, cells, expected):
    base = dict.fromkeys(BLIS.split(","), "0") | {
        "prefix_group": "",
        "session_id": "",
        "model": "",
        "input_tokens": "100",
        "output_tokens": "50",
        "arrival_time_us": "1000000",
    }
    lines = [",".join(str(value) for value in row.values()) for row in (base, base | cells)]
    trace = read_trace(put(tmp_path, "\n".join([BLIS, *lines])))
    assert rows(trace) == [(0.0, 100, 50), expected]
    assert trace.model is None


# --- units ----------------------------------------------------------------------------------------

BARE = '{{"timestamp": {}, "input_length": 10, "output_length": 5}}'


@pytest.mark.parametrize("times", [(1.95, 36.942), (0, 35), (1000, 36000)])
def test_unit__of_bare_keys_is_asked_for_with_the_span_of_each_reading(tmp_path, times):
    path = put(tmp_path, "\n".join(map(BARE.format, times)))
    span = times[1] - times[0]
    message = refusal(path)
    assert "the unit of these times cannot be known" in message
    assert f"in seconds they span {span:.6g} s" in message
    assert f"in milliseconds they span {span / 1000:.6g} s" in message
    assert "--time-unit s or --time-unit ms" in message
    for unit, per_s in (("s", 1), ("ms", 1000), ("us", 1e6), ("ns", 1e9)):
        assert read_trace(path, time_unit=unit).span_s == pytest.approx(span / per_s, rel=1e-12)
    assert read_trace(path, trace_format="guidellm").span_s == pytest.approx(span)


def test_unit__does_not_matter_where_all_come_at_once(tmp_path):
    path = put(tmp_path, "\n".join(map(BARE.format, (7, 7))))
    assert read_trace(path).arrival_s.tolist() == [0.0, 0.0]


def test_unit__of_mooncake_is_whole_milliseconds_and_asked_for_with_fractions(tmp_path):
    keyed = BARE.replace("}}", ', "hash_ids": [1]}}')
    whole = put(tmp_path, "\n".join(map(keyed.format, (0, 1000.0))), "whole")
    assert read_trace(whole).span_s == 1.0
    parts = put(tmp_path, "\n".join(map(keyed.format, (0.25, 1000.5))), "parts")
    assert "in seconds they span 1000.25 s (16.7 min)" in refusal(parts)
    assert read_trace(parts, time_unit="s").span_s == 1000.25


@pytest.mark.parametrize(
    ("column", "cells", "span_s"),
    [
        ("arrival_time_ns", ("0", "2500000000"), 2.5),
        ("arrivalTimeMs", ("0", "2500"), 2.5),
        ("timestamp_us", ("0", "2500000"), 2.5),
        ("Arrival time (s)", ("0", "2.5"), 2.5),
        ("timestamp_start_unix_ms", ("1700000000000", "1700000002500"), 2.5),
        ("timestamp", ("1700000000", "1700000002.5"), 2.5),  # Unix time is known by its size
        ("timestamp", ("1700000000000", "1700000002500"), 2.5),
        ("timestamp", ("1700000000000000", "1700000002500000"), 2.5),
        ("timestamp", ("1700000000000000001", "1700000002500000001"), 2.5),
        ("created_at", ("2024-05-10", "2024-05-10 00:00:02.5"), 2.5),
        ("created_at", ("2024-05-10T23:59:59Z", "2024-05-11T00:00:01.500Z"), 2.5),
        ("date", ("2024-05-10 10:15", "2024-05-10 10:16"), 60.0),
        ("created_at", ("2024-05-10 10:15:00 UTC", "2024-05-10T12:15:02.5+02"), 2.5),
    ],
)
@pytest.mark.parametrize("encoding", ["csv", "jsonl"])
def test_unit__is_known_by_name_by_size_or_as_a_date(tmp_path, column, cells, span_s, encoding):
    if column == "date":
        column = "datetime"
    if encoding == "csv":
        lines = [f"{column},prompt_tokens,output_tokens", *(f"{cell},1,2" for cell in cells)]
    else:
        values = [json.loads(c) if re.fullmatch(r"[\d.]+", c) else c for c in cells]
        lines = [
            json.dumps({column: value, "prompt_tokens": 1, "output_tokens": 2}) for value in values
        ]
    assert read_trace(put(tmp_path, "\n".join(lines))).arrival_s.tolist() == [0.0, span_s]


@pytest.mark.parametrize(
    "kind", [pa.timestamp("ms"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "Asia/Tokyo")]
)
def test_unit__of_parquet_timestamps_is_theirs(tmp_path, kind):
    stamps = pa.array([1_700_000_000_000, 1_700_000_002_500], pa.int64()).cast(pa.timestamp("ms"))
    columns = {"created": stamps.cast(kind), "input_tokens": [1, 2], "output_tokens": [3, 4]}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "x")
    assert read_trace(tmp_path / "x").arrival_s.tolist() == [0.0, 2.5]


def test_unit__unix_time_that_the_format_does_not_mean_is_found_out_or_asked_for(tmp_path):
    header = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    unix = put(tmp_path, header + "1700000000000,1,1\n1700000001000,1,1\n")
    trace = read_trace(unix)  # in seconds it would be the year 55,841
    assert trace.span_s == 1.0
    assert trace.read_as == "vidur (CSV, times in milliseconds)"
    keyed = BARE.replace("}}", ', "hash_ids": [1]}}')
    path = put(tmp_path, "\n".join(map(keyed.format, (1_700_000_000, 1_700_000_060))))
    assert "--time-unit ms or --time-unit s" in refusal(path)


def test_unit__that_is_asked_for_overrules_the_format_but_not_dates(tmp_path):
    path = put(tmp_path, "arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n9,1,1\n")
    assert read_trace(path, time_unit="ms").span_s == 0.009
    dates = put(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,1,1\n")
    assert "must hold numbers for the time unit 'ms', got dates" in refusal(dates, time_unit="ms")
    with pytest.raises(TraceError, match="time unit must be one of s, ms, us, ns; got 'min'"):
        read_trace(path, time_unit="min")


# --- tables of no known format --------------------------------------------------------------------


def test_columns__say_what_is_what(tmp_path):
    path = put(tmp_path, "t0\tn_in\tn_out\twho\n2024-05-10 00:00:00\t3\t4\tA\n")
    chosen = "arrival=t0, prompt=n_in, output=n_out, model=who"
    trace = read_trace(path, columns=chosen)
    assert rows(trace) == [(0.0, 3, 4)]
    assert trace.model.names == ("A",)
    assert trace.read_as == "table (CSV, dates)"


def test_columns__may_be_nested_keys_and_sessions(tmp_path):
    lines = [
        json.dumps({"at_s": t, "u": {"in": 5, "out": 6}, "chat": c})
        for t, c in ((0, "x"), (1, "y"), (2, "x"))
    ]
    chosen = "arrival=at_s,prompt=u.in,output=u.out,session=chat"
    trace = read_trace(put(tmp_path, "\n".join(lines)), columns=chosen)
    assert trace.turns.after.tolist() == [-1, -1, 0]
    assert trace.prompt_tokens.tolist() == [5, 5, 5]


def test_columns__without_arrivals_need_users(tmp_path):
    path = put(tmp_path, "num_prefill_tokens,num_decode_tokens\n5,6\n7,8\n")
    trace = read_trace(path, columns="prompt=num_prefill_tokens,output=num_decode_tokens")
    assert rows(trace) == [(0.0, 5, 6), (0.0, 7, 8)]
    assert trace.closed
    assert trace.read_as == "table (CSV, no times)"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("arrival=t0,prompt=n_in", "must name a column for output"),
        ("arrival=t0,prompt=n_in,output=x", "--columns output=x must name a column of the file"),
        ("t0,n_in", "must be ROLE=NAME"),
        ("arrival=t0,arrival=t0,prompt=n_in,output=n_out", "each once, got 'arrival=t0'"),
        ("prompt=n_in,output=n_out,size=t0", "got 'size=t0'"),
    ],
)
def test_columns__that_cannot_be_are_named(tmp_path, columns, expected):
    path = put(tmp_path, "t0,n_in,n_out\n0,3,4\n")
    with pytest.raises(TraceError, match=re.escape(expected)):
        read_trace(path, columns=columns)
    with pytest.raises(TraceError, match="leave one out"):
        read_trace(path, columns="prompt=n_in,output=n_out", trace_format="csv")


@pytest.mark.parametrize(
    ("header", "proposed"),
    [
        (
            "created_at,n_prompt,n_completion",
            "arrival=created_at,prompt=n_prompt,output=n_completi",
        ),
        ("when,context,answer", "arrival=NAME,prompt=context,output=answer"),
        (
            "timestamp,created_at,input_tokens,output_tokens",
            "arrival=timestamp,prompt=input_tokens",
        ),
    ],
)
def test_table__that_is_not_clear_gets_a_proposal(tmp_path, header, proposed):
    message = refusal(put(tmp_path, f"{header}\n"))
    assert f"say it with --columns {proposed}" in message


def test_table__of_an_array_is_told_how_to_become_lines(tmp_path):
    assert "make lines of it: jq -c '.[]'" in refusal(put(tmp_path, '[{"timestamp": 1}]'))


# --- our own --------------------------------------------------------------------------------------


def everything() -> Trace:
    """A trace with every column there is."""
    rng = np.random.default_rng(0)
    n = 50
    after = np.where(np.arange(n) % 3 == 2, np.arange(n) - 1, -1).astype(np.int32)
    think_s = np.where(after >= 0, rng.exponential(size=n), np.nan)
    codes = np.unique(rng.integers(0, 2, n), return_inverse=True)[1].astype(np.int16)
    codes[0] = 0
    label = Labels(codes=codes, names=('a "quoted", name', "ünïcode\nline"))
    prefixes = PrefixIds.of(
        [rng.integers(0, 2**40, k).tolist() for k in rng.integers(0, 4, n)], tokens_per_id=7
    )
    return Trace(
        arrival_s=np.concatenate([[0.0], np.sort(rng.exponential(size=n - 1).cumsum() / 3)]),
        prompt_tokens=rng.integers(30, 30_000, n, dtype=np.int32),
        output_tokens=rng.integers(0, 9000, n, dtype=np.int32),
        model=label,
        log_type=label,
        service_s=rng.exponential(size=n),
        priority=rng.integers(-3, 3, n, dtype=np.int32),
        prefix_ids=prefixes,
        turns=Turns(after=after, think_s=think_s),
    )


def same(mine: Trace, other: Trace) -> bool:
    assert rows(mine) == rows(other)
    assert mine.service_s.tolist() == other.service_s.tolist()
    assert mine.priority.tolist() == other.priority.tolist()
    assert mine.prefix_ids.tokens_per_id == other.prefix_ids.tokens_per_id
    assert mine.prefix_ids.ids.tolist() == other.prefix_ids.ids.tolist()
    assert mine.prefix_ids.offsets.tolist() == other.prefix_ids.offsets.tolist()
    assert mine.turns.after.tolist() == other.turns.after.tolist()
    assert np.array_equal(mine.turns.think_s, other.turns.think_s, equal_nan=True)
    for labels in ("model", "log_type"):
        assert getattr(mine, labels).names == getattr(other, labels).names
        assert getattr(mine, labels).codes.tolist() == getattr(other, labels).codes.tolist()
    return True


@pytest.mark.parametrize("first", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("second", ["csv", "jsonl", "parquet"])
def test_ours__convert_into_one_another_without_loss(tmp_path, first, second):
    trace = everything()
    # in a recorded trace: one whose earliest arrivals are what the pauses say
    trace = read_trace(_written(trace, tmp_path / f"0.{first}"))
    again = read_trace(_written(trace, tmp_path / f"1.{second}"))
    assert same(again, trace)


def _written(trace: Trace, path: Path) -> Path:
    assert write_trace(trace, path) == path.suffix[1:]
    return path


@pytest.mark.parametrize("encoding", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("ids", "tokens_per_id", "expected"),
    [
        ([[], [1, -1]], [4, 4], "'prefix_ids': must be a list of whole numbers >= 0, got"),
        ([[], [1, 2, 3]], [4, 4], "'prefix_ids': must have at most an id per 4 prompt tokens, 2 h"),
        ([[1], [1]], [4, 5], "'tokens_per_id': must be the same number >= 1 in all rows, got 5"),
        ([[1], [1]], [0, 0], "'tokens_per_id': must be the same number >= 1 in all rows, got 0"),
        ([[1], [1]], None, "'prefix_ids': must have the column tokens_per_id beside it"),
    ],
)
def test_prefix_ids__that_cannot_be_are_named(tmp_path, encoding, ids, tokens_per_id, expected):
    columns = {"arrival_s": [0.0, 1.0], "prompt_tokens": [8, 8], "output_tokens": [1, 1]}
    columns |= {"prefix_ids": ids}
    columns |= {"tokens_per_id": tokens_per_id} if tokens_per_id else {}
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    match encoding:
        case "jsonl":
            put(tmp_path, "\n".join(map(json.dumps, records)))
        case "parquet":
            pyarrow.parquet.write_table(pa.table(columns), tmp_path / "trace.txt")
        case "csv":
            lines = [",".join(map(str, row.values())).replace(", ", " ") for row in records]
            header = ",".join(columns)
            put(tmp_path, "\n".join([header, *lines]).replace("[", "").replace("]", ""))
    message = refusal(tmp_path / "trace.txt")
    assert expected in message
    if len(ids[0]) != len(ids[1]):
        assert f"{'row' if encoding == 'parquet' else 'line'} {2 + (encoding == 'csv')}" in message


@pytest.mark.parametrize("spaces", ["1 2", " 1 2", "1  2 ", "1 2 "])
def test_prefix_ids__of_csv_may_have_more_spaces(tmp_path, spaces):
    head = "arrival_s,prompt_tokens,output_tokens,prefix_ids,tokens_per_id\n"
    trace = read_trace(put(tmp_path, f'{head}0,8,1,,4\n1,8,1,{spaces},4\n2,8,1," ",4\n'))
    assert [trace.prefix_ids.row(row).tolist() for row in range(3)] == [[], [1, 2], []]


def test_priority__is_any_whole_number_of_32_bits(tmp_path):
    head = "arrival_s,prompt_tokens,output_tokens,priority\n"
    trace = read_trace(put(tmp_path, f"{head}1,8,1,5\n0,8,1,-2\n"))
    assert trace.priority.tolist() == [-2, 5]
    for bad in ("1.5", "3000000000", ""):
        assert "'priority': must be" in refusal(put(tmp_path, f"{head}0,8,1,{bad}\n"))


def test_others__refuse_what_they_cannot_hold(tmp_path):
    with pytest.raises(TraceError, match="vidur cannot hold requests that wait for an answer"):
        write_trace(everything(), tmp_path / "x", trace_format="vidur")
    with pytest.raises(TraceError, match=r"to write must be one of burstgpt.*got 'bailian'"):
        write_trace(everything(), tmp_path / "x", trace_format="bailian")


@pytest.mark.parametrize("name", ["vidur", "splitwise-sim", "servegen", "guidellm", "mooncake"])
def test_others__are_written_so_that_they_are_recognised(tmp_path, name):
    trace = Trace(
        arrival_s=np.array([0.0, 0.25, 1.5]),
        prompt_tokens=np.array([1, 2, 3], np.int32),
        output_tokens=np.array([4, 5, 6], np.int32),
    )
    write_trace(trace, tmp_path / "x", trace_format=name)
    again = read_trace(tmp_path / "x", trace_format=name)
    assert rows(again) == rows(trace)
    if name != "guidellm":
        assert recognise(tmp_path / "x") == name


# --- bounds ---------------------------------------------------------------------------------------


def test_line__beyond_1_mib_is_refused_with_its_number(tmp_path):
    head = "arrival_s,prompt_tokens,output_tokens\n0,1,1\n"
    good = '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": []}\n'
    for text, line in (
        (head + "1,1," + "1" * 2**21, 3),
        ("x" * 2**21, 1),
        (head + "\0" * 2**21, 3),
        (good + good + good.replace("[]", f"[{'1' * 2**20}]"), 3),
    ):
        assert f"line {line}: a line must be at most 1 MiB long" in refusal(put(tmp_path, text))


def test_line__of_a_bomb_is_not_unpacked(tmp_path):
    # given 2 GB of digits on one line, in 2 MB
    member = gzip.compress(b"1" * 2**24)
    head = gzip.compress(b"arrival_s,prompt_tokens,output_tokens\n0,1,1\n0,1,")
    path = put(tmp_path, head + member * 128)
    assert "line 3: a line must be at most 1 MiB long" in refusal(path)


def test_requests__stop_the_reading_of_a_file_in_order(tmp_path):
    n = 300_000
    header = "arrival_s,prompt_tokens,output_tokens\n"
    in_order = put(tmp_path, header + "".join(f"{i},1,{i % 2}\n" for i in range(n)), "in")
    enough = registry.Enough(requests=100, failures=False)
    trace = read_trace(in_order, enough=enough)
    assert 131_172 <= len(trace) < 160_000
    assert f"only the first {len(trace)} rows were read" in trace.notes[0]
    # while one that is not in order is read to its end
    late = put(tmp_path, header + "9,1,1\n" + "".join(f"{i},1,1\n" for i in range(n)), "late")
    assert len(read_trace(late, enough=enough)) == n + 1
    # and one that has not enough of what counts
    few = registry.Enough(requests=200_000, failures=False)
    assert len(read_trace(in_order, enough=few)) == n


def test_requests__stop_the_reading_of_parquet_and_json(tmp_path):
    n = 400_000
    columns = {"arrival_s": np.zeros(n), "prompt_tokens": np.ones(n, np.int32)}
    columns["output_tokens"] = np.ones(n, np.int32)
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    line = '{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1}\n'
    put(tmp_path, gzip.compress((line * n).encode()), "x.jsonl.gz")
    enough = registry.Enough(requests=100)
    for name in ("x.parquet", "x.jsonl.gz"):
        assert len(read_trace(tmp_path / name, enough=enough)) < 300_000


def test_parquet__a_column_twice_is_refused(tmp_path):
    names = ["arrival_s", "prompt_tokens", "output_tokens", "output_tokens"]
    table = pa.Table.from_arrays([pa.array([1.0])] * 4, names=names)
    pyarrow.parquet.write_table(table, tmp_path / "x")
    assert "column 'output_tokens': must stand once in the header" in refusal(tmp_path / "x")


def test_name__that_is_not_utf_8_works_and_is_printable_in_errors(tmp_path):
    text = "arrival_s,prompt_tokens,output_tokens\n0,1,1\n"
    for encode in (lambda text: text, gzip.compress):
        path = tmp_path / "bad\udcff\x1b[31m.csv"
        path.write_bytes(encode(text.encode()))
        assert read_trace(path).name == r"bad\xff\x1b[31m.csv"
        path.write_bytes(encode((text + "1,1,x\n").encode()))
        assert r"bad\xff\x1b[31m.csv: line 3" in refusal(path)
    columns = {name: [1] for name in ("arrival_s", "prompt_tokens", "output_tokens")}
    with path.open("wb") as file:
        pyarrow.parquet.write_table(pa.table(columns), file)
    assert len(read_trace(path)) == 1


# --- the shared cases -----------------------------------------------------------------------------


@pytest.mark.data
@needs_cases
def test_case__bailian_seconds():
    summary = describe(read_trace(CASES / "bailian_seconds.jsonl"))
    assert round(summary.span_s, 3) == 34.992
    assert round(summary.arrival_rate_per_s, 2) == round(19 / 34.992, 2)
    assert summary.read_as == "bailian (JSON lines, times in seconds)"


@pytest.mark.data
@needs_cases
def test_case__vidur_trace():
    summary = describe(read_trace(CASES / "vidur_trace.csv"))
    assert (summary.requests, summary.span_s) == (4, 9.125)
    assert (summary.prompt_tokens.mean, summary.output_tokens.mean) == (435.0, 56.0)


@pytest.mark.data
@needs_cases
def test_case__aiperf_mooncake_delay():
    trace = read_trace(CASES / "aiperf_mooncake_delay.jsonl")
    summary = describe(trace)
    assert (summary.requests, summary.sessions, summary.waiting_share) == (12, 3, 0.75)
    assert summary.think_mean_s == 2.0
    first = np.flatnonzero(trace.turns.after < 0)
    assert trace.arrival_s[first].tolist() == [0.0, 0.5, 1.0]
    assert trace.prompt_tokens.max() == 42002 + 300 + 1500 + 200 + 1501 + 200 + 1502


@pytest.mark.data
@needs_cases
def test_case__mooncake_keys_sorted_long_line():
    trace = read_trace(CASES / "mooncake_keys_sorted_long_line.jsonl")
    assert (len(trace), trace.span_s) == (2, 1.0)
    assert trace.read_as == "mooncake (JSON lines, times in milliseconds)"


@pytest.mark.data
@needs_cases
def test_case__evenly_spaced_rho_096():
    summary = describe(read_trace(CASES / "evenly_spaced_rho_096.csv"))
    assert summary.arrival_rate_per_s == 19 / summary.span_s
    assert round(summary.arrival_rate_per_s * 1.005, 4) == 0.9599
