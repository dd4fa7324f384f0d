"""Files that are not what they seem: one clear line each, bounded, never a traceback."""

from __future__ import annotations

import gzip
import json
import math
import random

import pytest
from result_files import EXAMPLES, save, together, vllm_file

from llmsched.calibration.benchmarks import files
from llmsched.calibration.benchmarks.registry import FORMATS, read_benchmarks
from llmsched.latency.base import CalibrationError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean_tpot_ms": None}, "field mean_tpot_ms must be a number, got nothing"),
        ({"mean_ttft_ms": "12"}, "field mean_ttft_ms must be a number, got '12'"),
        ({"mean_ttft_ms": math.nan}, "field mean_ttft_ms must be a number, got nan"),
        ({"mean_ttft_ms": True}, "field mean_ttft_ms must be a number, got True"),
        ({"mean_ttft_ms": 10**400}, "field mean_ttft_ms must be a number, got a number of more"),
        ({"completed": 0, "failed": 7}, "got 0 completed and 7 failed"),
        ({"completed": 1.5}, "field completed must be a count, got 1.5"),
        ({"completed": 1e308}, r"field completed must be a count, got 1e\+308"),
        ({"max_concurrency": -4}, "field max_concurrency must be a count, got -4"),
        ({"request_rate": "fast"}, "field request_rate must be a number, got 'fast'"),
        ({"completed": 3, "max_concurrency": 4}, "got 3 of 4; send more"),
        ({"mean_ttft_ms": 0}, "ttft_mean_s must be > 0, got 0; measure with streaming on"),
        ({"total_output_tokens": 8}, "output_tokens must be >= 1, got 0.1"),
        ({"itls": [[0.1]]}, "field input_lens must be a list of one or more, got nothing"),
    ],
)
def test_record__a_bad_field_is_named_in_one_line(tmp_path, change, message):
    path = save(tmp_path / "r.json", vllm_file(together(2), **change))
    with pytest.raises(CalibrationError, match=message) as caught:
        read_benchmarks([path], format="vllm-bench")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_record__lists_of_different_lengths_are_refused(tmp_path):
    lists = {"input_lens": [1, 2], "output_lens": [2, 2], "ttfts": [1, 1], "itls": [[1]]}
    path = save(tmp_path / "r.json", vllm_file(together(1), **lists))
    with pytest.raises(CalibrationError, match="one entry per request, got 2, 2, 2, 1"):
        read_benchmarks([path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be JSON or a CSV table with a header"),
        ("completed: 3", "must be JSON or a CSV table with a header, got 'completed: 3'"),
        ('{"completed": 3} and more', "must be JSON, got Expecting value in line 1"),
        ('{"completed": 3,\n "x"', "must be JSON, got Expecting ':' delimiter in line 2"),
        ('{"a": 1, "a": 2}', "a key must stand once in its object, got 'a'"),
        ("[1, 2]", "got a JSON int"),
        ("{}", "got an empty JSON object"),
        ("[]", "got an empty JSON list"),
        ('{"a": 1' + "0" * 5000 + "}", "got a number that is too long"),
        ("[" * 100_000, "nested too deep"),
        ("a,b\n", "must have a row or more below its header"),
        ("a,a\n1,2\n", "columns must have different names"),
        ("a,b\n1\n", r"\(line 2\): must have 2 cells, got 1"),
        ('a,b\n"1,2\n', "must be a CSV table, got"),
        ("a,b\n" + "1" * 200_000 + ",2\n", "must be a CSV table, got field larger than"),
        ('{"avg_latency": 1, "latencies": []}', "does not save its batch size"),
        ('{"elapsed_time": 1, "tokens_per_second": 2}', "does not save its batch sizes"),
        ('{"experiments": [], "version": 1}', "raw responses; name the summary"),
        ("t,running,waiting\n1,2,3\n", "name the requests, beside which they are read"),
        ('{"b": 1, "a": 1}', "must have the fields of one of vllm-bench, .* got a, b$"),
    ],
)
def test_read__another_file_is_refused_and_said_what_it_is(tmp_path, text, message):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=message) as caught:
        read_benchmarks([path])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("example", ["guidellm", "aiperf", "sglang"])
def test_read__a_file_of_another_tool_is_named(tmp_path, example):
    path = EXAMPLES[example](tmp_path)
    with pytest.raises(CalibrationError, match=f"mean_ttft_ms, got .*this looks like {example}'s"):
        read_benchmarks([path], format="vllm-bench")


def test_read__bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "r.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match="got no text"):
        read_benchmarks([path])
    path.write_bytes(b"\x1f\x8b\x00\x00 not gzip")
    with pytest.raises(CalibrationError, match="must be whole gzip data"):
        read_benchmarks([path])


def test_read__a_file_is_bounded_also_unpacked(tmp_path, monkeypatch):
    # given a limit of 10,000 bytes, a file beyond it and one that unpacks beyond it
    monkeypatch.setattr(files, "MAX_BYTES", 10_000)
    path = save(tmp_path / "r.json", vllm_file(together(1), errors=[""] * 10_000))
    with pytest.raises(CalibrationError, match="at most 0 MiB unpacked"):
        read_benchmarks([path])
    path.write_bytes(gzip.compress(b" " * 1_000_000))
    with pytest.raises(CalibrationError, match="at most 0 MiB unpacked"):
        read_benchmarks([path])


def test_read__an_endless_file_is_not_read(tmp_path):
    with pytest.raises(CalibrationError, match="/dev/zero: must be a regular file"):
        read_benchmarks(["/dev/zero"])
    path = tmp_path / "sparse.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CalibrationError, match="at most 128 MiB unpacked"):
        read_benchmarks([path])


def test_read__a_byte_order_mark_and_blank_lines_are_no_content(tmp_path):
    path = tmp_path / "r.jsonl"
    lines = [json.dumps(vllm_file(together(n))) for n in (1, 4)]
    path.write_text("\ufeff\n" + "\n\n".join(lines) + "\n\n", encoding="utf-8")
    assert len(read_benchmarks([path]).runs) == 2


# garbage

ODD = [None, True, "", "x", -1, 0, 0.5, 1e308, math.nan, math.inf, 10**400, [], {}, [[]], ["x"]]


def mutated(value, rng):
    """The same JSON value with one of its parts replaced by something odd, or left out."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        return [*value[:index], mutated(value[index], rng), *value[index + 1 :]]
    return rng.choice(ODD)


def refusal(path, name):
    """Why the file is not read, in our words; anything else raised fails the test."""
    try:
        read_benchmarks([path], format=name)
    except CalibrationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("example", EXAMPLES)
def test_fuzz__damaged_files_are_read_or_refused_in_one_line(tmp_path, example):
    # given the example of a format
    rng = random.Random(example)
    path = EXAMPLES[example](tmp_path)
    whole = path.read_bytes()
    name = example.partition(",")[0]
    refused = 0
    for _ in range(60):
        # when its bytes are cut, swapped and made up, or its values replaced
        content = bytearray(whole)
        kind = rng.randrange(3)
        if kind == 0:
            content = content[: rng.randrange(len(content))]
        elif kind == 1:
            for _ in range(rng.randrange(1, 20)):
                content[rng.randrange(len(content))] = rng.randrange(256)
        elif path.suffix == ".csv":
            text = whole.decode()
            cells = text.split(",")
            cells[rng.randrange(len(cells))] = rng.choice(["", "x", "-1", "nan", "1e999", "0", "³"])
            content = ",".join(cells).encode()
        else:
            values = [json.loads(line) for line in whole.splitlines()]
            content = "\n".join(json.dumps(mutated(value, rng)) for value in values).encode()
        path.write_bytes(bytes(content))
        # then it is read, or refused in a line
        said = refusal(path, rng.choice([name, "auto"]))
        assert "\n" not in said
        assert not said or path.name in said
        refused += bool(said)
    assert refused > 0


def test_fuzz__random_bytes_are_refused_by_every_format(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "noise.json"
    for i in range(120):
        start = rng.choice([b"", b"{", b"[", b'{"benchmarks":', b"\x1f\x8b", b"arrival_s,"])
        path.write_bytes(start + rng.randbytes(rng.randrange(100)))
        assert path.name in refusal(path, [*FORMATS, "auto"][i % (len(FORMATS) + 1)])
