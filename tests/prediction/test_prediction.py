"""Predictors: their laws, their published accuracies, and how specs name them."""

import math

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtr

from llmsched.prediction.binning import Binning
from llmsched.prediction.edges import assign_bins, equal_mass_edges
from llmsched.prediction.predictors import (
    BERT_CONFUSION,
    DEFAULT_SIGMA,
    PREDICTORS,
    Noisy,
    predictor_from_spec,
)
from llmsched.workload.trace import Trace

ALL_SPECS = ["oracle", "noisy", "noisy:0.3", "bin-error:0.2", "confusion:bert", "prompt-power-law"]


def make_trace(output: np.ndarray, prompt: np.ndarray | None = None) -> Trace:
    n = len(output)
    return Trace(
        arrival_s=np.arange(n, dtype=np.float64),
        prompt_tokens=np.full(n, 100, np.int32) if prompt is None else prompt,
        output_tokens=output.astype(np.int32),
    )


def distinct_lengths(n: int = 40_000) -> Trace:
    return make_trace(np.random.default_rng(5).permutation(np.arange(1, n + 1)))


def predict(spec: str, trace: Trace, binning: Binning | None = None, seed: int = 0):
    rng = np.random.default_rng(seed)
    return predictor_from_spec(spec).predict(trace, binning or Binning(), rng)


def confusion_rates(trace: Trace, prediction) -> np.ndarray:
    """Rows: the true bin; columns: the share predicted in each bin."""
    assert prediction.edges is not None
    true = assign_bins(trace.output_tokens, prediction.edges)
    predicted = assign_bins(prediction.tokens, prediction.edges)
    counts = np.zeros((true.max() + 1, max(true.max(), predicted.max()) + 1))
    np.add.at(counts, (true, predicted), 1)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


def assert_rates(observed: np.ndarray, expected: np.ndarray, n_per_row: int) -> None:
    # a share of n draws has the standard error sqrt(p (1 - p) / n); 5 of them over at most 64
    # cells fails by chance in fewer than 1 of 10,000 seeds, and the seed is fixed
    error = np.sqrt(expected * (1 - expected) / n_per_row)
    assert (np.abs(observed - expected) <= 5 * error + 1e-12).all()


# what every predictor owes


@pytest.mark.parametrize("spec", ALL_SPECS)
def test_predictor__gives_whole_tokens_for_every_request_and_repeats_by_seed(spec):
    trace = make_trace(np.random.default_rng(1).integers(1, 500, 1000))
    first, again = predict(spec, trace, seed=3), predict(spec, trace, seed=3)
    assert first.tokens.dtype == np.int32
    assert first.tokens.shape == (1000,)
    assert first.tokens.min() >= 1
    assert first.tokens.tolist() == again.tokens.tolist()
    # and it says truly whether it draws
    rng, untouched = np.random.default_rng(3), np.random.default_rng(3)
    predictor = predictor_from_spec(spec)
    predictor.predict(trace, Binning(), rng)
    assert predictor.random == (rng.random() != untouched.random())
    # and its name is a spec that names it
    assert predictor_from_spec(predictor.name) == predictor


@pytest.mark.parametrize("spec", ALL_SPECS)
def test_predictor__leaves_an_empty_trace_empty(spec):
    assert len(predict(spec, make_trace(np.empty(0)), Binning(n_bins=1)).tokens) == 0


# predictors of a length


def test_oracle__is_the_truth():
    assert predict("oracle", make_trace(np.array([5, 0, 9]))).tokens.tolist() == [5, 0, 9]


def test_noisy__is_the_truth_times_a_lognormal_factor():
    # given lengths so large that rounding is nothing beside the noise
    n, sigma = 100_000, 0.5
    prediction = predict(f"noisy:{sigma}", make_trace(np.full(n, 1_000_000)))
    log_factor = np.log(prediction.tokens / 1e6)
    # then the log of the factor is normal(0, sigma): its mean, variance and kurtosis within
    # 4 standard errors (sigma/sqrt(n), sigma² sqrt(2/n), and sqrt(96/n) for the fourth moment)
    assert abs(log_factor.mean()) < 4 * sigma / n**0.5
    assert abs(log_factor.var() - sigma**2) < 4 * sigma**2 * (2 / n) ** 0.5
    assert abs(np.mean((log_factor / sigma) ** 4) - 3) < 4 * (96 / n) ** 0.5
    assert prediction.edges is None


def test_noisy__without_noise_is_the_truth_and_a_failure_counts_as_one_token():
    assert predict("noisy:0", make_trace(np.array([0, 1, 7]))).tokens.tolist() == [1, 1, 7]
    assert predict("noisy:3", make_trace(np.zeros(1000))).tokens.min() == 1


def test_noisy__refuses_lengths_beyond_32_bits():
    with pytest.raises(ValueError, match=r"must fit 32 bits, got .* from noisy:50"):
        predict("noisy:50", make_trace(np.full(100, 1000)))


def test_prompt_power_law__knows_the_prompt_only():
    # given prompts of 1000 tokens: 1.5 * 1000^0.7 = 188.8, and a lognormal(0, 0.1) factor
    n = 100_000
    trace = make_trace(np.full(n, 7), prompt=np.full(n, 1000, np.int32))
    tokens = predict("prompt-power-law", trace).tokens
    # then the log lies around log(188.8), within 4 standard errors plus rounding's bias, which
    # is below half a token squared, (0.5/188.8)²
    assert abs(np.log(tokens).mean() - np.log(1.5 * 1000**0.7)) < 4 * 0.1 / n**0.5 + 7e-6
    assert np.log(tokens).std() == pytest.approx(0.1, abs=4 * 0.1 / (2 * n) ** 0.5 + 7e-6)


def test_prompt_power_law__is_clamped_as_published():
    trace = make_trace(np.array([5, 5]), prompt=np.array([0, 1_000_000], np.int32))
    assert predict("prompt-power-law", trace).tokens.tolist() == [1, 4096]


# predictors of a bin


@pytest.mark.parametrize("n_bins", [2, 4, 8])
def test_bert_confusion__has_the_published_accuracies(n_bins):
    # Table 1 of arXiv:2412.04504 (it cuts digits instead of rounding), exact and within one bin
    counts = np.array(BERT_CONFUSION[n_bins])
    distance = np.abs(np.subtract.outer(np.arange(n_bins), np.arange(n_bins)))
    exact, near = ((counts[distance <= d].sum() / counts.sum()) for d in (0, 1))
    assert math.floor(1e4 * exact) / 100 == {2: 86.14, 4: 62.97, 8: 42.29}[n_bins]
    assert math.floor(1e4 * near) / 100 == {2: 100.0, 4: 95.91, 8: 79.42}[n_bins]


@pytest.mark.parametrize("n_bins", [2, 4, 8])
def test_bert_confusion__draws_the_published_matrix(n_bins):
    trace = distinct_lengths()
    observed = confusion_rates(trace, predict("confusion:bert", trace, Binning(n_bins=n_bins)))
    published = np.array(BERT_CONFUSION[n_bins], dtype=float)
    expected = published / published.sum(axis=1, keepdims=True)
    assert_rates(observed, expected, len(trace) // n_bins)


@pytest.mark.parametrize("probability", [0, 0.1, 0.5])
@pytest.mark.parametrize("n_bins", [2, 4])
def test_bin_error__mistakes_each_neighbour_with_its_probability(probability, n_bins):
    trace = distinct_lengths()
    prediction = predict(f"bin-error:{probability}", trace, Binning(n_bins=n_bins))
    inner, p = 1 - 2 * probability, probability
    expected = {
        2: [[1 - p, p], [p, 1 - p]],
        4: [[1 - p, p, 0, 0], [p, inner, p, 0], [0, p, inner, p], [0, 0, p, 1 - p]],
    }[n_bins]
    assert_rates(confusion_rates(trace, prediction), np.array(expected), len(trace) // n_bins)


@pytest.mark.parametrize("spec", ["bin-error:0.3", "confusion:bert"])
def test_predicted_bin__is_given_by_a_random_member_of_it(spec):
    # given distinct lengths and a predictor of bins
    trace = distinct_lengths(4000)
    prediction = predict(spec, trace)
    # then its edges are the true ones, and its tokens spread over true lengths of the bin
    assert prediction.edges.tolist() == equal_mass_edges(trace.output_tokens, 4).tolist()
    bins = assign_bins(prediction.tokens, prediction.edges)
    for k in range(4):
        members = np.unique(prediction.tokens[bins == k])
        # 1000 members drawn about 1000 times: 1 - 1/e = 63 % are seen, with an error below 3 %
        assert 550 < len(members) < 720
        assert members.min() < 1000 * k + 50
        assert members.max() > 1000 * k + 950


def test_bin_error__follows_fixed_edges():
    trace = distinct_lengths(8000)
    prediction = predict("bin-error:0", trace, Binning(edges=(100.0, 5000.0)))
    assert prediction.edges.tolist() == [100.0, 5000.0]
    true = assign_bins(trace.output_tokens, prediction.edges)
    assert (assign_bins(prediction.tokens, prediction.edges) == true).all()


def test_bert_confusion__keeps_row_i_for_fixed_bin_i_and_leaves_empty_bins_out():
    # given nothing between 100 and 200, the second of four bins
    trace = make_trace(np.repeat([50, 250, 900], 20_000))
    prediction = predict("confusion:bert", trace, Binning(edges=(100.0, 200.0, 500.0)))
    rates = np.array(BERT_CONFUSION[4], dtype=float)[[0, 2, 3]][:, [0, 2, 3]]
    expected = rates / rates.sum(axis=1, keepdims=True)
    assert_rates(confusion_rates(trace, prediction)[[0, 2, 3]][:, [0, 2, 3]], expected, 20_000)


@pytest.mark.filterwarnings("ignore:4 equal-mass bins asked for:UserWarning")
def test_bin_error__skips_bins_that_hold_no_request():
    # given half of the lengths tied at the minimum: edges 3, 3 and more, so bin 0 is empty
    trace = make_trace(np.repeat([3, 50, 90], [20_000, 10_000, 10_000]))
    prediction = predict("bin-error:0.2", trace)
    assert prediction.edges.tolist() == [3.0, 26.5, 60.0]
    # then the three bins that hold requests are a chain, and no one is predicted in bin 0
    observed = confusion_rates(trace, prediction)[1:]
    expected = np.array([[0, 0.8, 0.2, 0], [0, 0.2, 0.6, 0.2], [0, 0, 0.2, 0.8]])
    assert_rates(observed, expected, 10_000)


@pytest.mark.filterwarnings("ignore:4 equal-mass bins asked for:UserWarning")
def test_bert_confusion__mixes_the_rows_and_columns_that_a_merged_bin_covers():
    # given 3 tied over two and a half quarters of the requests, and 50 over the rest
    trace = make_trace(np.repeat([3, 50], [25_000, 15_000]))
    prediction = predict("confusion:bert", trace)
    assert prediction.edges.tolist() == [3.0, 50.0]
    # then the lower bin is quarters 1, 2 and half of 3, as a row and as a column
    rates = np.array(BERT_CONFUSION[4], dtype=float)
    rates /= rates.sum(axis=1, keepdims=True)
    lower = np.array([1, 1, 0.5, 0])
    to_lower = rates @ lower
    low, high = lower @ to_lower / 2.5, (1 - lower) @ to_lower / 1.5
    expected = np.array([[0, low, 1 - low], [0, high, 1 - high]])
    assert_rates(confusion_rates(trace, prediction)[1:], expected, 15_000)


@pytest.mark.filterwarnings("ignore:.*equal-mass bins asked for:UserWarning")
@pytest.mark.parametrize("spec", ["bin-error:0.5", "confusion:bert"])
def test_predictors_of_a_bin__leave_one_length_alone(spec):
    assert predict(spec, make_trace(np.full(5, 7))).tokens.tolist() == [7] * 5


@pytest.mark.parametrize("spec", ["bin-error:0.5", "confusion:bert"])
def test_predictors_of_a_bin__are_the_truth_where_there_are_no_bins(spec):
    prediction = predict(spec, make_trace(np.array([4, 0, 9])), Binning(n_bins=1, by="total"))
    assert prediction.tokens.tolist() == [4, 0, 9]
    assert prediction.edges is None


@pytest.mark.parametrize("spec", ["bin-error:0.1", "confusion:bert"])
@pytest.mark.parametrize("by", ["total", "service"])
def test_predictors_of_a_bin__refuse_bins_that_are_not_by_output(spec, by):
    with pytest.raises(ValueError, match=f"must be by output, got '{by}'; bin by output"):
        predict(spec, distinct_lengths(100), Binning(by=by))


def test_bert_confusion__refuses_a_bin_count_that_was_not_published():
    with pytest.raises(ValueError, match="2, 4 and 8 bins, got 3"):
        predict("confusion:bert", distinct_lengths(100), Binning(n_bins=3))


# specs


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("psychic", "predictor must be one of oracle, noisy, .*; got 'psychic'"),
        ("noisy:much", "noisy:SIGMA must have a number after the colon, got 'much'"),
        ("noisy:-0.1", "noisy:SIGMA must be finite and >= 0, got -0.1"),
        ("noisy:nan", "got nan"),
        ("bin-error", "bin-error:P must have a number after the colon, got ''"),
        ("bin-error:0.51", r"P in \[0, 0.5\], got 0.51"),
        ("confusion", "confusion:bert; got ''"),
        ("confusion:gpt", "got 'gpt'"),
        ("oracle:1", "oracle takes nothing after its name, got '1'"),
        ("prompt-power-law:2", "takes nothing after its name, got '2'"),
    ],
)
def test_spec__that_names_no_predictor_says_what_does(spec, message):
    with pytest.raises(ValueError, match=message):
        predictor_from_spec(spec)


def test_spec__default_noise_is_the_derived_one():
    assert predictor_from_spec("noisy") == Noisy(DEFAULT_SIGMA)


def test_spec__finds_the_predictor_of_an_installed_package(tmp_path, monkeypatch):
    # given a package that registers a predictor called `same`
    (tmp_path / "same_predictor.py").write_text(
        "import numpy as np\n"
        "from llmsched.prediction import Prediction\n"
        "class Same:\n"
        "    random = False\n"
        "    def __init__(self, text):\n"
        "        self.name, self.tokens = f'same:{text}', int(text)\n"
        "    def predict(self, trace, binning, rng):\n"
        "        return Prediction(tokens=np.full(len(trace), self.tokens, np.int32))\n"
    )
    info = tmp_path / "same_predictor-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: same-predictor\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[llmsched.predictors]\nsame = same_predictor:Same\n")
    monkeypatch.syspath_prepend(tmp_path)
    # then its name works like ours
    assert predict("same:12", make_trace(np.array([1, 2]))).tokens.tolist() == [12, 12]
    assert "same" in PREDICTORS


# the default noise, derived again (docs/decisions/001-default-predictor-sigma.md)


def lmsys_log_lengths(n: int = 4000) -> np.ndarray:
    """Response lengths of LMSYS-Chat: n mid-points of the interpolated quantile function."""
    probability = [0, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1]
    words = [1, 7, 28, 89, 187, 271, 323, 438, 800]
    return np.log(PchipInterpolator(probability, words)((np.arange(n) + 0.5) / n))


def noise_confusion(log_lengths: np.ndarray, sigma: float, n_bins: int) -> np.ndarray:
    """P(predicted bin | true bin) when a normal(0, sigma) is added to the log length; no draws."""
    share = np.arange(1, n_bins) / n_bins
    low = np.full(n_bins - 1, log_lengths.min() - 10 * sigma)
    high = np.full(n_bins - 1, log_lengths.max() + 10 * sigma)
    for _ in range(50):  # bisect for the predictions' own quantiles
        middle = (low + high) / 2
        below = ndtr((middle[:, None] - log_lengths) / sigma).mean(axis=1) < share
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    cumulative = ndtr((low[:, None] - log_lengths) / sigma)
    steps = np.diff(cumulative, axis=0, prepend=0, append=1)
    true = np.searchsorted(np.quantile(log_lengths, share), log_lengths, side="right")
    return np.array([steps[:, true == k].mean(axis=1) for k in range(n_bins)])


def test_default_sigma__gives_the_published_four_bin_accuracy():
    def accuracy(sigma: float) -> float:
        return np.trace(noise_confusion(lmsys_log_lengths(), sigma, 4)) / 4

    # the accuracy falls with sigma and crosses the published one within the third digit
    assert accuracy(DEFAULT_SIGMA + 0.0005) < 0.6297 < accuracy(DEFAULT_SIGMA - 0.0005)


def test_default_sigma__predictor_has_that_accuracy():
    # given 200,000 lengths of that law in whole tokens, 4 tokens for 3 words
    n = 200_000
    trace = make_trace(np.rint(np.exp(lmsys_log_lengths(n)) * 4 / 3))
    tokens = predict("noisy", trace).tokens
    bins = [assign_bins(t, equal_mass_edges(t, 4)) for t in (trace.output_tokens, tokens)]
    # then the share of right bins is as published, within 4 standard errors and 0.001 that
    # whole tokens cost (short lengths tie across an edge)
    error = (0.63 * 0.37 / n) ** 0.5
    assert abs((bins[0] == bins[1]).mean() - 0.6297) < 4 * error + 0.001


def test_default_noise__agrees_with_what_else_was_published():
    # Table 1's other accuracies, which the derivation did not use; how far off, to a digit
    rates = {k: noise_confusion(lmsys_log_lengths(), DEFAULT_SIGMA, k) for k in (2, 4, 8)}
    exact = {k: np.trace(matrix) / k for k, matrix in rates.items()}
    near = {k: sum(np.trace(m, d) for d in (-1, 0, 1)) / k for k, m in rates.items()}
    assert exact[2] == pytest.approx(0.8614, abs=0.010)
    assert exact[8] == pytest.approx(0.4229, abs=0.017)
    assert near[4] == pytest.approx(0.9591, abs=0.014)
    assert near[8] == pytest.approx(0.7942, abs=0.006)
