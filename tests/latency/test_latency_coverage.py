"""The 95 % intervals of a fit cover the truth as often as they say, for every parametric form.

Synthetic grids of 6 batch sizes × 5 lengths with 5 % of normal noise, in two ways: one measurement
per cell, its error read off the residuals; or the mean of ten, with their standard deviation. The
true parameters lie at least four standard errors above the bound 0: nearer, an estimate can end
on it, and then has no interval (the last test says what becomes of the coverage).
"""

from __future__ import annotations

import numpy as np
import pytest

from llmsched.latency.fit import form_fit as latency_form_fit
from llmsched.latency.fit.form_fit import fit_form
from llmsched.latency.fit.grid import LatencyGrid

TRUTH = {
    "reference": np.array([0.3, 0.0004, 0.6]),
    "four-term": np.array([0.3, 0.002, 4e-5, 6e-8]),
    "step": np.array([0.02, 2e-5, 600.0, 4e-4, 4e-7]),
}
NOISE = 0.05
FEWEST, MOST = 0.92, 0.98
WEIGHTING = {1: "size", 10: "trials"}


def made_grid(form, truth, *, n_trials, seed):
    """A grid of that form's law, every time measured `n_trials` times with 5 % of noise."""
    rng = np.random.default_rng([seed, n_trials])
    b, p = (a.ravel() for a in np.meshgrid([1, 2, 4, 8, 16, 32], [64, 128, 256, 512, 1024]))
    o, total = p, 2 * p
    columns = {"batch_size": b, "max_seq_len": total, "n_trials": np.full(len(b), n_trials)}
    if form == "step":
        c0, cp, n0, cb, ckv = truth
        prefill = c0 + cp * np.maximum(0, b * p - n0) + cb * b
        decode = c0 + cb * b + ckv * b * (p + o / 2)
        prefill, prefill_std = _noisy(prefill, n_trials, rng)
        decode, decode_std = _noisy(decode, n_trials, rng)
        return LatencyGrid(
            **columns,
            mean_latency_s=prefill + (o - 1) * decode,
            std_latency_s=np.full(len(b), np.nan),
            prompt_tokens=p,
            output_tokens=o,
            prefill_s=prefill,
            prefill_std_s=prefill_std,
            decode_step_s=decode,
            decode_step_std_s=decode_std,
        )
    if form == "reference":
        alpha, beta, gamma = truth
        time_s = alpha + beta * total * (1 + gamma * (b - 1) / b)
    else:
        a0, a1, a2, a3 = truth
        time_s = a0 + a1 * total + a2 * b * total + a3 * b * total**2
    mean, std = _noisy(time_s, n_trials, rng)
    return LatencyGrid(**columns, mean_latency_s=mean, std_latency_s=std)


def _noisy(time_s, n_trials, rng):
    trials = time_s * (1 + NOISE * rng.standard_normal((n_trials, len(time_s))))
    if n_trials == 1:
        return trials[0], np.full(len(time_s), np.nan)
    return trials.mean(axis=0), trials.std(axis=0, ddof=1)


def covered(form, *, n_trials, n_grids, truth=None):
    """Whether each interval holds the truth, shape (n_grids, p)."""
    truth = TRUTH[form] if truth is None else truth
    rows = []
    for seed in range(n_grids):
        fit = fit_form(made_grid(form, truth, n_trials=n_trials, seed=seed), form, chosen="a test")
        assert fit.weighting == WEIGHTING[n_trials]
        low, high = fit.intervals().T
        rows.append((low <= truth) & (truth <= high))
    return np.array(rows)


@pytest.mark.parametrize("n_trials", WEIGHTING)
@pytest.mark.parametrize("form", TRUTH)
def test_intervals__cover_the_truth_in_92_to_98_percent_of_200_grids(form, n_trials):
    # given 200 grids; when every parameter's 95 % interval is held against the truth
    share = covered(form, n_trials=n_trials, n_grids=200).mean()
    # then of all the intervals of the form 92 to 98 % hold it. (One parameter alone, known to
    # 1.5 %, would leave that range once in twenty times if each interval were exactly 95 %.)
    assert FEWEST <= share <= MOST


@pytest.mark.slow
@pytest.mark.parametrize("n_trials", WEIGHTING)
@pytest.mark.parametrize("form", TRUTH)
def test_intervals__cover_every_parameter_in_92_to_98_percent_of_1000_grids(form, n_trials):
    # the standard error of a share of 95 % in 1000 is 0.7 %, so the range is four of them wide
    share = covered(form, n_trials=n_trials, n_grids=1000).mean(axis=0)
    assert np.all((share >= FEWEST) & (share <= MOST)), share


def test_intervals__half_as_wide_are_found_out(monkeypatch):
    # given a covariance four times too small
    right = latency_form_fit._inverse_information
    monkeypatch.setattr(latency_form_fit, "_inverse_information", lambda *args: 0.25 * right(*args))
    # then the intervals hold the truth in about 67 % of the grids (1 standard error to each side)
    for form in ("reference", "four-term"):
        assert covered(form, n_trials=1, n_grids=60).mean() < 0.85


def test_intervals__with_a_true_parameter_of_zero_are_missing_or_wide():
    # given four terms of which the last is 0: on the bound
    truth = np.array([0.3, 0.002, 4e-5, 0.0])
    fits = [
        fit_form(made_grid("four-term", truth, n_trials=1, seed=seed), "four-term", chosen="a test")
        for seed in range(100)
    ]
    # then it ends on its bound in half of the grids (σ of the share: 5 %), where it has no interval
    on_bound = np.array([fit.at_bound == ("a3_s",) for fit in fits])
    assert 0.3 < on_bound.mean() < 0.7
    # and where it does not, the interval reaches down to 0 in nearly all
    low = np.array([fit.intervals()[3, 0] for fit in fits])
    assert np.all(np.isnan(low[on_bound]))
    assert np.mean(low[~on_bound] == 0) > 0.85
    # the others, fitted with it or without it, still cover
    inside = np.array(
        [(f.intervals()[:3, 0] <= truth[:3]) & (truth[:3] <= f.intervals()[:3, 1]) for f in fits]
    )
    assert inside.mean() > 0.9


def test_fit__is_not_biased_by_noisy_weights():
    # given 300 grids at 5 % noise; weights 1/observed² would give times 0.5 % too low
    errors = []
    for seed in range(300):
        grid = made_grid("reference", TRUTH["reference"], n_trials=1, seed=seed)
        fit = fit_form(grid, "reference", chosen="a test")
        exact = TRUTH["reference"][0] + TRUTH["reference"][1] * grid.max_seq_len * (
            1 + TRUTH["reference"][2] * (grid.batch_size - 1) / grid.batch_size
        )
        errors.append(np.mean(fit.fitted_s() / exact) - 1)
    # then the mean error over the cells is 0 within 4 standard errors, which are 0.2 %
    standard_error = np.std(errors, ddof=1) / np.sqrt(len(errors))
    assert abs(np.mean(errors)) < 4 * standard_error < 0.003


def test_fit__a_form_that_is_off_says_so_in_its_model_error():
    # given times of four terms with trials that repeat to 0.1 %
    rng = np.random.default_rng(5)
    grid = made_grid("four-term", TRUTH["four-term"], n_trials=10, seed=5)
    b, total = grid.batch_size, grid.max_seq_len
    time_s = 0.3 + 0.002 * total + 4e-5 * b * total + 6e-8 * b * total**2
    quiet = LatencyGrid(
        batch_size=b,
        max_seq_len=total,
        mean_latency_s=time_s * (1 + 0.001 * rng.standard_normal(len(b))),
        std_latency_s=0.001 * time_s * np.sqrt(10) * rng.uniform(0.8, 1.2, len(b)),
        n_trials=np.full(len(b), 10),
    )
    # then the right form needs no model error, and the saturating one tens of per cent of it
    assert fit_form(quiet, "four-term", chosen="a test").model_error < 0.001
    reference = fit_form(quiet, "reference", chosen="a test")
    assert 0.1 < reference.model_error < 1
    # which then is what the errors are read off, with as many degrees of freedom as residuals
    assert reference.degrees_of_freedom == 30 - 3


def test_fit__noisy_standard_deviations_do_not_shrink_the_errors():
    # given ten trials per cell with one true spread, known to a quarter from each cell alone
    z = []
    for seed in range(200):
        grid = made_grid("reference", TRUTH["reference"], n_trials=10, seed=seed)
        fit = fit_form(grid, "reference", chosen="a test")
        z.append((fit.parameters - TRUTH["reference"]) / fit.standard_errors)
    # then errors are as large as stated (rms of z in 1 ± 3·5 %), not a third larger, as they are
    # with weights from each cell's own standard deviation
    rms = np.sqrt(np.mean(np.square(z), axis=0))
    assert np.all((rms > 0.8) & (rms < 1.15)), rms
