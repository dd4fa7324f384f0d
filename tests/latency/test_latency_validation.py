"""The forms compared: what is held out, what is chosen, and the words for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmsched.cli.answers.calibrate import misfit_in_words
from llmsched.latency.base import CalibrationError, CalibrationWarning, Shape
from llmsched.latency.fit.best import fit_grid
from llmsched.latency.fit.bootstrap import bootstrap
from llmsched.latency.fit.form_fit import FORM_NAMES, fit_form
from llmsched.latency.fit.grid import LatencyGrid
from llmsched.latency.fit.step_form import step_problem
from llmsched.latency.fit.validation import compare_forms, held_out_errors
from llmsched.latency.interpolation import InterpolationModel
from llmsched.latency.step import StepModel


def grid(
    law,
    *,
    noise=0.0,
    seed=0,
    sizes=(1, 4, 16, 64),
    lengths=(128, 512, 2048, 4096),
    step=None,
    output=None,
):
    """Cells of law(b, L), or of a step law (prefill, decode step) with prompt = output."""
    rng = np.random.default_rng(seed)
    b, tokens = (axis.ravel() for axis in np.meshgrid(sizes, lengths, indexing="ij"))
    columns = {}
    if step is not None:
        p = tokens // 2 if output is None else tokens - output
        prefill, decode = (
            t * (1 + noise * rng.standard_normal(len(b))) for t in step(b, p, tokens - p)
        )
        nothing = np.full(len(b), np.nan)
        columns = {
            "prompt_tokens": p,
            "output_tokens": tokens - p,
            "prefill_s": prefill,
            "prefill_std_s": nothing,
            "decode_step_s": decode,
            "decode_step_std_s": nothing,
        }
        mean = prefill + (tokens - p - 1) * decode
    else:
        mean = law(b, tokens) * (1 + noise * rng.standard_normal(len(b)))
    return LatencyGrid(
        batch_size=b,
        max_seq_len=tokens,
        mean_latency_s=mean,
        std_latency_s=np.full(len(b), np.nan),
        n_trials=np.ones(len(b), dtype=np.int64),
        **columns,
    )


def reference_s(b, tokens):
    return 0.5 + 0.001 * tokens * (1 + 0.4 * (b - 1) / b)


def four_term_s(b, tokens):
    return 0.05 + 0.008 * tokens + 7e-5 * b * tokens + 9e-8 * b * tokens**2


def step_s(b, p, o=None):
    o = p if o is None else o
    c0, cp, n0, cb, ckv = 0.02, 2e-5, 3000, 4e-4, 2e-7
    return c0 + cp * np.maximum(0, b * p - n0) + cb * b, c0 + cb * b + ckv * b * (p + o / 2)


def test_held_out__is_the_error_on_rows_and_columns_left_out():
    # given 16 noisy cells; when batch size 16 is left out by hand
    cells = grid(four_term_s, noise=0.03)
    out = cells.batch_size == 16
    by_hand = fit_form(cells.where(~out), "four-term", chosen="by hand").model
    errors = (
        by_hand.service_s(Shape(16, cells.max_seq_len[out], 0, 0)) / cells.mean_latency_s[out] - 1
    )
    # then these are the errors of its row, and every cell is predicted twice
    held = held_out_errors(cells, "four-term")
    assert held.rows[out] == pytest.approx(errors, rel=1e-12)
    assert held.rows.shape == held.columns.shape == (16,)
    # and the columns likewise, for the lengths
    out = cells.max_seq_len == 512
    by_hand = fit_form(cells.where(~out), "four-term", chosen="by hand").model
    errors = by_hand.service_s(Shape(cells.batch_size[out], 512, 0, 0)) / cells.mean_latency_s[out]
    assert held.columns[out] == pytest.approx(errors - 1, rel=1e-9)
    assert held.median == np.median(np.abs([*held.rows, *held.columns]))
    assert held.worst == np.max(np.abs([*held.rows, *held.columns]))


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        (grid(reference_s, noise=0.02), "reference"),
        (grid(four_term_s, noise=0.02), "four-term"),
        # outputs of 64 tokens: a request costs something however long its prompt is
        (grid(None, noise=0.02, step=step_s, output=64), "step"),
        # steps in the batch size, as of a GPU that pads it: no formula follows them
        (
            grid(
                lambda b, tokens: tokens * (0.01 + 0.02 * (b > 8) + 0.03 * (b > 20)),
                noise=0.001,
                sizes=(1, 2, 4, 8, 16, 32),
                lengths=(128, 256, 512, 1024),
            ),
            "interpolation",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_best__is_the_form_the_data_came_from(cells, form):
    comparison = compare_forms(cells)
    assert comparison.best.form == form
    # the rule: the smallest median held out, and the model's source says so
    held = {r.form: r.held_out.median for r in comparison.results if r.held_out is not None}
    assert min(held, key=held.__getitem__) == form
    assert f"form {form} (chosen by cross-validation, median" in comparison.best.model.source
    assert fit_grid(cells).form == form


def test_best__among_equals_has_fewer_parameters():
    # given exact data of the reference form with γ = 0: T = α + β·L, which four terms fit as well
    cells = grid(lambda b, tokens: 0.5 + 0.001 * tokens)
    results = {r.form: r for r in compare_forms(cells).results}
    assert results["four-term"].held_out.worst < 1e-9
    assert results["reference"].held_out.worst < 1e-9
    assert compare_forms(cells, forms=("four-term",)).best.form == "four-term"


def test_best__of_a_small_grid_is_judged_in_sample_and_says_so():
    # given three batch sizes but two lengths: leaving one out leaves nothing to tell them apart
    cells = grid(four_term_s, noise=0.01, lengths=(128, 2048), sizes=(1, 16, 64))
    comparison = compare_forms(cells)
    assert all(result.held_out is None for result in comparison.results)
    assert "must hold at least 3 values of max_seq_len" in comparison.named("reference").refusal
    # then the interpolation, which has no error in sample, is not taken for the best
    assert comparison.best.form == "four-term"
    assert "the grid being too small for cross-validation" in comparison.best.model.source


def test_interpolation__has_no_error_in_sample_but_one_held_out():
    result = compare_forms(grid(four_term_s, noise=0.02)).named("interpolation")
    assert result.fit.max_relative_error < 0.04  # only what smoothing moves
    assert result.held_out.worst > 0.02
    assert result.n_parameters == 16
    assert np.isnan(result.aic)
    assert result.to_dict()["aic"] is None


def test_aic__is_that_of_the_log_errors_and_prefers_the_right_form():
    cells = grid(four_term_s, noise=0.02)
    results = {r.form: r for r in compare_forms(cells).results}
    fit = results["four-term"].fit
    error = np.log(fit.fitted_s() / cells.mean_latency_s)
    assert results["four-term"].aic == pytest.approx(16 * np.log(np.mean(error**2)) + 2 * 5)
    assert results["four-term"].aic < results["reference"].aic - 10


def test_step__without_prompts_and_outputs_is_refused_and_says_what_is_missing():
    result = compare_forms(grid(four_term_s, noise=0.02)).named("step")
    assert result.fit is None
    assert "must know prompts and outputs apart" in result.refusal
    assert result.to_dict()["r_squared"] is None


def whole_only(cells):
    return replace(
        cells, prefill_s=None, prefill_std_s=None, decode_step_s=None, decode_step_std_s=None
    )


def test_step__from_whole_batches_in_one_ratio_is_refused_and_says_which():
    # given prompt = output: cp·b·p and cb·b·o are the same column
    with pytest.raises(CalibrationError, match="must tell cp_s and n0_tokens from cb_s"):
        fit_form(whole_only(grid(None, step=step_s)), "step", chosen="asked for")


def test_step__from_whole_batches_with_one_output_is_refused_and_says_which():
    # given outputs of 64 tokens and no kink: prompts cost in the prefill or in each step's reading
    def no_kink(b, p, o):
        return 0.02 + 2e-5 * b * p + 4e-4 * b, 0.02 + 4e-4 * b + 2e-7 * b * (p + o / 2)

    with pytest.raises(CalibrationError, match="to tell cp_s and n0_tokens from cb_s and ckv_s"):
        fit_form(whole_only(grid(None, step=no_kink, output=64)), "step", chosen="asked for")


def test_step__from_whole_batches_with_several_ratios_comes_back():
    # given exact whole-batch times of a law whose prefill is free up to 3000 tokens
    output = np.tile([32, 64, 512, 1024], 6)
    cells = grid(
        None,
        step=step_s,
        sizes=(1, 2, 4, 8, 16, 32),
        lengths=(64, 256, 1024, 4096),
        output=output,
    )
    model = fit_form(whole_only(cells), "step", chosen="asked for").model
    assert (model.c0_s, model.cp_s, model.n0_tokens, model.cb_s, model.ckv_s) == pytest.approx(
        (0.02, 2e-5, 3000, 4e-4, 2e-7), rel=1e-5
    )


def test_step__exact_prefill_and_decode_come_back():
    fit = fit_form(grid(None, step=step_s), "step", chosen="asked for")
    assert fit.parameters == pytest.approx([0.02, 2e-5, 3000, 4e-4, 2e-7], rel=1e-9)
    assert fit.model.kind == "formula"
    assert (
        str(fit.model.measured) == "batch size 1-64, prompt tokens 64-2048, output tokens 64-2048"
    )


def test_step__jacobian_is_that_of_small_changes():
    # given the least squares of exact prefills and decode steps, none of them at the kink n0
    cells = grid(None, step=step_s)
    problem = step_problem(cells)
    found = problem.solve(problem.observed, problem.observed)

    def seconds(parameters):
        names = ("c0_s", "cp_s", "n0_tokens", "cb_s", "ckv_s")
        model = StepModel(**dict(zip(names, parameters, strict=True)), name="x", source="x")
        b, p, o = cells.batch_size, cells.prompt_tokens, cells.output_tokens
        return np.concatenate([model.prefill_s(b, p), model.decode_step_s(b, p + o / 2)])

    # then its slopes are those of the form: linear in each parameter, so exact but for rounding
    for k, value in enumerate(found.parameters):
        up, down = found.parameters.copy(), found.parameters.copy()
        up[k], down[k] = 1.01 * value, 0.99 * value
        slope = (seconds(up) - seconds(down)) / (0.02 * value)
        assert found.jacobian[:, k] == pytest.approx(slope, rel=1e-6, abs=1e-9 * abs(slope).max())


def test_step__prefills_and_decode_steps_have_their_own_errors():
    # given 4 trials that scatter by 10 % in the prefill and by 1 % in the decode steps
    cells = grid(None, step=step_s)
    said = replace(
        cells,
        prefill_std_s=0.1 * cells.prefill_s,
        decode_step_std_s=0.01 * cells.decode_step_s,
        n_trials=np.full(16, 4),
    )
    # then means over 4 are known half as far off, prefills first, with 3 degrees of freedom each
    trials = step_problem(said).trials
    assert trials.relative_error == pytest.approx([0.05] * 16 + [0.005] * 16)
    assert trials.degrees_of_freedom == 2 * 16 * 3


def test_step__too_few_prompt_sizes_are_refused():
    cells = grid(None, step=step_s, sizes=(1, 2), lengths=(128, 256)).where(
        np.array([1, 1, 1, 0]) > 0
    )
    with pytest.raises(CalibrationError, match="at least 6 cells for its 5 parameters"):
        fit_form(cells, "step", chosen="asked for")


def test_unknown_form__is_refused():
    with pytest.raises(ValueError, match="got 'cubic'"):
        fit_form(grid(reference_s), "cubic", chosen="x")
    assert FORM_NAMES == ("reference", "four-term", "step", "interpolation")


def test_nothing_identifiable__is_the_first_refusal():
    with pytest.raises(CalibrationError, match="at least 2 values of max_seq_len"):
        compare_forms(grid(reference_s, lengths=(100,)))


def test_bootstrap__scatters_as_the_covariance_says():
    # given a grid with one measurement per cell; when 400 grids are redrawn from its residuals
    cells = grid(reference_s, noise=0.05, seed=4, sizes=(1, 2, 4, 8, 16, 32))
    fit = fit_form(cells, "reference", chosen="x")
    redrawn = bootstrap(fit, 400, np.random.default_rng(1))
    # then the standard errors agree (known to 3.5 %; residuals of 24 cells are their own sample)
    assert redrawn.standard_errors == pytest.approx(fit.standard_errors, rel=0.2)
    assert redrawn.how == "residuals"
    low, high = redrawn.intervals().T
    assert np.all((low < fit.parameters) & (fit.parameters < high))
    assert redrawn.parameters.shape == (400, 3)
    assert redrawn.refused == 0


def test_bootstrap__from_trials_redraws_their_errors():
    # given means whose std over 16 trials says 8 %, so 2 % each
    rng = np.random.default_rng(2)
    cells = grid(reference_s, noise=0.02, seed=2, sizes=(1, 2, 4, 8, 16, 32))
    said = replace(
        cells,
        std_latency_s=0.08 * cells.mean_latency_s * rng.uniform(0.9, 1.1, len(cells)),
        n_trials=np.full(len(cells), 16),
    )
    fit = fit_form(said, "reference", chosen="x")
    redrawn = bootstrap(fit, 400, np.random.default_rng(1))
    assert redrawn.how == "errors of the trials"
    assert redrawn.standard_errors == pytest.approx(fit.standard_errors, rel=0.15)


def test_bootstrap__residuals_are_widened_for_the_parameters():
    # given 6 cells for 3 parameters: residuals have half the variance of the noise
    cells = grid(reference_s, noise=0.02, seed=1, sizes=(1, 4, 64), lengths=(128, 4096))
    fit = fit_form(cells, "reference", chosen="x")
    assert fit.at_bound == ()
    redrawn = bootstrap(fit, 1000, np.random.default_rng(1))
    # then the standard errors are those of the covariance, which divides by the 3 that are left;
    # 1000 fits tell them to 2.2 %: 4 of these are 9 %, where residuals as they are give 29 % less
    assert redrawn.standard_errors == pytest.approx(fit.standard_errors, rel=0.09)


def test_bootstrap__interval_leaves_out_half_of_the_rest_at_each_end():
    # given a parameter that came out as 0, 1, ..., 1000
    fit = fit_form(grid(reference_s, noise=0.02), "reference", chosen="x")
    found = replace(
        bootstrap(fit, 2, np.random.default_rng(1)), parameters=np.arange(1001.0)[:, None]
    )
    assert found.intervals().tolist() == [pytest.approx([25, 975])]
    assert found.intervals(0.9).tolist() == [pytest.approx([50, 950])]


def test_bootstrap__of_an_interpolation_is_refused():
    fit = fit_form(grid(four_term_s), "interpolation", chosen="x")
    with pytest.raises(CalibrationError, match="must have a parametric form, got interpolation"):
        bootstrap(fit, 10, np.random.default_rng(1))
    with pytest.raises(ValueError, match="at least 2 fits, got 1"):
        bootstrap(fit, 1, np.random.default_rng(1))


def test_words__say_where_the_reference_form_saturates():
    # given a GPU whose batches of 64 take about 4 times as long as those of 16
    cells = grid(lambda b, tokens: 0.01 * tokens * (1 + b / 8), noise=0.01)
    text = misfit_in_words(fit_form(cells, "reference", chosen="x"))
    fitted = fit_form(cells, "reference", chosen="x").fitted_s()
    assert text.startswith("the α/β/γ form saturates in the batch size: at batch ")
    worst = int(np.argmax(np.abs(fitted / cells.mean_latency_s - 1)))
    assert f"({fitted[worst] / cells.mean_latency_s[worst] - 1:+.0%})" in text
    assert "From batch 16 to 64 the measured time grows 2." in text or "grows 3." in text
    assert text.endswith("Don't size a cluster with it.")


def test_words__praise_a_form_that_fits():
    cells = grid(reference_s, noise=0.01)
    text = misfit_in_words(fit_form(cells, "reference", chosen="x"))
    assert text.startswith("the α/β/γ form fits: its worst cell is ")


def exact_grid():
    """T = 0.02 + 0.001·L whatever the batch size, to the last digit."""
    cells = grid(
        lambda b, tokens: 0.02 + 0.001 * tokens, sizes=(1, 2, 4, 8), lengths=(64, 128, 256)
    )
    return replace(cells, std_latency_s=np.full(12, 0.01), n_trials=np.full(12, 5))


def test_best__of_a_formulas_grid_is_not_chosen_by_rounding():
    # given held-out errors of about 1e-16 in three forms
    comparison = compare_forms(exact_grid())
    assert max(r.held_out.worst for r in comparison.results if r.held_out is not None) < 1e-9
    # then the fewest parameters win, and the model is a formula
    assert comparison.best.form == "reference"
    assert comparison.best.model.kind == "formula"


@pytest.mark.parametrize("form", ["best", "reference", "four-term", "interpolation"])
def test_fit__of_a_formulas_grid_warns_in_every_form(form):
    with pytest.warns(CalibrationWarning, match="this is a formula's output, not a measurement"):
        fit = fit_grid(exact_grid(), form=form)
    assert fit.model.kind == "formula"
    assert fit.model.uncertainty is None


def test_compare__one_forms_refusal_does_not_stop_the_others(monkeypatch):
    def refuse(_model):
        raise ValueError("batch_sizes must be smaller")

    monkeypatch.setattr(InterpolationModel, "__post_init__", refuse)
    comparison = compare_forms(grid(four_term_s, noise=0.02))
    assert comparison.best.form == "four-term"
    assert "(form interpolation) batch_sizes must be" in comparison.named("interpolation").refusal


def test_interpolation__takes_every_batch_size_that_a_file_may_have():
    cells = grid(four_term_s, noise=0.02, sizes=(1, 4, 10**9), lengths=(128, 512, 10**9))
    assert fit_form(cells, "interpolation", chosen="x").model.batch_sizes[-1] == 1e9
