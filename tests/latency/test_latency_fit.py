"""Fitting a grid: known parameters come back, bad grids are refused, formulas are found out."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from llmsched.latency.base import CalibrationError, CalibrationWarning, Shape
from llmsched.latency.fit.best import fit_grid
from llmsched.latency.fit.form_fit import fit_form
from llmsched.latency.fit.forms import nonnegative_least_squares
from llmsched.latency.fit.grid import LatencyGrid, read_grid
from llmsched.latency.fit.grid_columns import HEADER
from llmsched.latency.registry import load_latency

REFERENCE = np.array([0.015, 0.0003, 0.4])
FOUR_TERM = np.array([0.05, 0.008, 7e-5, 9e-8])


def reference_s(b, tokens):
    alpha, beta, gamma = REFERENCE
    return alpha + beta * tokens * (1 + gamma * (b - 1) / b)


def four_term_s(b, tokens):
    a0, a1, a2, a3 = FOUR_TERM
    return a0 + a1 * tokens + a2 * b * tokens + a3 * b * tokens**2


def make_grid(law, *, noise=0.0, rng=None, sizes=(1, 4, 16, 64), lengths=(128, 512, 2048, 4096)):
    """A grid of that law; each mean with relative noise, and an std that says so (25 trials)."""
    b, tokens = (axis.ravel() for axis in np.meshgrid(sizes, lengths, indexing="ij"))
    mean = law(b, tokens)
    std = np.full(mean.shape, np.nan)
    if noise:
        # each cell's own std, so that no two have the same share of their mean
        share = noise * rng.uniform(0.5, 1.5, mean.shape)
        mean, std = mean * (1 + share * rng.standard_normal(mean.shape)), mean * share * 5
    return LatencyGrid(
        batch_size=b,
        max_seq_len=tokens,
        mean_latency_s=mean,
        std_latency_s=std,
        n_trials=np.full(b.shape, 25),
    )


def write_grid(path, rows):
    path.write_text("\n".join([",".join(HEADER), *rows]) + "\n", encoding="utf-8")
    return path


GOOD_ROWS = [
    "1,100,0.05,,1",
    "1,200,0.08,,1",
    "8,100,0.06,,1",
    "8,200,0.11,,1",
    "32,100,0.09,,1",
    "32,200,0.16,,1",
]


@pytest.mark.parametrize(
    ("law", "form", "truth"),
    [(reference_s, "reference", REFERENCE), (four_term_s, "four-term", FOUR_TERM)],
)
def test_fit__known_parameters_lie_within_the_covariance(law, form, truth):
    # given 200 noisy grids of a known law (noise of about 2 %, stated as std over the trials)
    z = []
    for seed in range(200):
        fit = fit_grid(make_grid(law, noise=0.02, rng=np.random.default_rng(seed)), form=form)
        if not fit.at_bound:
            z.append((fit.parameters - truth) / fit.standard_errors)
    # then each parameter's error is about one standard error. The rms of z is 1, or a little less,
    # since a lucky fit does not shrink known errors; it is known to 1/√(2·200) = 5 %, so
    # [0.75, 1.20] is 4 standard errors to each side of 0.95 to 1
    assert len(z) > 180
    spread = np.sqrt(np.mean(np.square(z), axis=0))
    assert np.all((spread > 0.75) & (spread < 1.20)), spread
    assert np.all(np.abs(np.mean(z, axis=0)) < 4 / np.sqrt(len(z)))


def test_fit__without_trials_the_residuals_tell_the_noise():
    # given 200 grids with 2 % of noise that nothing states
    z = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        grid = make_grid(reference_s)
        noisy = grid.mean_latency_s * (1 + 0.02 * rng.standard_normal(16))
        fit = fit_grid(replace(grid, mean_latency_s=noisy), form="reference")
        z.append((fit.parameters - REFERENCE) / fit.standard_errors)
    # then z is Student's t with 16 - 3 degrees of freedom, rms √(13/11) = 1.09 ± 6 %: 4 errors
    spread = np.sqrt(np.mean(np.square(z), axis=0))
    assert np.all((spread > 0.83) & (spread < 1.35)), spread


def test_fit__reports_errors_as_defined():
    # given six cells by hand and the fitted model's own predictions
    grid = make_grid(four_term_s, noise=0.03, rng=np.random.default_rng(1))
    fit = fit_grid(grid)
    predicted = fit.model.service_s(Shape(grid.batch_size, grid.max_seq_len, 0, 0))
    relative = np.abs(predicted / grid.mean_latency_s - 1)
    # then the errors are those of the predictions
    assert fit.median_relative_error == pytest.approx(np.median(relative), rel=1e-9)
    assert fit.max_relative_error == pytest.approx(relative.max(), rel=1e-9)
    r_squared = np.corrcoef(predicted, grid.mean_latency_s)[0, 1] ** 2
    assert fit.r_squared == pytest.approx(r_squared, abs=0.01)
    assert fit.covariance.shape == (4, 4)
    assert np.allclose(fit.covariance, fit.covariance.T)
    assert fit.model.kind == "measurement"


@pytest.mark.parametrize(("law", "form"), [(reference_s, "reference"), (four_term_s, "four-term")])
def test_fit__takes_the_form_that_predicts_held_out_cells_best(law, form):
    fit = fit_grid(make_grid(law, noise=0.01, rng=np.random.default_rng(3)))
    assert fit.form == form
    assert f"form {form} (chosen by cross-validation, median relative" in fit.model.describe()


def test_fit__coefficients_never_go_below_zero():
    # given latencies whose free least squares have a negative a0
    grid = make_grid(lambda b, tokens: 0.01 * tokens + 1e-6 * b * tokens**2 - 0.2)
    fit = fit_grid(grid, form="four-term")
    # then it stays on the bound, is reported there, and has no standard error
    assert fit.parameters.min() >= 0
    assert "a0_s" in fit.at_bound
    assert np.isnan(fit.standard_errors[0])
    assert fit.model.service_s(Shape(1, 3, 0, 0)) > 0


def test_fit__weights_follow_the_trials():
    # given one cell twice too slow, and the fit without that cell
    grid = make_grid(reference_s, noise=0.002, rng=np.random.default_rng(4))
    columns = ("batch_size", "max_seq_len", "mean_latency_s", "std_latency_s", "n_trials")
    without = fit_grid(
        replace(grid, **{column: np.delete(getattr(grid, column), 3) for column in columns}),
        form="reference",
    )
    slow = grid.mean_latency_s * np.where(np.arange(16) == 3, 2, 1)
    # when its std over 25 trials says 500 % (1 of the mean), or keeps silent
    said = np.where(np.arange(16) == 3, 5 * slow, grid.std_latency_s)
    loose, strict = (
        fit_grid(replace(grid, mean_latency_s=slow, std_latency_s=std), form="reference")
        for std in (said, grid.std_latency_s)
    )
    moved = [
        np.abs((fit.parameters - without.parameters) / without.standard_errors).max()
        for fit in (loose, strict)
    ]
    # then its own pull, weighted (0.2 % / 100 %)² against the others, is nothing; what moves is
    # their weights, drawn together less than without it. With a claim of 0.2 % it pulls hard
    assert loose.weighting == "trials"
    assert moved[0] < 0.2
    assert moved[1] > 4


def test_fit__without_trials_weights_by_size():
    grid = make_grid(four_term_s, noise=0.02, rng=np.random.default_rng(5))
    assert fit_grid(grid).weighting == "trials"
    assert fit_grid(replace(grid, n_trials=np.ones(16, dtype=np.int64))).weighting == "size"


@pytest.mark.parametrize("law", [reference_s, four_term_s])
def test_fit__an_exact_formula_is_found_out(law):
    # given a grid that is a formula's output
    with pytest.warns(CalibrationWarning) as caught:
        fit = fit_grid(make_grid(law))
    # then it is recovered, and not called a measurement
    (warning,) = caught
    assert "residual 0.0% in every cell: this is a formula's output, not a measurement" in str(
        warning.message
    )
    truth = REFERENCE if law is reference_s else FOUR_TERM
    assert fit.parameters == pytest.approx(truth, rel=1e-6)
    assert fit.model.kind == "formula"


def test_fit__an_std_that_is_a_fixed_share_is_found_out():
    grid = make_grid(four_term_s, noise=0.02, rng=np.random.default_rng(6))
    with pytest.warns(CalibrationWarning, match=r"std is 5\.0% of the mean in every cell"):
        fit_grid(replace(grid, std_latency_s=0.05 * grid.mean_latency_s))


def test_fit__worse_than_a_constant_is_refused():
    # given latencies that fall with everything
    grid = make_grid(lambda b, tokens: 1 + 40 / tokens + 1 / b)
    for form in ("four-term", "best"):
        with pytest.raises(CalibrationError, match=r"better than by its mean, R² > 0, got R² -?0"):
            fit_grid(grid, form=form)


@pytest.mark.parametrize(
    ("sizes", "lengths", "message"),
    [
        ((8,), (1, 2, 3, 4, 5), "at least 2 values of batch_size, got only \\[8\\]"),
        ((1, 2, 3, 4, 5), (100,), "at least 2 values of max_seq_len, got only \\[100\\]"),
        ((1, 2), (100,), "max_seq_len"),
    ],
)
def test_fit__a_grid_on_one_line_is_refused(sizes, lengths, message):
    with pytest.raises(CalibrationError, match=message):
        fit_grid(make_grid(reference_s, sizes=sizes, lengths=lengths))


def test_fit__too_few_cells_are_refused_form_by_form():
    # given four cells: enough for three parameters, not for four
    grid = make_grid(reference_s, sizes=(1, 8), lengths=(100, 200))
    with pytest.raises(CalibrationError, match=r"at least 5 cells for its 4 parameters .* got 4"):
        fit_grid(grid, form="four-term")
    with pytest.warns(CalibrationWarning, match="formula"):
        fit = fit_grid(grid)
    assert (
        "form reference (the only parametric form this grid can identify)" in fit.model.describe()
    )


def test_fit__a_singular_jacobian_is_refused():
    # given cells where b = 1 goes with every length but one: b·L and L cannot be told apart well
    with pytest.raises(CalibrationError, match="singular Jacobian"):
        nonnegative_least_squares(np.array([[1.0, 2], [2, 4], [3, 6]]), np.ones(3))
    b, tokens = np.array([1, 2, 3, 4, 5, 6]), np.array([600, 300, 200, 150, 120, 100])
    grid = LatencyGrid(
        batch_size=b,
        max_seq_len=tokens,
        mean_latency_s=four_term_s(b, tokens),
        std_latency_s=np.full(6, np.nan),
        n_trials=np.ones(6, dtype=np.int64),
    )
    # then b·L = 600 everywhere is the constant term again
    with pytest.raises(CalibrationError, match=r"form four-term\) must identify every parameter"):
        fit_grid(grid, form="four-term")


def test_fit__latencies_that_do_not_vary_are_refused():
    with pytest.raises(CalibrationError, match="latencies that vary"):
        fit_grid(make_grid(lambda b, tokens: np.ones(b.shape)))


def test_fit__gamma_without_a_length_effect_is_refused():
    with pytest.raises(CalibrationError, match="grows with max_seq_len to identify gamma"):
        fit_grid(make_grid(lambda b, tokens: 1 + 40 / tokens), form="reference")


def test_fit__gamma_has_a_largest_value():
    # given times that double with the batch size and no small batches: (b - 1)/b is 0.94 to 0.98
    grid = make_grid(lambda b, tokens: 1e-3 * b * tokens, sizes=(16, 32, 64))
    fit = fit_form(grid, "reference", chosen="asked for")
    # then γ would be infinite; it stops at 100, which is said, and the times stay finite and grow
    assert fit.parameters[2] == 100
    assert fit.at_bound == ("alpha_s", "gamma")
    assert np.isnan(fit.standard_errors[2])
    assert fit.model.draw(np.random.default_rng(1)).gamma <= 100 * (1 + 1e-12)


def test_fit__unknown_form_is_refused():
    with pytest.raises(
        ValueError, match="form must be one of best, reference, four-term, step, interpolation; got"
    ):
        fit_grid(make_grid(reference_s), form="cubic")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_grid__latency_must_be_finite_and_positive(bad):
    grid = make_grid(reference_s)
    latency = grid.mean_latency_s.copy()
    latency[3] = bad
    with pytest.raises(CalibrationError, match=f"got {bad} in cell 3"):
        replace(grid, mean_latency_s=latency)


def test_grid__duplicate_cells_are_refused():
    grid = make_grid(reference_s)
    with pytest.raises(CalibrationError, match="batch_size 1 with max_seq_len 128 more than once"):
        replace(
            grid,
            batch_size=np.where(np.arange(16) == 15, 1, grid.batch_size),
            max_seq_len=np.where(np.arange(16) == 15, 128, grid.max_seq_len),
        )


def test_read_grid__reads_every_column_in_any_order(tmp_path):
    path = tmp_path / "grid.csv"
    path.write_bytes(
        b"\xef\xbb\xbfmax_seq_len,batch_size,num_trials,std_latency_sec,mean_latency_sec\r\n"
        b"100,1,3,0.002,0.05\r\n\r\n200, 8 ,5,,0.11\r\n"
    )
    grid = read_grid(path)
    assert grid.batch_size.tolist() == [1, 8]
    assert grid.max_seq_len.tolist() == [100, 200]
    assert grid.mean_latency_s.tolist() == [0.05, 0.11]
    assert grid.std_latency_s[0] == 0.002
    assert np.isnan(grid.std_latency_s[1])
    assert grid.n_trials.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "0,100,0.05,,1",
            "column batch_size must be a whole number >= 1 and <= 1000000000, got '0'",
        ),
        ("99999999999999999999,100,0.05,,1", "<= 1000000000, got '99999999999999999999'"),
        ("1,1e10,0.05,,1", "column max_seq_len must be a whole number >= 1 and <= 1000000000"),
        ("1,100,1e300,,1", "column mean_latency_sec must be a number of seconds from 1e-09"),
        ("1,100,0.1,1e300,1", "column std_latency_sec must be a number of seconds from 0"),
        (
            "1.5,100,0.05,,1",
            "column batch_size must be a whole number >= 1 and <= 1000000000, got '1.5'",
        ),
        (
            "1,x,0.05,,1",
            "column max_seq_len must be a whole number >= 1 and <= 1000000000, got 'x'",
        ),
        (
            "1,100,nan,,1",
            "column mean_latency_sec must be a number of seconds from 1e-09 to 1e+09, got 'nan'",
        ),
        (
            "1,100,0,,1",
            "column mean_latency_sec must be a number of seconds from 1e-09 to 1e+09, got '0'",
        ),
        (
            "1,100,-0.1,,1",
            "column mean_latency_sec must be a number of seconds from 1e-09 to 1e+09, got '-0.1'",
        ),
        (
            "1,100,inf,,1",
            "column mean_latency_sec must be a number of seconds from 1e-09 to 1e+09, got 'inf'",
        ),
        ("1,100,0.1,-1,1", "std_latency_sec must be a number of seconds from 0 to 1e+09, or empty"),
        ("1,100,0.1,,", "column num_trials must be a whole number >= 1 and <= 1000000000, got ''"),
        ("1,100,0.1", "a row must have 5 cells, got 3"),
        ("8,200,0.1,,1", "must not repeat, got 8 and 200 of line 5 again"),
    ],
)
def test_read_grid__a_bad_cell_is_one_line_with_its_place(tmp_path, row, message):
    path = write_grid(tmp_path / "grid.csv", [*GOOD_ROWS, row])
    with pytest.raises(CalibrationError) as caught:
        read_grid(path)
    assert str(caught.value).startswith(f"{path}:8: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "batch_size,max_seq_len\n1,2\n", ",".join(HEADER) + ",extra\n1,2,3,4,5,6\n"]
)
def test_read_grid__header_is_checked(tmp_path, text):
    path = tmp_path / "grid.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"grid\.csv:1: header must be batch_size,"):
        read_grid(path)


def test_read_grid__other_files_are_refused(tmp_path):
    empty = write_grid(tmp_path / "grid.csv", [])
    with pytest.raises(CalibrationError, match="rows below its header, got none"):
        read_grid(empty)
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(CalibrationError, match="must be UTF-8 text, byte 0 is not"):
        read_grid(tmp_path / "image.csv")


def test_load_latency__fits_a_file_in_the_form_asked_for(tmp_path):
    # given a grid file
    path = write_grid(tmp_path / "my#grid.csv", GOOD_ROWS)
    # when loaded with and without a form
    best = load_latency(path)
    reference = load_latency(f"{path}#reference")
    four_term = load_latency(f"{path}#four-term")
    # then the suffix decides, and the description says form, file, errors and range
    assert best.kind == "measurement"
    assert "form four-term (chosen for" in best.describe()
    assert "form reference (asked for), 6 cells, R² 0." in reference.describe()
    assert best.equation() == four_term.equation() != reference.equation()
    assert f"{path} (sha256 " in best.describe()
    assert "measured at batch size 1-32, prompt + output tokens 100-200" in best.describe()
    assert best.outside(Shape(np.array([1, 33]), np.array([150, 150]), 0, 0)).tolist() == [0, 1]


def test_load_latency__refuses_what_is_neither_name_nor_file(tmp_path):
    path = write_grid(tmp_path / "grid.csv", GOOD_ROWS)
    with pytest.raises(ValueError, match="form must be one of"):
        load_latency(f"{path}#cubic")
    with pytest.raises(
        ValueError, match=r"known name, a model file or a grid CSV file, got '.*missing\.csv'"
    ):
        load_latency(tmp_path / "missing.csv")


def test_fit__real_noise_gives_no_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = fit_grid(make_grid(four_term_s, noise=0.02, rng=np.random.default_rng(7)))
    assert caught == []
    assert fit.model.kind == "measurement"


@pytest.mark.parametrize("name", ["gird.csv", "model.JSON", "a/b", "grid.csv#step", "./reference"])
def test_load_latency__a_missing_file_is_said_to_be_missing(name):
    with pytest.raises(ValueError, match=r"which is no such file$"):
        load_latency(name)


def test_load_latency__a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"which is a folder$"):
        load_latency(tmp_path)


def test_read_grid__has_a_largest_number_of_cells(tmp_path):
    # given 25 batch sizes × 25 lengths, and the same without one line
    rows = [f"{b},{t},{0.1 + b * t},,1" for b in range(1, 26) for t in range(1, 26)]
    with pytest.raises(CalibrationError, match="must have at most 600 cells, got 625; leave out"):
        read_grid(write_grid(tmp_path / "grid.csv", rows))
    assert len(read_grid(write_grid(tmp_path / "grid.csv", rows[25:]))) == 600
