"""Trace files: what each format means, what is refused and where the error points."""

from __future__ import annotations

import gzip
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings, strategies as st
from installed_package import put_package

import llmsched.workload.trace
from llmsched.workload.formats import registry as formats
from llmsched.workload.formats.encodings.columns import buffer_of
from llmsched.workload.formats.registry import read_trace, recognise, write_trace
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.trace import Labels, Trace, TraceError

DATA = Path(__file__).parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"real traces must lie in {DATA}")

BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
CSV = "arrival_s,prompt_tokens,output_tokens\n"

# one good row of each text format, with the three cells to spoil
GOOD = {
    "burstgpt": (BURSTGPT, "{t},ChatGPT,{p},{o},9,API log\n", "5", "Timestamp"),
    "azure": (AZURE, "{t},{p},{o}\n", "2023-11-16 18:15:46.6805900", "TIMESTAMP"),
    "csv": (CSV, "{t},{p},{o}\n", "0.5", "arrival_s"),
    "mooncake": (
        "",
        '{{"timestamp": {t}, "input_length": {p}, "output_length": {o}, "hash_ids": [7]}}\n',
        "5",
        "timestamp",
    ),
}
TOKEN_COLUMNS = {
    "burstgpt": ("Request tokens", "Response tokens"),
    "azure": ("ContextTokens", "GeneratedTokens"),
    "csv": ("prompt_tokens", "output_tokens"),
    "mooncake": ("input_length", "output_length"),
}


def put(folder: Path, text: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(trace: Trace) -> list[tuple[float, int, int]]:
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def refusal(path: Path, **options: str) -> str:
    """The message of the error, which must be one line that names the file."""
    with pytest.raises(TraceError) as caught:
        read_trace(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


# --- what the formats mean, worked by hand -----------------------------------------------------


def test_burstgpt__is_seconds_from_the_first_row_with_labels(tmp_path):
    text = BURSTGPT + "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n"
    trace = read_trace(put(tmp_path, text))
    assert rows(trace) == [(0.0, 472, 18), (40.0, 1087, 0)]
    assert trace.model.names == ("ChatGPT", "GPT-4")
    assert trace.model.codes.tolist() == [0, 1]
    assert trace.log_type.names == ("Conversation log", "API log")
    assert trace.name == "trace.csv"
    assert trace.prompt_tokens.dtype == np.int32


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_burstgpt__other_columns_in_another_order_are_the_same(tmp_path, end, bom):
    lines = [
        "Log Type,Session ID,Timestamp,Elapsed time,Model,Response tokens,Request tokens",
        "Conversation log,7,0.5,1.25,ChatGPT,18,472",
        "API log,,2.75,,ChatGPT,3,62.0",
    ]
    trace = read_trace(put(tmp_path, bom + end.join(lines)))  # and no line end at the end
    assert rows(trace) == [(0.0, 472, 18), (2.25, 62, 3)]
    assert trace.log_type.names == ("Conversation log", "API log")


@pytest.mark.parametrize(
    ("first", "second", "seconds"),
    [
        ("2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951690", 4_314_579_000 / 1e9),
        ("2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:01+00:00", 990_070_000 / 1e9),
        ("2024-05-10 00:00:00Z", "2024-05-10 02:00:00.5+02:00", 0.5),  # half a second later
        ("2024-05-10 00:00:00", "2024-05-11T00:00:00Z", 86_400.0),  # mixed: the exact pass
        ("2024-05-10 00:00:00", "2024-05-10 02:00:00.5+02:00", 0.5),
        ("2024-05-10 00:00:00", "2024-05-09 18:30:00.5-0530", 0.5),
    ],
)
def test_azure__is_the_difference_of_whole_nanoseconds(tmp_path, first, second, seconds):
    path = put(tmp_path, AZURE + f"{first},374,44\r\n{second},396,109")
    assert rows(read_trace(path)) == [(0.0, 374, 44), (seconds, 396, 109)]


def test_mooncake__is_milliseconds_and_skips_other_keys(tmp_path):
    text = (
        '{"timestamp": 27482, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'
        "\n"
        '{"output_length": 490, "timestamp": 30535, "input_length": 7322, "x": [{}]}\n'
    )
    path = put(tmp_path, text, "m.jsonl")
    assert rows(read_trace(path)) == [(0.0, 6758, 500), (3.053, 7322, 490)]


def test_mooncake__keeps_the_prefix_ids_in_order_of_arrival(tmp_path):
    text = (
        '{"timestamp": 9, "input_length": 600, "output_length": 5, "hash_ids": [4, 8]}\n'
        '{"timestamp": 10, "input_length": 500, "output_length": 4}\n'
        '{"timestamp": 3, "input_length": 1024, "output_length": 6, "hash_ids": [4, 9]}\n'
    )
    trace = read_trace(put(tmp_path, text, "m.jsonl"))
    assert [trace.prefix_ids.row(row).tolist() for row in range(3)] == [[4, 9], [4, 8], []]
    assert trace.prefix_ids.tokens_per_id == 512
    write_trace(trace, tmp_path / "again.jsonl", trace_format="mooncake")
    again = read_trace(tmp_path / "again.jsonl")
    assert rows(again) == rows(trace)
    assert again.prefix_ids.ids.tolist() == trace.prefix_ids.ids.tolist()
    with pytest.warns(UserWarning, match="vidur has no column for prefix_ids"):
        write_trace(trace, tmp_path / "o.csv", trace_format="vidur")
    odd = replace(trace, prefix_ids=PrefixIds.of([[1], [], []], tokens_per_id=64))
    with pytest.raises(TraceError, match="mooncake holds prefix ids of 512 or 16 tokens, got ids"):
        write_trace(odd, tmp_path / "again.jsonl", trace_format="mooncake")


def test_mooncake__ids_of_16_tokens_are_told_by_their_number(tmp_path):
    line = '{"timestamp": 0, "input_length": 40, "output_length": 5, "hash_ids": [1, 2, 3]}\n'
    trace = read_trace(put(tmp_path, line, "m.jsonl"))
    assert trace.prefix_ids.tokens_per_id == 16
    assert trace.notes == ("prefix ids were taken to stand for 16 tokens",)


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ("[1, 2, 3, 4]", "must have at most an id per 16 prompt tokens, 3 here, got 4"),
        ("[1, -2]", "must be a list of whole numbers >= 0, got"),
        ('["a"]', "must be a list of whole numbers >= 0, got"),
        ("[1.5]", "must be a list of whole numbers >= 0, got"),
        ("[null]", "must be a list of whole numbers >= 0, got"),
        ("7", "must be a list of whole numbers >= 0, got 7"),
        ("[9223372036854775808]", "must be a list of whole numbers >= 0, got"),
    ],
)
def test_mooncake__bad_prefix_ids_are_refused_with_their_line(tmp_path, ids, told):
    good = '{"timestamp": 0, "input_length": 40, "output_length": 5}\n'
    bad = good.replace("}", f', "hash_ids": {ids}}}')
    message = refusal(put(tmp_path, good + bad, "m.jsonl"))
    assert "line 2, column 'hash_ids'" in message
    assert told in message


def test_csv__accepts_input_tokens_and_optional_labels(tmp_path):
    path = put(tmp_path, "model,input_tokens,arrival_s,output_tokens\nA,62,0.1,3\nB,65,0.35,4\n")
    trace = read_trace(path)
    assert rows(trace) == [(0.0, 62, 3), (0.35 - 0.1, 65, 4)]
    assert trace.model.names == ("A", "B")
    assert trace.log_type is None


def test_csv__blank_lines_and_quoted_line_ends_keep_their_line_numbers(tmp_path):
    text = 'model,arrival_s,prompt_tokens,output_tokens\n\n"two\nlines",0,1,1\n\nA,1,1,x\n'
    assert "line 6, column 'output_tokens'" in refusal(put(tmp_path, text))
    good = read_trace(put(tmp_path, text.replace("x", "1")))
    assert good.model.names == ("two\nlines", "A")


def test_parquet__reads_any_number_type_and_plain_text(tmp_path):
    columns = {
        "arrival_s": pa.array([3, 5], pa.int64()),
        "input_tokens": pa.array([7.0, 8.0], pa.float32()),
        "output_tokens": pa.array([1, 2], pa.uint16()),
        "model": pa.array(["A", "B"], pa.large_string()),
    }
    path = tmp_path / "x.bin"
    pyarrow.parquet.write_table(pa.table(columns), path)
    trace = read_trace(path)
    assert rows(trace) == [(0.0, 7, 1), (2.0, 8, 2)]
    assert trace.model.names == ("A", "B")


def test_recognition__goes_by_content_not_by_name(tmp_path):
    assert recognise(put(tmp_path, BURSTGPT + "1,A,1,1,2,B\n", "x.jsonl")) == "burstgpt"
    assert recognise(put(tmp_path, AZURE, "x.parquet")) == "azure"
    assert recognise(put(tmp_path, gzip.compress(CSV.encode()), "x.csv")) == "csv"
    assert recognise(put(tmp_path, GOOD["mooncake"][1].format(t=1, p=1, o=1))) == "mooncake"


def test_blocks__many_blocks_read_like_one(tmp_path):
    # given a file of several read blocks whose labels first appear in different ones
    n = 40_000
    models = ["early"] * (n // 2) + ["late"] * (n // 2)
    text = [f"{i},{m},{i % 5000},{i % 700},0,API log\n" for i, m in enumerate(models)]
    path = put(tmp_path, BURSTGPT + "".join(text))
    assert path.stat().st_size > 3 * 262_144
    # when / then
    trace = read_trace(path)
    assert trace.arrival_s.tolist() == list(range(n))
    assert trace.prompt_tokens.tolist() == [i % 5000 for i in range(n)]
    assert [trace.model.names[code] for code in trace.model.codes] == models


def test_blocks__a_slice_of_a_pyarrow_array_is_its_own_values():
    sliced = pa.array([1.0, 2.0, 3.0, 4.0]).slice(1, 2)
    assert buffer_of(sliced, np.float64).tolist() == [2.0, 3.0]
    assert buffer_of(sliced.slice(0, 0), np.float64).tolist() == []


# --- order in time -----------------------------------------------------------------------------


def test_order__late_rows_are_sorted_stably_and_counted(tmp_path):
    trace = read_trace(put(tmp_path, CSV + "5,1,1\n7,2,1\n6,3,1\n7,4,1\n5,5,1\n"))
    assert rows(trace) == [(0.0, 1, 1), (0.0, 5, 1), (1.0, 3, 1), (2.0, 2, 1), (2.0, 4, 1)]
    assert trace.notes == ("2 of 5 rows were out of order and were sorted by time",)


def test_order__ties_stay_in_file_order_in_a_long_file(tmp_path):
    # given 3000 requests at 3 instants in turn, told apart by their prompts
    lines = "".join(f"{i % 3},{i},1\n" for i in range(3000))
    # when / then
    trace = read_trace(put(tmp_path, CSV + lines))
    assert trace.prompt_tokens.tolist() == sorted(range(3000), key=lambda i: (i % 3, i))


@pytest.mark.parametrize("kind", ["shuffled", "reversed", "day 2 before day 1", "overlapping"])
def test_order__what_sorting_explains_is_sorted(tmp_path, kind):
    times = np.arange(1000.0)
    times = {
        "shuffled": np.random.default_rng(1).permutation(times),
        "reversed": times[::-1],
        "day 2 before day 1": np.concatenate([times[500:], times[:500]]),
        "overlapping": np.concatenate([times[:600], times[100:]]),
    }[kind]
    trace = read_trace(put(tmp_path, CSV + "".join(f"{t},1,1\n" for t in times)))
    assert (np.diff(trace.arrival_s) >= 0).all()
    assert len(trace.notes) == 1


@pytest.mark.parametrize("name", ["burstgpt", "azure", "csv", "mooncake"])
def test_order__a_clock_that_starts_again_is_refused(tmp_path, name):
    header, row, _, _ = GOOD[name]
    times = [f"2024-01-01 00:00:{s:02d}" if name == "azure" else str(s) for s in range(10)] * 2
    path = put(tmp_path, header + "".join(row.format(t=t, p=1, o=1) for t in times))
    message = refusal(path)
    assert f"line {11 + bool(header)}:" in message
    assert "time must not start again" in message
    assert "split them" in message


def test_order__a_second_recording_needs_ten_rows_on_both_sides(tmp_path):
    nine = [*range(10), *range(9)]
    trace = read_trace(put(tmp_path, CSV + "".join(f"{t},1,1\n" for t in nine)))
    assert trace.notes == ("9 of 19 rows were out of order and were sorted by time",)


def test_parquet__a_clock_that_starts_again_names_the_row(tmp_path):
    ones = np.ones(20, np.int32)
    times = np.array([*range(10), *range(10)], float)
    columns = {"arrival_s": times, "prompt_tokens": ones, "output_tokens": ones}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert "row 11: time must not start again" in refusal(tmp_path / "x.parquet")


def test_order__a_stray_row_ahead_is_named_and_not_the_one_after_it(tmp_path):
    # given a sorted recording with one stamp far ahead, on line 32
    times = [*range(30), 99999999, *range(30, 60)]
    message = refusal(put(tmp_path, CSV + "".join(f"{t},1,1\n" for t in times)))
    assert "line 32: time must not leap ahead of the next row" in message
    # while a recording that starts again is still one
    times = [*range(30), 99999999, *range(28, 60)]
    message = refusal(put(tmp_path, CSV + "".join(f"{t},1,1\n" for t in times)))
    assert "line 33: time must not start again" in message


# --- what is refused, in every format ------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("bad", ["-1", "62.5", "nan", "inf", "", "abc", "1_0", "2e9", "1e400", "٣"])
def test_tokens__must_be_a_whole_number_in_range(tmp_path, name, which, bad):
    header, row, time, _ = GOOD[name]
    column = TOKEN_COLUMNS[name][which]
    cells = {"t": time, "p": "1", "o": "1"}
    spoilt = cells | {"po"[which]: bad}
    text = header + 2 * row.format(**cells) + row.format(**spoilt) + row.format(**cells)
    message = refusal(put(tmp_path, text))
    line = 3 + bool(header)
    assert f"line {line}" in message
    if not (
        name == "mooncake" and bad in ("nan", "inf", "", "abc", "1_0", "٣")
    ):  # those do not parse
        assert f"line {line}, column {column!r}: must be a" in message
        assert "got an empty cell" in message if not bad else "got " in message


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("bad", ["NaN", "inf", "1e19", "", "soon", "٣", "2023-13-45 00:00:00"])
def test_time__must_be_finite_and_of_the_format(tmp_path, name, bad):
    header, row, time, column = GOOD[name]
    bad = {"inf": "Infinity"}.get(bad, bad) if name == "mooncake" else bad
    text = header + row.format(t=time, p=1, o=1) + row.format(t=bad, p=1, o=1)
    message = refusal(put(tmp_path, text))
    assert f"line {2 + bool(header)}" in message
    if not (name == "mooncake" and bad in ("", "soon", "٣", "2023-13-45 00:00:00")):
        assert f"column {column!r}: must be " in message


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("stray", [2, 0])
def test_time__far_from_all_others_is_named(tmp_path, name, stray):
    # given three rows a second apart, but one of them farther than a trace may span
    header, row, _, column = GOOD[name]
    times = {
        "azure": [f"1999-01-01 00:00:0{s}" for s in (1, 2, 3)],
        "mooncake": ["1000", "2000", "3000"],
    }.get(name, ["1", "2", "3"])
    far = {"azure": ("1679-01-01 00:00:00", "2261-12-31 00:00:00")}.get(name, ("-1e13", "1e13"))
    times[stray] = far[stray > 0]
    path = put(tmp_path, header + "".join(row.format(t=t, p=1, o=1) for t in times))
    message = refusal(path)
    assert f"line {stray + 1 + bool(header)}, column {column!r}: time must lie within" in message
    assert "within 1e+09 s of the others, the file spans" in message


def test_time__of_azure_spans_more_than_64_bits_of_it(tmp_path):
    # 212,936 days (583 years) are 1.84e19 ns: beyond int64, and refused for what they are
    text = AZURE + "1678-01-01 00:00:00,1,1\n2261-01-01 00:00:00,1,1\n"
    assert "the file spans 1.83977e+10 s" in refusal(put(tmp_path, text))


@pytest.mark.parametrize("name", ["burstgpt", "azure", "csv"])
@pytest.mark.parametrize("change", [",7\n", None])
def test_csv__a_ragged_row_is_named(tmp_path, name, change):
    header, row, time, _ = GOOD[name]
    good = row.format(t=time, p=1, o=1)
    ragged = good.rstrip("\n") + change if change else good.rsplit(",", 1)[0] + "\n"
    message = refusal(put(tmp_path, header + good + ragged + good))
    fields = header.count(",") + 1
    given = fields + (1 if change else -1)
    assert f"line 3: must have {fields} fields like the header, got {given}" in message


@pytest.mark.parametrize("name", ["burstgpt", "azure", "csv"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_csv__a_missing_column_is_named(tmp_path, name, which):
    header, row, time, time_column = GOOD[name]
    column = (time_column, *TOKEN_COLUMNS[name])[which]
    text = header.replace(column, "other") + row.format(t=time, p=1, o=1)
    for options in ({}, {"trace_format": name}):
        message = refusal(put(tmp_path, text), **options)
        assert "line 1: must name the column" in message
        assert column in message
        assert f"of the {name} format" in message


def test_csv__a_column_named_twice_is_refused(tmp_path):
    text = "arrival_s,prompt_tokens,output_tokens,arrival_s\n0,1,1,0\n"
    assert "line 1, column 'arrival_s': must stand once" in refusal(put(tmp_path, text))


def test_csv__an_empty_label_is_refused(tmp_path):
    message = refusal(put(tmp_path, BURSTGPT + "5,,1,1,2,API log\n"))
    assert "line 2, column 'Model': must be a name" in message
    assert "got an empty cell" in message


def test_csv__a_quote_that_never_ends_is_refused_where_it_begins(tmp_path):
    text = 'model,arrival_s,prompt_tokens,output_tokens\nA,0,1,1\n"B,1,1,1\nA,2,1,1\n'
    assert "line 3: must be separated values" in refusal(put(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"timestamp": 1, "input_length": 2', "line 2: must be one JSON object"),
        ("[1, 2, 3]", "line 2: must be one JSON object, got [1, 2, 3]"),
        ('{"timestamp": 1, "input_length": 2}', "line 2: must have the key 'output_length'"),
        ('{"input_length": 1, "output_length": 2}', "line 2: must have the key 'timestamp'"),
        (
            '{"timestamp": "1", "input_length": 2, "output_length": 3}',
            "line 2, column 'timestamp': must be a number, got '1'",
        ),
        (
            '{"timestamp": 1, "input_length": true, "output_length": 3}',
            "line 2, column 'input_length': must be a number, got True",
        ),
        (
            '{"timestamp": 1, "input_length": 2, "output_length": null}',
            "line 2, column 'output_length': must be a number, got null",
        ),
        (
            '{"timestamp": NaN, "input_length": 2, "output_length": 3}',
            "line 2, column 'timestamp': must be a finite time",
        ),
        (
            '{"timestamp": 1, "input_length": NaN, "output_length": 3}',
            "line 2, column 'input_length': must be a whole number",
        ),
        (
            f'{{"timestamp": 1{"0" * 400}, "input_length": 2, "output_length": 3}}',
            "line 2, column 'timestamp': must be a number that a float64 can hold",
        ),
        ("[" * 100_000, "line 2: must be one flat JSON object"),
        (
            '{"timestamp": 1, "timestamp": 2, "input_length": 2, "output_length": 3}',
            "line 2, column 'timestamp': must stand once in its object",
        ),
        (
            '{"timestamp": 1, "input_length": 2, "output_length": 3} '
            '{"timestamp": 1, "input_length": 2, "output_length": 3}',
            "line 2: must be one JSON object (Extra data",
        ),
    ],
)
def test_mooncake__a_bad_line_is_named(tmp_path, line, expected):
    good = '{"timestamp": 1, "input_length": 2, "output_length": 3, "hash_ids": []}'
    assert expected in refusal(put(tmp_path, f"{good}\n{line}\n{good}\n"))


def parquet_with(path: Path, **changes: pa.Array | None) -> Path:
    columns = {
        "arrival_s": pa.array([0.0, 1.0, 2.0]),
        "prompt_tokens": pa.array([1, 2, 3]),
        "output_tokens": pa.array([1, 2, 3]),
        "model": pa.array(["A", "A", "B"]),
    }
    columns |= changes
    kept = {name: column for name, column in columns.items() if column is not None}
    pyarrow.parquet.write_table(pa.table(kept), path)
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"output_tokens": None}, "must name the column 'output_tokens'"),
        ({"prompt_tokens": None}, "must name the column 'prompt_tokens or input_tokens'"),
        (
            {"arrival_s": pa.array(["a", "b", "c"])},
            "row 1, column 'arrival_s': must be a date and time like",
        ),
        ({"prompt_tokens": pa.array([True] * 3)}, "'prompt_tokens': must hold numbers, got bool"),
        ({"model": pa.array([1, 2, 3])}, "column 'model': must hold texts, got int64"),
        ({"model": pa.array(["A", None, "B"])}, "row 2, column 'model': must have a value"),
        ({"arrival_s": pa.array([0.0, None, 1.0])}, "row 2, column 'arrival_s': must have a value"),
        (
            {"arrival_s": pa.array([0.0, 1.0, float("inf")])},
            "row 3, column 'arrival_s': must be a finite time within ±9.2e+18, got inf",
        ),
        (
            {"output_tokens": pa.array([1, -2, 3])},
            "row 2, column 'output_tokens': must be a whole number of tokens from 0 to 1000000000, "
            "got -2",
        ),
        ({"prompt_tokens": pa.array([1.0, 2.0, 62.5])}, "row 3, column 'prompt_tokens'"),
        ({"prompt_tokens": pa.array([1.0, float("nan"), 2.0])}, "row 2, column 'prompt_tokens'"),
    ],
)
def test_parquet__what_is_wrong_is_named(tmp_path, changes, expected):
    assert expected in refusal(parquet_with(tmp_path / "x.parquet", **changes))


def test_parquet__the_row_counts_through_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("llmsched.workload.formats.encodings.parquet._ROWS_PER_BLOCK", 2)
    spoilt = {"output_tokens": pa.array([1, 2, -3])}
    assert "row 3, column 'output_tokens'" in refusal(parquet_with(tmp_path / "x", **spoilt))
    trace = read_trace(parquet_with(tmp_path / "x"))
    assert rows(trace) == [(0.0, 1, 1), (1.0, 2, 2), (2.0, 3, 3)]
    assert [trace.model.names[code] for code in trace.model.codes] == ["A", "A", "B"]


def test_parquet__cut_off_or_empty_is_refused(tmp_path):
    path = parquet_with(tmp_path / "x.parquet")
    whole = path.read_bytes()
    assert "must be a complete parquet file" in refusal(put(tmp_path, whole[:-20], "cut.parquet"))
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).slice(0, 0), path)
    assert "at least one request" in refusal(path)


def test_file__missing_folder_or_empty_is_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.csv")
    assert "got a folder" in refusal(tmp_path)
    assert "got an empty file" in refusal(put(tmp_path, ""))
    assert "got an empty file" in refusal(put(tmp_path, gzip.compress(b""), "e.csv.gz"))
    assert "must be a regular file" in refusal(Path("/dev/null"))


@pytest.mark.parametrize("header", [BURSTGPT, AZURE, CSV])
def test_file__header_alone_is_refused(tmp_path, header):
    assert "line 1: must hold at least one request" in refusal(put(tmp_path, header))
    assert "line 1: must hold at least one request" in refusal(put(tmp_path, header.strip()))


@pytest.mark.parametrize(
    "junk",
    [
        bytes(range(256)) * 40,
        b"\x7fELF\x02\x01\x01\x00" + bytes(1000),
        "Timestamp,Model".encode("utf-16"),
        b"hello\n",
        b"\n\n\n",
        b"day,requests,total_tokens\n0,3389,2823563\n",
        b'{"request_id": "bench-0"}\n',
    ],
)
def test_file__that_is_no_trace_is_refused(tmp_path, junk):
    assert "line 1: must " in refusal(put(tmp_path, junk))
    for name in formats.FORMATS:
        refusal(put(tmp_path, junk), trace_format=name)


@pytest.mark.parametrize("name", GOOD)
def test_file__text_that_is_not_utf_8_is_refused_with_its_line(tmp_path, name):
    header, row, time, _ = GOOD[name]
    good = row.format(t=time, p=1, o=1).encode()
    spoilt = good.replace(b"1", b"\xff", 1)
    message = refusal(put(tmp_path, header.encode() + good + spoilt))
    assert f"line {2 + bool(header)}: must be UTF-8 text, got byte 0xff" in message


@pytest.mark.parametrize("name", [*GOOD, "parquet"])
@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_compression__cut_off_data_is_refused(tmp_path, name, suffix, share):
    rng = np.random.default_rng(3)
    trace = made(rng.exponential(size=1000).cumsum().round(3), seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "_check_losses", lambda *_: None)
        write_trace(trace, tmp_path / f"x.{suffix}", trace_format=name)
    whole = (tmp_path / f"x.{suffix}").read_bytes()
    cut = put(tmp_path, whole[: max(5, int(share * len(whole)))], f"cut.{suffix}")
    compression = {"gz": "gzip", "zst": "zstd"}[suffix]
    for options in ({}, {"trace_format": name}):
        assert f"{compression}" in refusal(cut, **options)


def test_compression__a_flipped_bit_is_refused(tmp_path):
    data = bytearray(gzip.compress((CSV + "".join(f"{t},1,1\n" for t in range(99))).encode()))
    data[-6] ^= 1  # in the checksum
    assert "must be complete gzip data" in refusal(put(tmp_path, bytes(data), "x.csv.gz"))


def test_compression__files_joined_end_to_end_are_one(tmp_path):
    joined = gzip.compress((CSV + "0,1,1\n").encode()) + gzip.compress(b"1,2,2\n")
    assert rows(read_trace(put(tmp_path, joined))) == [(0.0, 1, 1), (1.0, 2, 2)]


def test_format__the_wrong_one_is_explained(tmp_path):
    path = put(tmp_path, AZURE + "2023-11-16 18:15:46.6805900,374,44\n")
    message = refusal(path, trace_format="burstgpt")
    assert "must name the column 'Timestamp' of the burstgpt format" in message
    assert "looks like azure" in message
    assert "looks like azure" in refusal(path, trace_format="mooncake")
    assert "looks like azure" in refusal(path, trace_format="parquet")


def test_format__an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    path = put(tmp_path, CSV + "0,1,1\n")
    with pytest.raises(TraceError, match="must be one of burstgpt, azure, bailian, aiperf"):
        read_trace(path, trace_format="excel")
    with pytest.raises(TraceError, match="got 'excel'"):
        write_trace(read_trace(path), tmp_path / "out", trace_format="excel")


# --- writing ------------------------------------------------------------------------------------


def made(arrival_s: np.ndarray, *, seed: int = 0, labels: bool = False) -> Trace:
    rng = np.random.default_rng(seed)
    n = len(arrival_s)
    label = Labels(codes=(np.arange(n) % 2).astype(np.int16), names=("GPT-4", 'a, "b"'))
    return Trace(
        arrival_s=arrival_s - arrival_s[0],
        prompt_tokens=rng.integers(0, 30_000, n, dtype=np.int32),
        output_tokens=rng.integers(0, 9000, n, dtype=np.int32),
        model=label if labels else None,
        log_type=label if labels else None,
    )


@pytest.mark.parametrize("name", ["burstgpt", "csv", "jsonl", "parquet"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_writing__any_float_comes_back_to_the_last_bit(tmp_path, name, suffix):
    trace = made(np.random.default_rng(5).exponential(size=500).cumsum() / 3, labels=True)
    path = tmp_path / f"out{suffix}"
    assert write_trace(trace, path, trace_format=name) == name
    again = read_trace(path)
    assert rows(again) == rows(trace)
    for column in ("model", "log_type"):
        assert getattr(again, column).names == getattr(trace, column).names
        assert getattr(again, column).codes.tolist() == getattr(trace, column).codes.tolist()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@given(ticks=st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
@pytest.mark.parametrize(("name", "per_s"), [("azure", 1e7), ("mooncake", 1e3)])
def test_writing__times_on_the_clock_come_back_to_the_last_bit(
    tmp_path_factory, name, per_s, ticks
):
    # given instants as that format's reader makes them: whole differences, divided once
    since = np.sort(ticks) - min(ticks)
    arrival_s = since * 100 / 1e9 if name == "azure" else since / per_s
    path = tmp_path_factory.mktemp("clock") / "out"
    trace = made(arrival_s)
    # when / then (a warning of a loss would be an error here)
    write_trace(trace, path, trace_format=name)
    assert recognise(path) == name
    assert rows(read_trace(path)) == rows(trace)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("azure", r"steps of 100 ns: 1 of 3 arrivals are rounded, by at most 2e-08 s"),
        ("mooncake", r"whole milliseconds: 1 of 3 arrivals are rounded, by at most 0.00025 s"),
    ],
)
def test_writing__what_the_clock_cannot_hold_is_counted(tmp_path, name, expected):
    rest = {"azure": 2e-8, "mooncake": 0.00025}[name]
    with pytest.warns(UserWarning, match=expected):
        write_trace(made(np.array([0.0, 0.5, 1.5 + rest])), tmp_path / "out", trace_format=name)


@pytest.mark.parametrize(
    ("name", "offset_s"),
    [
        ("mooncake", -9e8),  # both within 64 bits
        ("azure", -9e8),
        ("azure", 9.9e8),
    ],
)
def test_writing__late_and_early_times_come_back(tmp_path, name, offset_s):
    arrival_s = offset_s + np.array([0.0, 0.5, 2.0])
    trace = replace(made(np.arange(3.0)), arrival_s=arrival_s)
    write_trace(trace, tmp_path / "out", trace_format=name)
    assert read_trace(tmp_path / "out").arrival_s.tolist() == [0.0, 0.5, 2.0]


def test_writing__what_would_be_ruined_is_refused(tmp_path, monkeypatch):
    # given times that int64 milliseconds cannot hold, which only a trace past its own check has
    monkeypatch.setattr(llmsched.workload.trace, "LONGEST_S", math.inf)
    trace = replace(made(np.arange(3.0)), arrival_s=np.array([0.0, 2.0, 1e16]))
    # when / then
    with pytest.raises(TraceError, match=r"mooncake holds times in .* got 0 to 1e\+16 s; .* csv"):
        write_trace(trace, tmp_path / "out", trace_format="mooncake")
    assert list(tmp_path.iterdir()) == []


def test_writing__the_longest_span_fits_every_format(tmp_path):
    trace = made(np.array([0.0, 1 / 3, 1e9]))
    for name in ("azure", "mooncake"):
        with pytest.warns(UserWarning, match="are rounded"):
            write_trace(trace, tmp_path / "out", trace_format=name)
        assert read_trace(tmp_path / "out").arrival_s[-1] == 1e9


def test_writing__follows_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link.csv").symlink_to("far/o.csv")
    write_trace(made(np.arange(3.0)), tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "far" / "o.csv").read_text().startswith(CSV)


@pytest.mark.parametrize("name", ["o.xlsx", "o.json.gz", "o.tsv"])
def test_writing__a_suffix_that_is_not_known_needs_a_format(tmp_path, name):
    with pytest.raises(TraceError, match=r"must end in \.csv, \.txt, \.parquet, \.pq, \.jsonl"):
        write_trace(made(np.arange(3.0)), tmp_path / name)
    assert write_trace(made(np.arange(3.0)), tmp_path / name, trace_format="csv") == "csv"


def test_writing__a_label_without_a_column_is_warned_of(tmp_path):
    trace = made(np.arange(3.0), labels=True)
    with pytest.warns(UserWarning, match="is left out") as caught:
        write_trace(trace, tmp_path / "out", trace_format="azure")
    texts = [str(warning.message) for warning in caught]
    assert texts == [
        "azure has no column for model: it is left out",
        "azure has no column for log_type: it is left out",
    ]
    with pytest.warns(UserWarning, match="is left out") as caught:
        write_trace(made(np.arange(3.0)), tmp_path / "out", trace_format="burstgpt")
    assert str(caught[0].message) == "the trace has no model: the column 'Model' is left out"


def test_writing__burstgpt_looks_like_the_original(tmp_path):
    text = BURSTGPT + "0,ChatGPT,472,18,490,Conversation log\n40,GPT-4,1087,0,1087,API log\n"
    path = put(tmp_path, text)
    write_trace(read_trace(path), path, trace_format="burstgpt")  # over itself, too
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("o.csv", "csv"),
        ("o.CSV.GZ", "csv"),
        ("o.parquet", "parquet"),
        ("o.pq.zst", "parquet"),
        ("o.jsonl.gz", "jsonl"),
        ("o", "csv"),
    ],
)
def test_writing__the_suffix_chooses_the_format(tmp_path, name, expected):
    assert write_trace(made(np.arange(3.0)), tmp_path / name) == expected
    assert recognise(tmp_path / name) == expected


def test_writing__compressed_files_are_compressed(tmp_path):
    trace = made(np.arange(3.0))
    write_trace(trace, tmp_path / "o.csv.gz")
    write_trace(trace, tmp_path / "o.csv.zst")
    assert gzip.decompress((tmp_path / "o.csv.gz").read_bytes()).startswith(b"arrival_s,")
    zstandard = pytest.importorskip("zstandard")
    with zstandard.open(tmp_path / "o.csv.zst", "rb") as stream:
        assert stream.read().startswith(b"arrival_s,")


def test_writing__a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = put(tmp_path, "precious")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats, "write_table", fail)
    with pytest.raises(OSError, match=r"trace\.csv: cannot be written \(No space left"):
        write_trace(made(np.arange(3.0)), path)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_writing__to_a_place_that_cannot_be_is_refused(tmp_path):
    trace = made(np.arange(3.0))
    with pytest.raises(TraceError, match="must exist; create it first"):
        write_trace(trace, tmp_path / "absent" / "o.csv")
    with pytest.raises(TraceError, match="must not be a folder"):
        write_trace(trace, tmp_path)
    with pytest.raises(TraceError, match="must be a file that can be replaced"):
        write_trace(trace, os.devnull)
    nothing = made(np.arange(3.0))
    empty = Trace(
        arrival_s=nothing.arrival_s[:0],
        prompt_tokens=nothing.prompt_tokens[:0],
        output_tokens=nothing.output_tokens[:0],
    )
    with pytest.raises(TraceError, match="got none"):
        write_trace(empty, tmp_path / "o.csv")
    assert list(tmp_path.iterdir()) == []


# --- formats of other packages --------------------------------------------------------------------


class Lines:
    """A format of a user: one arrival in seconds a line, all of one length."""

    name = "lines"
    summary = "one arrival in seconds a line"

    def recognises(self, head):
        return head.startswith(b"# arrivals")

    def read(self, file):
        times = np.array([float(text) for line, text in file.lines() if line > 1])
        ones = np.ones(len(times), np.int32)
        return Trace(arrival_s=times, prompt_tokens=ones, output_tokens=ones)

    def write(self, trace, out):
        out.write("\n".join(["# arrivals", *map(str, trace.arrival_s.tolist())]).encode())


def test_plugin__is_recognised_read_and_written(tmp_path, monkeypatch):
    code = f"from {__name__} import Lines\nmake = Lines()\n"
    site = put_package(tmp_path, "liner", code, group=formats.ENTRY_POINTS, entry="lines")
    monkeypatch.syspath_prepend(site)
    trace = made(np.arange(3.0))
    write_trace(trace, tmp_path / "o.gz", trace_format="lines")
    assert recognise(tmp_path / "o.gz") == "lines"
    assert read_trace(tmp_path / "o.gz").arrival_s.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_module", "ModuleNotFoundError"),
        ("def make(:", "SyntaxError"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("raise SystemExit(7)", "SystemExit: 7"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("make = 42", "recognises, read, write; got haunted:make, which lacks recognises"),
    ],
)
def test_plugin__that_cannot_be_loaded_is_named(tmp_path, monkeypatch, code, said):
    site = put_package(tmp_path, "haunted", code, group=formats.ENTRY_POINTS, entry="ghost")
    monkeypatch.syspath_prepend(site)
    with pytest.raises(TraceError, match=said) as caught:
        read_trace(put(tmp_path, "what\n"))
    assert "trace format 'ghost' of package haunted must" in str(caught.value)
    assert "\n" not in str(caught.value)
    # and files that others recognise are read as ever
    assert len(read_trace(put(tmp_path, BURSTGPT + "5,ChatGPT,472,18,490,Conversation log\n"))) == 1


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("recognises=lambda head: 1 / 0", r"recognises must not fail.*ZeroDivisionError"),
        ("read=lambda file: 1 / 0", r"read must not fail.*ZeroDivisionError"),
        ("read=lambda file: [1, 2]", r"read must give a Trace, got \[1, 2\]"),
    ],
)
def test_plugin__whose_calls_fail_is_named(tmp_path, monkeypatch, broken, said):
    code = (
        "from types import SimpleNamespace\n"
        "verbs = dict(name='ghost', recognises=lambda head: True, read=len, write=len)\n"
        f"make = SimpleNamespace(**{{**verbs, **dict({broken})}})\n"
    )
    site = put_package(tmp_path, "haunted", code, group=formats.ENTRY_POINTS, entry="ghost")
    monkeypatch.syspath_prepend(site)
    with pytest.raises(ValueError, match=said):
        read_trace(put(tmp_path, "what\n"))


def test_import__is_light():
    code = (
        "import sys, llmsched.workload.formats.registry, llmsched.workload.prepare\n"
        "import llmsched.workload.fetch, llmsched.cli.commands.trace\n"
        "heavy = {'pandas', 'pyarrow', 'scipy', 'requests', 'rich', 'plotnine'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_reading__does_not_load_pandas(tmp_path):
    path = put(tmp_path, BURSTGPT + "5,ChatGPT,472,18,490,Conversation log\n")
    code = (
        "import sys, llmsched.workload.formats.registry\n"
        f"llmsched.workload.formats.registry.read_trace({str(path)!r})\n"
        "print('pandas' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


# --- the real files -------------------------------------------------------------------------------

REAL = [  # file, format, rows, span [s], mean prompt, mean output (rounded as published)
    ("burstgpt/burstgpt_1_head400.csv", "burstgpt", 400, 37_269, 520, 277),
    ("burstgpt/burstgpt_1_busy_window_0_136s.csv", "csv", 873, 136, 146, 7.8),
    ("burstgpt/burstgpt_1_busy_window_3567_7102s.csv", "csv", 312, 3535, None, None),
    ("traces/azure_llm_2023_conv.csv.gz", "azure", 19_366, 3502, 1155, 211),
    ("traces/mooncake_conversation_trace.jsonl.gz", "mooncake", 12_031, 3537, 12_035, 343),
]


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("file", "name", "n", "span_s", "prompt", "output"), REAL)
def test_real__files_read_as_documented(file, name, n, span_s, prompt, output):
    trace = read_trace(DATA / file)
    assert recognise(DATA / file) == name
    assert len(trace) == n
    assert trace.notes == ()
    assert trace.arrival_s[0] == 0.0
    assert round(trace.span_s) == span_s
    if prompt is not None:
        assert round(trace.prompt_tokens.mean()) == prompt
        assert round(trace.output_tokens.mean(), 1 if output < 10 else 0) == output


@pytest.mark.data
@needs_data
@pytest.mark.parametrize("file", [file for file, *_ in REAL])
@pytest.mark.parametrize("as_format", ["csv", "parquet"])
def test_real__files_survive_a_round_trip(tmp_path, file, as_format):
    trace = read_trace(DATA / file)
    write_trace(trace, tmp_path / "o.zst", trace_format=as_format)
    again = read_trace(tmp_path / "o.zst")
    assert rows(again) == rows(trace)
    assert (again.prefix_ids is None) == (trace.prefix_ids is None)
    if trace.prefix_ids is not None:
        assert again.prefix_ids.tokens_per_id == trace.prefix_ids.tokens_per_id
        assert (again.prefix_ids.ids == trace.prefix_ids.ids).all()
        assert (again.prefix_ids.offsets == trace.prefix_ids.offsets).all()


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(("file", "name", "n", "span_s", "prompt", "output"), REAL)
def test_real__the_exact_pass_agrees_with_the_fast_one(
    monkeypatch, file, name, n, span_s, prompt, output
):
    fast = read_trace(DATA / file)

    def refuse(*_):
        raise OSError

    monkeypatch.setattr("llmsched.workload.formats.encodings.csv._read_blocks", refuse)
    monkeypatch.setattr("llmsched.workload.formats.encodings.jsonlines._read_blocks", refuse)
    exact = read_trace(DATA / file)
    assert rows(exact) == rows(fast)
    assert (exact.prefix_ids is None) == (fast.prefix_ids is None)
    if fast.prefix_ids is not None:
        assert (exact.prefix_ids.ids == fast.prefix_ids.ids).all()
        assert (exact.prefix_ids.offsets == fast.prefix_ids.offsets).all()
    for column in ("model", "log_type"):
        if getattr(fast, column) is not None:
            assert getattr(exact, column).names == getattr(fast, column).names
            assert (getattr(exact, column).codes == getattr(fast, column).codes).all()
