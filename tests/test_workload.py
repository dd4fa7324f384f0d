"""Workloads: which requests a seed gives, how many, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmsched._util.streams import Streams
from llmsched.workload.formats import registry as formats
from llmsched.workload.synthetic import generate as arrivals
from llmsched.workload.trace import Trace, TraceError
from llmsched.workload.workload import DEFAULT_REQUESTS, Workload

ROWS = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,100,10,110,Conversation log
45,GPT-4,200,0,200,API log
45,ChatGPT,300,30,330,API log
205,ChatGPT,400,40,440,Conversation log
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "burst.csv"
    path.write_text(ROWS)
    return str(path)


def content(trace: Trace) -> list[bytes]:
    columns = [trace.arrival_s, trace.prompt_tokens, trace.output_tokens]
    columns += [labels.codes for labels in (trace.model, trace.log_type) if labels is not None]
    return [column.tobytes() for column in columns]


# --------------------------------------------------------------------------------- streams


def test_streams__of_one_seed_are_the_same_and_of_two_are_not() -> None:
    def draws(seed: int) -> list[float]:
        streams = Streams.of_seed(seed)
        return [rng.random() for rng in (streams.requests, streams.jitter, streams.prediction)]

    assert draws(3) == draws(3)
    assert len({*draws(3), *draws(4)}) == 6  # and no concern shares another's numbers


def test_streams__refuse_a_negative_seed() -> None:
    with pytest.raises(ValueError, match="seed must be a whole number >= 0, got -1"):
        Streams.of_seed(-1)


# ----------------------------------------------------------------------------------- files


def test_file__is_read_prepared_and_scaled(file: str) -> None:
    trace = Workload(source=file).load()
    # (45 - 5) / 200 and (205 - 5) / 200, the failure left out and counted
    assert trace.arrival_s.tolist() == [0.0, 40.0, 200.0]
    assert trace.prompt_tokens.tolist() == [100, 300, 400]
    assert [n for _, n in trace.left_out] == [1]


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        ({"failures": "keep"}, [100, 200, 300, 400]),
        ({"requests": 2}, [100, 300]),
        ({"requests": 2, "failures": "keep"}, [100, 200]),
        ({"window_s": (40.0, 200.0)}, [300]),
        ({"window_s": (0.0, 200.5)}, [100, 300, 400]),
        ({"model": "ChatGPT"}, [100, 300, 400]),
        ({"log_type": "API log"}, [300]),
        ({"model": "GPT-4", "failures": "keep"}, [200]),
    ],
)
def test_file__every_option_chooses(file: str, options: dict[str, Any], prompts: list[int]) -> None:
    trace = Workload(source=file, **options).load()
    assert trace.prompt_tokens.tolist() == prompts
    assert len(trace) + sum(n for _, n in trace.left_out) == 4


def test_file__real_timestamps_are_those_of_the_file(file: str) -> None:
    assert Workload(source=file, rps_scale=1.0).load().arrival_s.tolist() == [0.0, 40.0, 200.0]


def test_file__is_the_same_for_every_seed_unless_it_is_jittered(file: str) -> None:
    exact, jittered = Workload(source=file), Workload(source=file, jitter_s=1.0)
    assert (exact.random, jittered.random) == (False, True)
    assert content(exact.load(1)) == content(exact.load(2))
    assert content(jittered.load(1)) == content(jittered.load(1))
    assert content(jittered.load(1)) != content(jittered.load(2))


def test_file__jitter_has_random_numbers_of_its_own(file: str) -> None:
    # given the stream that a seed keeps for jitter, and no other
    shift_s = Streams.of_seed(1).jitter.uniform(0.0, 2.0, 3)
    expected = np.array([5.0, 45.0, 205.0]) - 5.0 + shift_s
    trace = Workload(source=file, jitter_s=2.0, rps_scale=1.0).load(1)
    assert trace.arrival_s.tolist() == (expected - expected[0]).tolist()


def test_file__is_read_once_by_a_loader(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a count of the reads
    reads = []
    read = formats.read_trace
    monkeypatch.setattr(
        formats, "read_trace", lambda *args, **options: reads.append(args) or read(*args, **options)
    )
    # when three seeds are loaded
    load = Workload(source=file, jitter_s=1.0).loader()
    traces = [load(seed) for seed in range(3)]
    # then it was read once, and every trace is what loading it anew would give
    assert len(reads) == 1
    for seed, trace in enumerate(traces):
        assert content(trace) == content(Workload(source=file, jitter_s=1.0).load(seed))


def test_file__its_format_can_be_named(file: str) -> None:
    assert len(Workload(source=file, trace_format="burstgpt").load()) == 3
    with pytest.raises(TraceError, match="the file looks like burstgpt"):
        Workload(source=file, trace_format="mooncake").load()


def test_file__fewer_requests_than_asked_for_are_a_warning(file: str) -> None:
    with pytest.warns(UserWarning, match="asked for 9 requests, .* has only 3"):
        assert len(Workload(source=file, requests=9).load()) == 3


def test_source__that_is_neither_file_nor_profile_lists_the_profiles() -> None:
    with pytest.raises(TraceError, match=r"chatbot: no such file, nor .*burstgpt-like"):
        Workload(source="chatbot").load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"requests": 0}, "requests must be a whole number from 1 to 1000000000, got 0"),
        ({"rps_scale": 0.0}, r"rps_scale must be a finite number from 1e-06 to 1e\+09, got 0"),
        ({"jitter_s": -1.0}, r"jitter_s must be a finite number from 0 to 1e\+06 seconds, got -1"),
        ({"window_s": (5.0, 5.0)}, "window must be START:END"),
        ({"failures": "hide"}, "failures must be one of drop, keep; got 'hide'"),
        ({"model": "Claude"}, "'ChatGPT', 'GPT-4'; got 'Claude'"),
    ],
)
@pytest.mark.parametrize("source", [None, "burstgpt-like"])
def test_options__that_cannot_be_are_refused(
    file: str, source: str | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Workload(source=source or file, **options).load()


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"window_s": (1e6, 2e6)}, "outside the window 1e.06 to 2e.06 s"),
        ({"model": "GPT-4"}, "failed: no output tokens"),
        ({"model": "GPT-4", "log_type": "Conversation log"}, "log type other than"),
    ],
)
def test_file__filters_that_leave_nothing_are_refused(
    file: str, options: dict[str, Any], rule: str
) -> None:
    with pytest.raises(TraceError, match=f"the rule '{rule}.*leaves out all"):
        Workload(source=file, **options).load()


# -------------------------------------------------------------------------------- profiles


def test_profile__default_is_the_embedded_one_with_10_000_requests() -> None:
    workload = Workload()
    assert (workload.source, workload.synthetic, workload.random) == ("burstgpt-like", True, True)
    assert len(workload.load()) == DEFAULT_REQUESTS == 10_000


@pytest.mark.parametrize("name", arrivals.profile_names())
def test_profile__same_seed_same_bytes_and_another_seed_other_requests(name: str) -> None:
    workload = Workload(source=name, requests=500)
    assert content(workload.load(7)) == content(workload.load(7))
    assert content(workload.load(7)) != content(workload.load(8))


@pytest.mark.parametrize("n", [1, 63, 64, 1000])
def test_profile__requests_are_counted_after_failures_are_dropped(n: int) -> None:
    # given a profile with failures
    kept = Workload(requests=n, failures="keep").load()
    dropped = Workload(requests=n).load()
    assert len(kept) == len(dropped) == n
    assert (dropped.output_tokens > 0).all()
    if n == 1000:
        assert (kept.output_tokens == 0).any()
        successes = kept.output_tokens > 0
        prefix = dropped.prompt_tokens[: successes.sum()]
        assert kept.prompt_tokens[successes].tolist() == prefix.tolist()


@pytest.mark.parametrize(
    "options", [{"model": "GPT-4"}, {"log_type": "Conversation log"}, {"failures": "keep"}]
)
def test_profile__filters_keep_the_number_asked_for_and_the_order(options: dict[str, Any]) -> None:
    short, long = (Workload(requests=n, rps_scale=1.0, **options).load(3) for n in (200, 700))
    assert (len(short), len(long)) == (200, 700)
    # a shorter request is the beginning of a longer one, however often more had to be drawn
    assert short.arrival_s.tolist() == long.arrival_s[:200].tolist()
    assert short.output_tokens.tolist() == long.output_tokens[:200].tolist()
    for labels, name in ((long.model, "model"), (long.log_type, "log_type")):
        assert labels is not None
        if name in options:
            assert labels.mask(options[name]).all()


def test_profile__filters_equal_filtering_the_raw_rows() -> None:
    raw = Workload(requests=5000, failures="keep", rps_scale=1.0).load(3)
    assert raw.model is not None
    rows = np.flatnonzero(raw.model.mask("GPT-4") & (raw.output_tokens > 0))[:100]
    trace = Workload(requests=100, model="GPT-4", rps_scale=1.0).load(3)
    assert trace.prompt_tokens.tolist() == raw.prompt_tokens[rows].tolist()
    assert trace.arrival_s.tolist() == (raw.arrival_s[rows] - raw.arrival_s[rows[0]]).tolist()


def test_profile__window_holds_all_of_it_and_warns_of_fewer_requests() -> None:
    # given all rows of the first two hours, far more than asked for by the first draw
    raw = Workload(requests=50_000, rps_scale=1.0).load()
    inside = (raw.arrival_s >= 3600) & (raw.arrival_s < 7200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few = Workload(requests=5, window_s=(3600.0, 7200.0), rps_scale=1.0).load()
    assert few.prompt_tokens.tolist() == raw.prompt_tokens[inside][:5].tolist()
    with pytest.warns(UserWarning, match=f"asked for 40000 .* has only {inside.sum()}"):
        all_of_it = Workload(requests=40_000, window_s=(3600.0, 7200.0), rps_scale=1.0).load()
    assert all_of_it.prompt_tokens.tolist() == raw.prompt_tokens[inside].tolist()


def test_profile__window_without_a_number_of_requests_is_all_of_it() -> None:
    # given a window with fewer requests than the default number, which nobody asked for
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace = Workload(source="poisson", window_s=(0.0, 600.0), rps_scale=1.0).load()
    assert 100 < len(trace) < 250  # 600 s at 0.271 requests/s: 163 +- 13
    assert trace.span_s < 600


def test_profile__scale_divides_the_times_and_nothing_else() -> None:
    real, fast = (Workload(requests=300, rps_scale=scale).load() for scale in (1.0, 200.0))
    assert (real.arrival_s / 200.0).tolist() == fast.arrival_s.tolist()
    assert real.output_tokens.tolist() == fast.output_tokens.tolist()


def test_profile__jitter_leaves_the_requests_as_they_are() -> None:
    exact, moved = (
        Workload(requests=300, rps_scale=1.0, jitter_s=jitter_s).load() for jitter_s in (0.0, 1.0)
    )
    assert sorted(exact.prompt_tokens.tolist()) == sorted(moved.prompt_tokens.tolist())
    assert len(np.unique(moved.arrival_s)) == 300
    # whole-second stamps move by less than a second, after the first moved to 0
    assert np.abs(moved.arrival_s - exact.arrival_s).max() < 1


def test_profile__with_a_trace_format_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a trace file, got the profile 'burstgpt-like'"):
        Workload(trace_format="csv").load()


def test_profile__label_it_does_not_have_is_refused() -> None:
    with pytest.raises(TraceError, match="must have a model column"):
        Workload(source="poisson", requests=10, model="GPT-4").load()


def test_profile__that_never_yields_a_request_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a profile whose every request fails
    def failures(profile: object, n: int, rng: object) -> Trace:
        nothing = np.zeros(n, np.int32)
        return Trace(arrival_s=np.zeros(n), prompt_tokens=nothing, output_tokens=nothing)

    monkeypatch.setattr(arrivals, "generate", failures)
    # then looking for one ends
    with pytest.raises(TraceError, match="must yield 10 requests after the filters, got 0 of"):
        Workload(requests=10).load()


def test_profile__of_your_own_is_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'kind = "poisson"\ndescription = "mine"\nrate_per_s = 2.0\n'
        "[prompt]\nlog_mean = 3.0\nlog_sd = 0.5\nmax_tokens = 100\n"
        "[output]\nlog_mean = 2.0\nlog_sd = 0.5\nmax_tokens = 50\n"
    )
    trace = Workload(source=str(path), requests=200, rps_scale=1.0).load()
    assert len(trace) == 200
    assert trace.prompt_tokens.max() <= 100
