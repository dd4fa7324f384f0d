"""Interpolation of a grid: hand-worked cells, never falling, the edges' slopes, draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from llmsched.latency.base import CalibrationError, Shape, service_times_s
from llmsched.latency.fit.form_fit import fit_form
from llmsched.latency.fit.grid import LatencyGrid
from llmsched.latency.interpolation import InterpolationModel, monotone


def model(times_s, b=(1, 4), lengths=(100, 200), **more):
    return InterpolationModel(
        batch_sizes=b, lengths=lengths, times_s=times_s, name="hand", source="made up", **more
    )


def seconds(found, b, tokens):
    return found.service_s(Shape(b, tokens, 0, 0))


def test_interpolation__hand_worked():
    found = model(((1.0, 2.0), (2.0, 4.0)))
    # at the nodes, half-way in L, a third of the way in b, and both
    assert [seconds(found, *node) for node in ((1, 100), (1, 200), (4, 100), (4, 200))] == [
        1,
        2,
        2,
        4,
    ]
    assert seconds(found, 1, 150) == 1.5
    assert seconds(found, 2, 100) == pytest.approx(4 / 3, rel=1e-14)
    assert seconds(found, 2, 150) == pytest.approx(1.5 + 1.5 / 3, rel=1e-14)


def test_interpolation__goes_on_with_the_slopes_of_the_edge():
    found = model(((1.0, 2.0), (2.0, 4.0)))
    assert seconds(found, 1, 400) == pytest.approx(4.0, rel=1e-12)  # 0.01 s per token
    assert seconds(found, 7, 100) == pytest.approx(3.0, rel=1e-12)  # 1/3 s per request
    assert seconds(found, 7, 200) == pytest.approx(6.0, rel=1e-12)
    # towards L = 0 the same slope, which ends at 0 s here
    assert seconds(found, 1, 10) == pytest.approx(0.1, rel=1e-12)
    assert seconds(found, 1, 0) == 0


def test_interpolation__never_goes_below_zero_towards_short_batches():
    # given times that rise so steeply that their line meets 0 s at L = 90
    found = model(((1.0, 11.0), (2.0, 22.0)))
    # then they go to 0 s at L = 0 instead
    assert seconds(found, 1, 50) == pytest.approx(0.5, rel=1e-12)


@st.composite
def tables(draw):
    n, m = draw(st.integers(2, 5)), draw(st.integers(2, 5))
    steps = st.lists(st.floats(0, 3), min_size=n * m, max_size=n * m)
    table = np.array(draw(steps)).reshape(n, m)
    b = np.cumsum(draw(st.lists(st.integers(1, 9), min_size=n, max_size=n)))
    lengths = np.cumsum(draw(st.lists(st.integers(1, 500), min_size=m, max_size=m)))
    return monotone(table + 0.01, np.ones((n, m))), tuple(b.tolist()), tuple(lengths.tolist())


@given(tables())
def test_interpolation__never_falls_inside_or_outside(drawn):
    table, b, lengths = drawn
    found = model(tuple(map(tuple, table.tolist())), b, lengths)
    sizes, tokens = np.meshgrid(np.arange(1, 70), np.arange(0, 3500, 50), indexing="ij")
    times_s = service_times_s(found, Shape(sizes, tokens, 0, 0))
    rounding = 1e-9 * times_s.max()
    assert times_s.min() >= -rounding
    assert np.diff(times_s, axis=0).min() >= -rounding
    assert np.diff(times_s, axis=1).min() >= -rounding


def test_interpolation__arrays_give_the_same_floats_as_scalars():
    found = model(((1.0, 2.0, 5.0), (2.0, 4.0, 7.7)), lengths=(100, 200, 1100))
    rng = np.random.default_rng(2)
    b, tokens = rng.integers(1, 12, 300), rng.integers(0, 3000, 300)
    together = service_times_s(found, Shape(b, tokens, 0, 0)).tolist()
    assert together == [
        seconds(found, *cell) for cell in zip(b.tolist(), tokens.tolist(), strict=True)
    ]


def test_monotone__keeps_what_is_monotone_and_is_the_least_change_elsewhere():
    rising = np.array([[1.0, 2.0], [2.0, 3.0]])
    assert monotone(rising, np.ones((2, 2))) is rising
    # one inversion in a column: the two meet in their weighted mean, (1·3 + 3·1)/4
    table, weights = np.array([[3.0, 9.0], [1.0, 9.0]]), np.array([[1.0, 1.0], [3.0, 1.0]])
    assert monotone(table, weights) == pytest.approx(np.array([[1.5, 9.0], [1.5, 9.0]]), rel=1e-12)


@given(st.integers(0, 1000))
def test_monotone__is_nearer_than_other_monotone_tables(seed):
    rng = np.random.default_rng(seed)
    table, weights = rng.uniform(1, 3, (4, 3)), rng.uniform(0.5, 2, (4, 3))
    found = monotone(table, weights)
    distance = np.sum(weights * (found - table) ** 2)
    for _ in range(20):  # mixtures with any monotone table lie farther away
        other = np.sort(np.sort(rng.uniform(1, 3, (4, 3)), axis=0), axis=1)
        mixed = found + 0.05 * (other - found)
        assert np.sum(weights * (mixed - table) ** 2) >= distance * (1 - 1e-9)


def grid(mean, std=None, n_trials=9):
    b, tokens = (a.ravel() for a in np.meshgrid([1, 4, 16], [100, 200, 400], indexing="ij"))
    return LatencyGrid(
        batch_size=b,
        max_seq_len=tokens,
        mean_latency_s=np.asarray(mean, dtype=float),
        std_latency_s=np.full(9, np.nan) if std is None else np.asarray(std, dtype=float),
        n_trials=np.full(9, n_trials),
    )


def test_fit__a_grid_that_falls_is_smoothed_and_says_so():
    # given one cell that is 10 % too fast
    mean = [1, 2, 4, 1.2, 1.8, 4.4, 1.5, 2.6, 5]
    fit = fit_form(grid(mean), "interpolation", chosen="asked for")
    # then it and the cell below it meet, in the least relative squares, and the source says how far
    common = (2 / 2**2 + 1.8 / 1.8**2) / (1 / 2**2 + 1 / 1.8**2)
    assert fit.model.times_s[0][1] == pytest.approx(common, rel=1e-12)
    assert fit.model.times_s[1][1] == pytest.approx(common, rel=1e-12)
    assert "2 cells moved by up to 5.5% so that more requests" in fit.model.source
    # and the others stay
    assert fit.model.times_s[2] == (1.5, 2.6, 5.0)


def test_fit__an_incomplete_grid_is_refused_with_its_gaps():
    whole = grid(np.arange(1, 10))
    with pytest.raises(CalibrationError, match=r"1 cells missing \(batch 16 × 400 tokens\)"):
        fit_form(whole.where(np.arange(9) < 8), "interpolation", chosen="asked for")


def test_draw__moves_every_cell_by_its_own_error():
    # given cells whose means are known to 1 % (std 3 % over 9 trials), far apart from each other
    mean = np.array([1, 2, 4, 10, 20, 40, 100, 200, 400.0])
    rng = np.random.default_rng(4)
    fit = fit_form(
        grid(mean, mean * 0.03 * rng.uniform(0.99, 1.01, 9)), "interpolation", chosen="x"
    )
    drawn = np.array([np.ravel(fit.model.draw(rng).times_s) for _ in range(400)])
    # then each scatters by about 1 % (known to 3.5 %), independently of the next
    assert np.std(drawn, axis=0) / mean == pytest.approx(np.full(9, 0.01), rel=0.15)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 4 / 20
    assert fit.model.uncertainty.standard_errors == pytest.approx(mean * 0.01, rel=0.02)


def test_draw__that_falls_moves_the_cell_that_is_known_worse():
    # given equal times at both batch sizes, known to 10 % at the first, to 0.1 % at the second
    fit = model(((1.0, 9.0), (1.0, 9.0)), standard_errors_s=((0.1, 0.9), (0.001, 0.009)))
    rng = np.random.default_rng(5)
    drawn = np.array([fit.draw(rng).times_s for _ in range(200)])
    # then half of the draws fall and are mended, and the second stays as well known as it was:
    # its scatter is known to 5 %, and a mended one has a weight of 1e-4 of the other
    assert np.std(drawn[:, 1], axis=0) == pytest.approx([0.001, 0.009], rel=0.2)
    assert np.all(drawn[:, 0] <= drawn[:, 1])


def test_draw__without_trials_there_are_no_errors():
    fit = fit_form(grid(np.arange(1, 10)), "interpolation", chosen="asked for")
    assert fit.model.uncertainty is None
    with pytest.raises(CalibrationError, match="must have calibration errors to draw from"):
        fit.model.draw(np.random.default_rng(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": (4, 1)}, "batch_sizes of 'hand' must be 2 or more, increasing"),
        ({"lengths": (100,)}, "lengths of 'hand' must be 2 or more"),
        ({"times_s": ((1.0, 2.0),)}, "one row per batch size"),
        ({"times_s": ((1.0, 2.0), (2.0, 1.0))}, "never fall"),
        ({"times_s": ((-1.0, 2.0), (2.0, 3.0))}, "finite, >= 0"),
        ({"standard_errors_s": ((1.0, 1.0), (1.0, 0.0))}, "finite and > 0, one per cell"),
    ],
)
def test_interpolation__refuses_tables_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        model(**{"times_s": ((1.0, 2.0), (2.0, 4.0)), **change})
