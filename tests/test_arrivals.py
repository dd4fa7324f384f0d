"""The synthetic workloads: their laws, their profiles, and how near the default is to BurstGPT."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from llmsched.workload.synthetic.burstgpt_days import _batch_times_s
from llmsched.workload.synthetic.burstgpt_like import BurstGptLike
from llmsched.workload.synthetic.generate import generate
from llmsched.workload.synthetic.profile_kinds import (
    GammaBursts,
    OnOff,
    Poisson,
    Sessions,
    TokenLaw,
)
from llmsched.workload.synthetic.profiles import load_profile, profile_names
from llmsched.workload.synthetic.token_laws import token_counts, truncated_lognormal
from llmsched.workload.trace import TraceError
from llmsched.workload.workload import Workload
from plan_world import plan_simulate as simulate

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments" / "workload"))
import aggregates as agg

REAL_DATA = Path(__file__).parents[2] / "shared" / "data" / "burstgpt"
ROUND_OFF = 1e-12

# (real value, lowest, highest): where the median over SEEDS of a million rows may lie. The seeds
# are fixed, so nothing here alarms by chance. What is steady gets about a quarter either way; what
# counts by day and hour gets half to double, because two traces of 40 days of one model differ by a
# log sd of 0.3 to 0.5, so that 4 standard errors of a median of six are 0.6 to 1.0. "miss" marks a
# line where the model is off by more than its noise.
TARGETS = {
    "mean rate [1/s]": (0.271, 0.15, 0.5),
    "requests per day, mean": (23_438, 14_000, 40_000),
    "requests per day, median": (14_457, 8_000, 26_000),
    "requests per day, sd of the log": (1.14, 0.85, 1.4),
    "requests per day, lag-1 correlation of the log": (0.56, 0.2, 0.75),
    "requests per hour, p5": (3, 1, 9),
    "requests per hour, p25": (144, 72, 288),
    "requests per hour, p50": (517, 350, 1_000),  # miss: 1.5 times the real one
    "requests per hour, p75": (1_625, 1_000, 2_600),
    "requests per hour, p90": (3_385, 2_000, 5_500),
    "requests per hour, p99": (13_658, 7_000, 25_000),
    "requests per hour, lag-1 correlation": (0.67, 0.4, 0.8),
    "share of requests in the busiest 1 % of hours": (0.18, 0.1, 0.3),
    "share of requests in the busiest 10 % of hours": (0.59, 0.45, 0.7),
    "rate a request sees, p10 [1/s]": (0.21, 0.15, 0.4),
    "rate a request sees, p50 [1/s]": (0.96, 0.6, 1.5),
    "rate a request sees, p90 [1/s]": (4.6, 2.5, 8.0),
    "rate a request sees, p99 [1/s]": (9.3, 6.0, 14.0),
    "hours without a session start, share": (0.285, 0.2, 0.4),
    "silences over 1 h, per day": (0.80, 0.6, 1.0),
    "longest silence [h]": (4.2, 2.5, 5.5),
    "CV of the gaps": (13.28, 9.0, 18.0),
    "prompt tokens, mean": (611, 490, 730),
    "prompt tokens, sd": (782, 600, 980),
    "prompt tokens, q25": (137, 110, 165),
    "prompt tokens, q50": (251, 200, 310),
    "prompt tokens, q75": (758, 600, 910),
    "output tokens, mean": (123, 98, 148),
    "output tokens, sd": (268, 200, 350),
    "output tokens, q25": (7, 5, 10),
    "output tokens, q50": (34, 25, 45),
    "output tokens, q75": (134, 95, 160),
    "prompt tokens of API rows, mean": (600, 480, 720),
    "output tokens of API rows, mean": (105, 84, 130),
    "log correlation of conversations": (0.27, 0.2, 0.3),
    "conversation, share of rows": (0.104, 0.06, 0.15),
    "GPT-4, share of rows": (0.153, 0.11, 0.2),
    "failures, share of rows": (0.0178, 0.015, 0.021),
    "failures, share of conversations": (0.04, 0.037, 0.043),
    "tied stamps in busy hours, share": (0.84, 0.79, 0.90),
}
SEEDS = range(6)
V1_SHA256 = "32a85129fddee11972310c347a1dd1dfd3c9ceeadd5c3610f3a281947933b58e"


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def default():
    return load_profile("burstgpt-like")


@pytest.fixture(scope="module")
def traces(default):
    return [generate(default, 1_000_000, rng(seed)) for seed in SEEDS]


@pytest.fixture(scope="module")
def medians(default, traces):
    rows = [agg.aggregates(trace, default.start_hour) for trace in traces]
    return {key: float(np.median([row[key] for row in rows])) for key in rows[0]}


# --- lengths ---------------------------------------------------------------------------------


def test_truncated_lognormal__is_the_lognormal_given_its_bounds_by_hand():
    # given a lognormal with median 100 cut at its median, so that half of it is left
    value = truncated_lognormal(np.log([100.0]), 1.0, 0.0, 100.0, np.array([0.5, 1 - 1e-12]))
    # then its median is the old lower quartile, exp(-0.6745) of 100, and its end is the cut
    assert value[0] == pytest.approx(100 * np.exp(stats.norm.ppf(0.25)), rel=1e-9)
    assert value[1] == pytest.approx(100.0, rel=1e-9)


def test_token_counts__follow_the_truncated_law_without_a_pile_at_the_bound():
    # given a law that loses a quarter of its mass to the bound
    log_mean, log_sd, top, n = 6.63, 2.2, 2126, 200_000
    counts = token_counts(np.array([log_mean]), log_sd, top, rng(1).random(n))
    # when compared with P(count = k) = P(k - 1/2 < X < k + 1/2 | 1/2 < X < top + 1/2)
    edge = stats.norm.cdf((np.log(np.arange(top + 1) + 0.5) - log_mean) / log_sd)
    cdf = (edge[1:] - edge[0]) / (edge[-1] - edge[0])
    gap = np.abs(np.searchsorted(np.sort(counts), np.arange(1, top + 1), "right") / n - cdf).max()
    # then the Kolmogorov distance is below its 1-in-10,000 level (2.23/sqrt(n), conservative here)
    assert gap < 2.23 / n**0.5
    assert counts.min() >= 1
    assert counts.max() <= top
    # and the bound itself is as rare as the law says (Poisson, 5 standard errors)
    expected = n * (cdf[-1] - cdf[-2])
    assert abs((counts == top).sum() - expected) < 5 * expected**0.5


def test_token_counts__reach_one_by_rounding_not_by_cutting():
    # given a law with median 1: 76 % of it, given more than 1/2, would round to 1 at log sd 0.5
    counts = token_counts(np.array([0.0]), 0.5, 100, rng(2).random(100_000))
    low, high = stats.norm.cdf(np.log([0.5, 1.5]) / 0.5)
    share = (high - low) / (1 - low)
    assert abs(np.mean(counts == 1) - share) < 5 * (share * (1 - share) / 1e5) ** 0.5


def test_token_counts__of_groups_follow_each_its_own_law():
    group = np.array([0, 1, 1, 0])
    counts = token_counts(np.log([10.0, 1000.0]), 1e-3, 5000, np.full(4, 0.5), group)
    assert counts.tolist() == [10, 1000, 1000, 10]


def test_truncated_lognormal__out_of_reach_of_its_bounds_is_an_error():
    with pytest.raises(ValueError, match=r"must reach into 0\.5\.\.10"):
        truncated_lognormal(np.array([50.0]), 0.1, 0.5, 10.0, np.array([0.5]))


# --- the simple profiles ---------------------------------------------------------------------


def test_poisson__gaps_are_exponential():
    profile = load_profile("poisson")
    trace = generate(profile, 100_001, rng(3))
    gaps_s = np.diff(trace.arrival_s)
    n, rate = len(gaps_s), profile.rate_per_s
    # mean: 4 standard errors (1 false alarm in 16,000)
    assert abs(gaps_s.mean() * rate - 1) < 4 / n**0.5
    # CV 1: the sd of a sample CV of an exponential is 1/sqrt(n)
    assert abs(gaps_s.std() / gaps_s.mean() - 1) < 4 / n**0.5
    # the whole law, tail included: false alarm 1 in 10,000
    assert stats.kstest(gaps_s, "expon", args=(0, 1 / rate)).pvalue > 1e-4
    assert gaps_s.max() * rate > 8  # P(all of 1e5 gaps below 8 means) = exp(-33)


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.5, 5.0])
def test_gamma_bursts__gaps_are_gamma_with_the_cv_asked_for(cv):
    profile = replace(load_profile("gamma-bursts"), gap_cv=cv)
    gaps_s = np.diff(generate(profile, 200_001, rng(4)).arrival_s)
    n, shape = len(gaps_s), cv**-2
    assert abs(gaps_s.mean() * profile.rate_per_s - 1) < 4 * cv / n**0.5
    # delta method, skewness 2 cv and excess 6 cv^2: n var(sample CV) = cv^2 (1 + cv^2) / 2
    assert abs(gaps_s.std() / gaps_s.mean() - cv) < 4 * cv * ((1 + cv**2) / 2 / n) ** 0.5
    scale_s = 1 / (shape * profile.rate_per_s)
    # differences of sums of 1e6 s resolve 1e-10 s: test the law of the gaps above 1e-4 s
    big = gaps_s > 1e-4
    floor = stats.gamma.cdf(1e-4, shape, scale=scale_s)

    def cdf(x):
        return (stats.gamma.cdf(x, shape, scale=scale_s) - floor) / (1 - floor)

    assert stats.kstest(gaps_s[big], cdf).pvalue > 1e-4


def test_on_off__spends_its_time_and_requests_as_asked():
    # given phases far longer than the gaps, so that a gap over 5 s can only be OFF
    profile = replace(
        load_profile("on-off"),
        on_rate_per_s=10.0,
        off_rate_per_s=0.0,
        on_mean_s=60.0,
        off_mean_s=180.0,
    )
    trace = generate(profile, 400_000, rng(5))
    gaps_s = np.diff(trace.arrival_s)
    off_s = gaps_s[gaps_s > 5]
    n = len(off_s)
    # mean OFF time: memoryless beyond 5 s, apart from two half-gaps of 0.1 s either side
    assert abs(off_s.mean() - 5.0 - 180.0) < 4 * 180.0 / n**0.5 + 0.2
    # duty: 60 of every 240 s, as the mean rate shows; cycles have sd 190 s, 600 requests sd 600
    assert len(trace) / trace.span_s == pytest.approx(2.5, rel=4 * (2 / n) ** 0.5)
    # rate within ON
    on = gaps_s[gaps_s <= 5]
    assert abs(on.mean() * 10 - 1) < 4 / len(on) ** 0.5


def test_on_off__default_has_two_rates_and_burstgpts_mean():
    profile = load_profile("on-off")
    duty = profile.on_mean_s / (profile.on_mean_s + profile.off_mean_s)
    mean = duty * profile.on_rate_per_s + (1 - duty) * profile.off_rate_per_s
    assert mean == pytest.approx(0.271)
    trace = generate(profile, 300_000, rng(6))
    per_minute = np.bincount((trace.arrival_s // 60).astype(int))
    # MMPP(2) counts in windows of w: var = m + 2 c^2 [w/r - (1 - exp(-rw))/r^2], with the two
    # rates' covariance c^2 = d(1 - d)(a - b)^2 and relaxation rate r = 1/on + 1/off
    w, r = 60.0, 1 / profile.on_mean_s + 1 / profile.off_mean_s
    c2 = duty * (1 - duty) * (profile.on_rate_per_s - profile.off_rate_per_s) ** 2
    variance = mean * w + 2 * c2 * (w / r - (1 - np.exp(-r * w)) / r**2)
    # 18,000 minutes with memory of 8: some 1,100 independent ones, sd of a variance below 6 %
    assert per_minute.var() == pytest.approx(variance, rel=0.24)


@pytest.mark.parametrize("name", ["poisson", "gamma-bursts", "on-off"])
def test_simple_profiles__lengths_are_their_laws_and_independent(name):
    profile = load_profile(name)
    trace = generate(profile, 100_000, rng(7))
    for law, tokens in (
        (profile.prompt, trace.prompt_tokens),
        (profile.output, trace.output_tokens),
    ):
        assert tokens.dtype == np.int32
        low, high = stats.norm.cdf(
            (np.log([0.5, law.max_tokens + 0.5]) - law.log_mean) / law.log_sd
        )
        for level in (0.1, 0.5, 0.9):
            z = stats.norm.ppf(low + level * (high - low))
            share = np.mean(tokens < np.floor(np.exp(law.log_mean + law.log_sd * z) + 0.5))
            at = np.mean(tokens == np.floor(np.exp(law.log_mean + law.log_sd * z) + 0.5))
            noise = 4 * (level * (1 - level) / 1e5) ** 0.5
            assert share - noise < level < share + at + noise
        assert abs(agg.rank_lag1(tokens)) < 4 / 1e5**0.5
    assert trace.model is None
    assert trace.log_type is None


# --- every profile ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", profile_names())
def test_generate__same_seed_gives_the_same_bytes_another_does_not(name):
    profile = load_profile(name)
    one, two, other = (generate(profile, 70_000, rng(seed)) for seed in (11, 11, 12))
    for column in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert getattr(one, column).tobytes() == getattr(two, column).tobytes()
        assert getattr(one, column).tobytes() != getattr(other, column).tobytes()


@pytest.mark.parametrize("name", profile_names())
def test_generate__a_longer_trace_begins_with_the_shorter(name):
    profile = load_profile(name)
    short, long = generate(profile, 1_000, rng(13)), generate(profile, 150_000, rng(13))
    assert np.array_equal(short.arrival_s, long.arrival_s[:1000])
    assert np.array_equal(short.prompt_tokens, long.prompt_tokens[:1000])
    assert np.array_equal(short.output_tokens, long.output_tokens[:1000])


@pytest.mark.parametrize("name", profile_names())
@pytest.mark.parametrize("n", [1, 2, 65_536, 65_537])
def test_generate__gives_as_many_rows_as_asked_from_time_zero(name, n):
    trace = generate(load_profile(name), n, rng(14))
    assert len(trace) == n
    assert trace.arrival_s[0] == 0.0
    assert trace.name == name
    failed = trace.output_tokens == 0
    assert np.array_equal(failed, trace.prompt_tokens == 0)
    assert failed.mean() == 0 or name.startswith("burstgpt-like")


def test_generate__no_requests_is_an_error():
    with pytest.raises(ValueError, match="n_requests must be >= 1, got 0"):
        generate(load_profile("poisson"), 0, rng())


# --- burstgpt-like ---------------------------------------------------------------------------


def test_targets__are_those_the_experiment_prints():
    assert {key: real for key, (real, _, _) in TARGETS.items()} == agg.REAL
    assert all(low < real < high for real, low, high in TARGETS.values())


@pytest.mark.parametrize("key", TARGETS)
def test_burstgpt_like__is_near_the_real(key, medians):
    _, low, high = TARGETS[key]
    assert low <= medians[key] <= high


def test_burstgpt_like__stamps_are_whole_seconds_and_exact_ones_can_be_asked_for(default, traces):
    assert np.array_equal(traces[0].arrival_s % 1, np.zeros(len(traces[0])))
    exact = generate(replace(default, stamp_s=0.0), 10_000, rng(0))
    whole = traces[0]
    # the same requests, up to the two cuts (of the first arrival and of each)
    assert np.array_equal(exact.prompt_tokens, whole.prompt_tokens[:10_000])
    assert np.abs(exact.arrival_s - whole.arrival_s[:10_000]).max() < 1 + ROUND_OFF


def test_burstgpt_like__labels_are_those_of_the_real_files(traces):
    trace = traces[0]
    assert trace.model.names == ("ChatGPT", "GPT-4")
    assert trace.log_type.names == ("Conversation log", "API log")
    assert set(np.unique(trace.log_type.codes)) == {0, 1}


def test_burstgpt_like__lengths_are_clustered_in_time(traces):
    # independent lengths would give 0 +- 0.001; BurstGPT's jobs make neighbours alike
    for trace in traces:
        assert agg.rank_lag1(trace.prompt_tokens) > 0.35
        assert agg.rank_lag1(trace.output_tokens) > 0.35


def test_burstgpt_like__neighbours_are_as_alike_as_in_real_windows():
    # given the log output lengths of the first 10,000 requests that succeed, over 40 seeds
    lags = []
    for seed in range(40):
        output = Workload(rps_scale=1.0).load(seed).output_tokens
        logs = np.log(output)
        lags.append([np.corrcoef(logs[:-k], logs[k:])[0, 1] for k in (1, 10)])
    lag_1, lag_10 = np.median(lags, axis=0)
    # then the correlations are near those of two real windows, 0.82 to 0.84 and 0.6 to 0.8
    # (measured here: 0.74 and 0.66; the first version of the profile had 0.45 and 0.23)
    assert 0.70 < lag_1 < 0.85
    assert 0.60 < lag_10 < 0.80


def test_burstgpt_like__long_prompts_and_outputs_go_together_in_a_paced_job(default):
    # given one long job of the paced kind, and nothing else
    paced = next(kind for kind in default.api.jobs if kind.name == "paced")
    one = replace(paced, jobs_per_day=24.0, output_log_sd_between=0.0, prompt_log_sd_between=0.0)
    api = replace(default.api, jobs=(one,), failure_share=0.0, day_log_sd=0.0)
    talk = replace(default.conversation, requests_per_day=0.0)
    trace = generate(replace(default, api=api, conversation=talk), 50_000, rng(2))
    # then the logs correlate as in the real one (0.90), through the 2.7 % that are long
    prompt, output = np.log(trace.prompt_tokens), np.log(trace.output_tokens)
    assert np.corrcoef(prompt, output)[0, 1] == pytest.approx(0.90, abs=0.03)
    share = np.mean(trace.prompt_tokens > 1000)
    assert abs(share - 0.027) < 4 * (0.027 * 0.973 / 5e4) ** 0.5
    long = trace.prompt_tokens > 1000
    assert np.corrcoef(prompt[~long], output[~long])[0, 1] == pytest.approx(0.0, abs=0.02)


def test_job_pauses__keep_the_mean_rate(default):
    # given jobs of one rate and of a day each, with and without pauses
    steady = replace(
        next(kind for kind in default.api.jobs if kind.name == "steady"),
        rate_min_per_s=0.5,
        rate_max_per_s=0.5,
    )
    rng_ = rng(3)
    start_s, batches = np.zeros(200), np.full(200, 2000)
    gaps_s = np.full(200, 2.0)
    for share in (1.0, 0.5, 0.1):
        kind = replace(steady, active_share=share)
        batch_s = _batch_times_s(start_s, batches, gaps_s, kind, rng_).reshape(200, 2000)
        length_s = batch_s[:, -1]
        error = length_s.std(ddof=1) / 200**0.5
        assert abs(length_s.mean() - 1999 * 2.0) < 4 * error
        # and while it is active it sends that much faster
        middle = np.median(np.diff(batch_s, axis=1))
        assert middle == pytest.approx(share * 2.0 * np.log(2), rel=0.1)


def test_burstgpt_like__conversation_is_near_poisson_within_twenty_minutes(default):
    # given exact stamps and the conversation alone
    trace = generate(replace(default, stamp_s=0.0), 200_000, rng(15))
    arrival_s = trace.arrival_s[trace.log_type.codes == 0]
    window = (arrival_s // 1200).astype(int)
    # when every window of more than 30 requests is fitted by moments, as for the real rows
    gaps = [np.diff(arrival_s[window == w]) for w in np.unique(window)]
    shapes = [(g.mean() / g.std()) ** 2 for g in gaps if len(g) >= 30]
    # then the median gamma shape is the real conversation's, 0.85 to 1.3
    assert len(shapes) > 30
    assert 0.85 < np.median(shapes) < 1.3


def test_burstgpt_like__paced_jobs_are_smoother_than_poisson(default):
    # given one family of jobs alone, paced by a client's limit
    paced = replace(default.api.jobs[2], jobs_per_day=2.0)
    quiet = replace(default.conversation, requests_per_day=0.0)
    one = replace(default.api, day_log_sd=0.0, jobs=(paced,))
    trace = generate(replace(default, conversation=quiet, api=one), 3_000, rng(16))
    counts = np.bincount(trace.arrival_s.astype(int))[5:200]
    # then counts per second have variance/mean about 0.6, as the real job (sd of it 0.1 here)
    assert 0.3 < counts.var() / counts.mean() < 0.9
    assert 4 * 0.9 < counts.mean() < 10 * 1.1


def test_burstgpt_like__jobs_go_on_past_midnight(default):
    # given many jobs of hours, at one rate all day, every day, and nothing else
    steady = replace(default.api.jobs[0], jobs_per_day=400.0)
    flat = (1.0,) * 24
    api = replace(default.api, day_log_sd=0.0, hour_profile=flat, jobs=(steady,))
    quiet = replace(default.conversation, requests_per_day=0.0)
    none = replace(default.silences, per_day=0.0)
    profile = replace(default, api=api, conversation=quiet, silences=none)
    # when counted by hour of day
    trace = generate(profile, 3_000_000, rng(17))
    clock = agg.hour_of_day(trace, default.start_hour)
    # then the hours from midnight are like the others: the process is stationary. Some 13 jobs at
    # a time, rates of CV 0.5, over 9 days that are independent: sd 11 % of an hour's mean
    assert np.abs(clock / clock.mean() - 1).max() < 4 * 0.11


def test_burstgpt_like__does_not_begin_with_a_quiet_ramp_up(default):
    # given the beginnings of 40 traces
    starts = [generate(default, 10_000, rng(seed)) for seed in range(40)]
    for n in (1_000, 10_000):
        rates = [n / trace.arrival_s[n - 1] for trace in starts]
        talk = [np.mean(trace.log_type.codes[:n] == 0) for trace in starts]
        # then most run at a rate that requests of the whole trace see (p10 0.21, p90 4.6)
        assert np.mean([0.21 < rate < 4.6 for rate in rates]) > 0.75
        assert 0.3 < np.median(rates) < 2
        # and hold conversations beside API requests of several kinds
        assert 0.02 < np.median(talk) < 0.2
        assert all(0 < share < 1 for share in talk)
        kinds = [len(np.unique(np.round(np.log(t.output_tokens[:n] + 1.0)))) for t in starts]
        assert np.median(kinds) >= 6
    assert default.start_hour == 12


@pytest.mark.data
def test_burstgpt_like__agrees_with_the_real_daily_hourly_and_clock_counts(default, traces):
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real BurstGPT aggregates must lie in {REAL_DATA}")

    def table(name):
        path = REAL_DATA / name
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            return [
                {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
            ]

    days = np.array([row["requests"] for row in table("burstgpt_1_daily.csv")])
    sessions = table("burstgpt_1_hourly_sessions_gap15m.csv.gz")
    hours = np.array([row["avg_turns"] * row["session_count"] for row in sessions])
    clock = [row["mean_requests_per_hour"] for row in table("burstgpt_1_hour_of_day.csv")]
    # the constants in `aggregates.REAL` are those of the files
    assert days.mean() == pytest.approx(agg.REAL["requests per day, mean"], abs=1)
    assert np.median(hours) == pytest.approx(agg.REAL["requests per hour, p50"], rel=0.01)
    start = default.start_hour
    # days: distance of the two distributions below the 1-in-1000 level of 61 against 61 days,
    # which dependence between days widens further
    made_days = np.concatenate([agg.daily_counts(trace, start) for trace in traces])
    assert stats.ks_2samp(days, made_days).statistic < 1.95 * (2 / 61) ** 0.5
    # hours: the pooled quantiles within a factor of two
    made_hours = np.concatenate([agg.session_hours(trace, start) for trace in traces])
    for level in (25, 50, 75, 90, 99):
        ratio = np.percentile(made_hours[made_hours > 0], level) / np.percentile(hours, level)
        assert 0.5 < ratio < 2
    # the clock: same shape; six traces of the model correlate by 0.87 to 0.93, 24 by 0.94
    made_clock = np.mean([agg.hour_of_day(trace, start) for trace in traces], axis=0)
    assert np.corrcoef(made_clock, clock)[0, 1] > 0.8


# --- sessions --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talk():
    return load_profile("sessions")


def test_sessions__prompts_hold_what_was_said(talk):
    trace = generate(talk, 20_000, rng(4))
    turns = trace.turns
    # given every later turn and the one before
    later = np.flatnonzero(turns.after >= 0)
    before = turns.after[later]
    new = trace.prompt_tokens[later] - trace.prompt_tokens[before] - trace.output_tokens[before]
    # then what is new is a message, and what was said is the rest
    assert new.min() >= 1
    assert new.max() <= talk.message.max_tokens
    first = np.flatnonzero(turns.after < 0)
    message = trace.prompt_tokens[first] - talk.system_tokens
    assert message.min() >= 1
    assert message.max() <= talk.first.max_tokens
    assert trace.total_tokens.max() <= talk.max_context_tokens
    # and both are of their laws: medians of the truncated lognormals, within 4 standard errors
    for tokens, law in ((new, talk.message), (message, talk.first)):
        median = np.exp(law.log_mean + law.log_sd * _middle(law))
        share = np.mean(tokens <= np.round(median))
        assert abs(share - 0.5) < 4 * 0.5 / len(tokens) ** 0.5 + 0.01


def _middle(law):
    """Where in standard deviations the median of a truncated law lies."""
    low, high = stats.norm.cdf((np.log([0.5, law.max_tokens + 0.5]) - law.log_mean) / law.log_sd)
    return stats.norm.ppf((low + high) / 2)


def test_sessions__prefix_ids_are_shared_as_contexts_grow(talk):
    trace = generate(talk, 5000, rng(4))
    turns, prefixes = trace.turns, trace.prefix_ids
    assert (prefixes.lengths == trace.prompt_tokens // 64).all()
    everybody = prefixes.row(0)[: talk.system_tokens // 64].tolist()
    assert len(everybody) == 3
    for row in range(300):
        ids, before = prefixes.row(row).tolist(), turns.after[row]
        if before >= 0:  # all whole pieces of the turn before
            assert ids[: prefixes.lengths[before]] == prefixes.row(before).tolist()
        assert ids[:3] == everybody
    # and of sessions that begin, nothing else is known to others
    first = np.flatnonzero(turns.after < 0)
    own = np.concatenate([prefixes.row(row)[3:] for row in first])
    assert len(np.unique(own)) == len(own)


def test_sessions__begin_as_a_poisson_process_and_have_geometric_turns(talk):
    # given sessions that always fit, all of those that begin in the first two thirds
    roomy = replace(talk, max_context_tokens=10**8)
    trace = generate(roomy, 60_000, rng(5))
    first = np.flatnonzero(trace.turns.after < 0)
    gaps_s = np.diff(trace.arrival_s[first])
    assert abs(gaps_s.mean() * talk.sessions_per_s - 1) < 4 / len(gaps_s) ** 0.5
    assert stats.kstest(gaps_s, "expon", args=(0, 1 / talk.sessions_per_s)).pvalue > 1e-4
    session = np.arange(len(trace))
    for row in np.flatnonzero(trace.turns.after >= 0):
        session[row] = session[trace.turns.after[row]]
    turns = np.bincount(session)[first[: len(first) * 2 // 3]]
    p = 1 / talk.mean_turns
    assert abs(turns.mean() - talk.mean_turns) < 4 * ((1 - p) / p**2 / len(turns)) ** 0.5
    assert abs(np.mean(turns == 1) - p) < 4 * (p * (1 - p) / len(turns)) ** 0.5


def test_sessions__arrivals_are_the_earliest_and_pauses_wait_for_answers(talk):
    trace = generate(talk, 20_000, rng(6))
    turns = trace.turns
    assert trace.closed
    later = turns.waiting
    assert np.allclose(
        trace.arrival_s[later],
        trace.arrival_s[turns.after[later]] + turns.think_s[later],
        rtol=0,
        atol=1e-6,
    )
    logs = np.log(turns.think_s[later])
    assert abs(logs.mean() - talk.think_log_mean) < 0.05
    assert turns.think_s[later].max() < talk.think_max_s


def test_sessions__are_served_turn_after_turn():
    run = simulate(Workload(source="sessions", requests=2000, rps_scale=50.0), n_gpus=2)
    assert run.metrics.completed + run.metrics.rejected == 2000
    trace = Workload(source="sessions", requests=2000, rps_scale=50.0).load()
    later = np.flatnonzero(trace.turns.waiting)
    before = trace.turns.after[later]
    table = run.requests
    done_s = np.where(table.completed, table.finish_s, table.arrival_s)[before]
    assert (table.arrival_s[later] == done_s + trace.turns.think_s[later]).all()
    # sessions come fifty times as often, people think as long as ever
    slow = Workload(source="sessions", requests=2000, rps_scale=1.0).load()
    assert np.nanmedian(trace.turns.think_s) == np.nanmedian(slow.turns.think_s)
    assert trace.span_s < slow.span_s / 2


# --- profiles --------------------------------------------------------------------------------


def test_profiles__ship_and_load_as_their_kinds():
    kinds = {name: type(load_profile(name)) for name in profile_names()}
    assert kinds == {
        "burstgpt-like": BurstGptLike,
        "burstgpt-like-v1": BurstGptLike,
        "gamma-bursts": GammaBursts,
        "on-off": OnOff,
        "poisson": Poisson,
        "sessions": Sessions,
    }


def test_burstgpt_like_v1__gives_the_bytes_it_always_gave_golden():
    # a golden: comparisons before and after rest on it
    content = hashlib.sha256()
    for seed in (0, 1, 7):
        trace = generate(load_profile("burstgpt-like-v1"), 60_000, rng(seed))
        columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
        for column in (*columns, trace.model.codes, trace.log_type.codes):
            content.update(column.tobytes())
    assert content.hexdigest() == V1_SHA256


def test_load_profile__takes_a_path_and_names_it_after_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(POISSON)
    profile = load_profile(path)
    assert profile == load_profile(str(path))
    assert (profile.name, profile.rate_per_s, type(profile.rate_per_s)) == ("mine", 2.0, float)
    assert profile.prompt == TokenLaw(log_mean=5.0, log_sd=1.0, max_tokens=100)


POISSON = """
kind = "poisson"
description = "two a second"
rate_per_s = 2
[prompt]
log_mean = 5.0
log_sd = 1.0
max_tokens = 100
[output]
log_mean = 5.0
log_sd = 1.0
max_tokens = 100
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"poisson"', '"poison"', "kind must be one of poisson, .*, got 'poison'"),
        ("rate_per_s = 2", "rate_per_s = 0", "rate_per_s must be >= 1e-06, got 0.0"),
        ("rate_per_s = 2", "rate_per_s = inf", "rate_per_s must be a finite number, got inf"),
        ("rate_per_s = 2", "rate_per_s = true", "rate_per_s must be a finite number, got True"),
        ("rate_per_s = 2", 'rate_per_s = "2"', "rate_per_s must be a finite number, got '2'"),
        ("rate_per_s = 2", "", "rate_per_s must be given"),
        ("rate_per_s = 2", "rate_per_s = 2\nrps = 3", "rps is unknown; known here: .*rate_per_s"),
        ("log_sd = 1.0", "log_sd = -1.0", "prompt.log_sd must be > 0, got -1.0"),
        (
            "max_tokens = 100",
            "max_tokens = 1.5",
            "prompt.max_tokens must be a whole number, got 1.5",
        ),
        ("log_sd = 1.0", "log_sd = 1.0\nsd = 1", "prompt.sd is unknown; known here: log_mean"),
        ("rate_per_s = 2", "rate_per_s =", "a workload profile must be TOML, .*line 4"),
        (
            "rate_per_s = 2",
            f"rate_per_s = {'9' * 400}",
            r"rate_per_s must lie within -1..1e\+06, got a number of more than 70 digits",
        ),
        ("rate_per_s = 2", f"rate_per_s = {'9' * 5000}", "numbers .* must fit a float64"),
        ("rate_per_s = 2", "rate_per_s = 1e300", r"rate_per_s must lie within .* got 1e\+300"),
        ("rate_per_s = 2", "rate_per_s = 1e-300", "rate_per_s must be >= 1e-06, got 1e-300"),
        ("rate_per_s = 2", f"rate_per_s = {'[' * 5000}", "must not be so deeply nested"),
        ("rate_per_s = 2", f"rate_per_s = 2 #{' ' * 2**20}", "must be at most 1 MiB long"),
        ("log_mean = 5.0", "log_mean = 20", "log_mean must be within 7 log_sd of the values"),
    ],
)
def test_load_profile__names_the_file_and_the_key_that_is_wrong(tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    path.write_text(POISSON.replace(old, new, 1))
    with pytest.raises(TraceError, match=message) as caught:
        load_profile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("start_hour = 12", "start_hour = 5", r"start_hour must be within 6\.\.23 .*, got 5"),
        ("batch_size = 10", "batch_size = 0", r"api.jobs\[1\].batch_size must be >= 1, got 0"),
        ("  0.52, 0.33,", "  0.33,", "hour_profile must be 24 numbers long, got 23"),
        ("log_correlation = 0.27", "log_correlation = 1", "log_correlation must be within -1..1"),
        ("failure_share = 0.04", "failure_share = 4", "failure_share must be within 0..1, got 4.0"),
        ("per_day = 0.4", "per_day = 40.0", "per_day \\* mean length must be below half a day"),
    ],
)
def test_load_profile__checks_the_nested_tables(tmp_path, old, new, message):
    text = (Path(__file__).parents[1] / "workloads" / "burstgpt-like.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(TraceError, match=message):
        load_profile(path)


def test_load_profile__lists_the_known_names():
    with pytest.raises(TraceError, match="one of burstgpt-like, burstgpt-like-v1, gamma-bursts"):
        load_profile("chatbot")


def test_load_profile__a_missing_file_is_one_line(tmp_path):
    with pytest.raises(TraceError, match=r"gone\.toml: .* No such file") as caught:
        load_profile(tmp_path / "gone.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", profile_names())
@pytest.mark.parametrize("value", ["1e300", "1000000000000000000", "1e-300", "-1", "nan", "inf"])
def test_load_profile__any_number_gone_mad_is_refused_or_works(tmp_path, name, value):
    text = (Path(__file__).parents[1] / "workloads" / f"{name}.toml").read_text()
    path = tmp_path / "mine.toml"
    for number in re.finditer(r"(?m)^\w+ = (-?[\d.]+)", text):
        path.write_text(text[: number.start(1)] + value + text[number.end(1) :])
        with contextlib.suppress(TraceError):  # of one line, as above
            profile = load_profile(path)
            # a warning would be an error here
            assert len(generate(profile, 200, np.random.default_rng(0))) == 200
