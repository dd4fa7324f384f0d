"""Does a fit to a log give back the constants that made it? Trials on runs of the simulator.

    python experiments/validation/recovery.py [--trials N] [--first SEED]

Each trial simulates 100 requests (Poisson at 3/s, log-normal lengths) with known constants and 5 %
of noise on every step, fits all constants to their TTFT and TPOT, and counts how many of the 95 %
intervals hold the truth. Printed: that share, over all constants and for each. About 2 s of CPU a
trial.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmsched.engine.iteration.run import run_iteration_engine
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.latency.steps.base import StepLatency
from llmsched.latency.steps.two_regime import DecodeTerms, MixedTerms, TwoRegime
from llmsched.studies.validation.fit_all import CONSTANTS, fit_constants
from llmsched.studies.validation.replay import Replay, simulated_times
from llmsched.workload.trace import Trace

REQUESTS, RATE_PER_S, NOISE = 100, 3.0, 0.05
TRUTH = {  # about those of an RTX 4090 with an 8B model
    "decode.c0_s": 0.0169,
    "decode.cb_s": 4e-5,
    "decode.ckv_s": 1.65e-7,
    "mixed.c0_s": 0.0198,
    "mixed.cp_s": 8.5e-5,
    "mixed.n0_tokens": 106.0,
    "mixed.cb_s": 2.2e-5,
    "mixed.ckv_s": 2.7e-7,
    "mixed.cpair_s": 4.4e-9,
}


class Noisy(StepLatency):
    """Another model's steps, each longer or shorter by chance."""

    def __init__(self, model: TwoRegime, rng: np.random.Generator) -> None:
        self._model, self._rng = model, rng

    def step_s(self, prefills: Sequence[tuple[int, int]], n_decodes: int, decode_kv: int) -> float:
        """The step of the model, times its noise."""
        noise = float(np.exp(NOISE * self._rng.standard_normal()))
        return noise * self._model.step_s(prefills, n_decodes, decode_kv)

    def decode_run_s(self, n_decodes: int, decode_kv: int, steps: int) -> NDArray[np.float64]:
        """The steps of the model, each times its own noise."""
        noise = np.exp(NOISE * self._rng.standard_normal(steps))
        return noise * self._model.decode_run_s(n_decodes, decode_kv, steps)


def truth() -> TwoRegime:
    """The constants as a model."""
    terms = [
        {name.partition(".")[2]: v for name, v in TRUTH.items() if name.startswith(regime)}
        for regime in ("decode", "mixed")
    ]
    return TwoRegime(decode=DecodeTerms(**terms[0]), mixed=MixedTerms(**terms[1]), name="truth")


def held(seed: int) -> list[bool]:
    """Which intervals of one trial hold their constant."""
    rng = np.random.default_rng(1000 + seed)
    gaps_s = rng.exponential(1 / RATE_PER_S, REQUESTS - 1)
    trace = Trace(
        arrival_s=np.concatenate([[0.0], np.cumsum(gaps_s)]),
        prompt_tokens=np.clip(rng.lognormal(6, 1, REQUESTS), 10, 4000).astype(np.int32),
        output_tokens=np.clip(rng.lognormal(4.6, 0.8, REQUESTS), 2, 1000).astype(np.int32),
    )
    replay = Replay(trace=trace, settings=IterationSettings(kv_tokens=200_000), step=truth())
    run = run_iteration_engine(trace, replay.settings, Noisy(truth(), rng), leaps=False)
    _, found = fit_constants(replay, simulated_times(run), REQUESTS, seed=seed)
    return [low <= TRUTH[name] <= high for name, (low, high) in found.intervals.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials and print what they say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=200, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    options = parser.parse_args(arguments)
    seeds = range(options.first, options.first + options.trials)
    found = np.array([held(seed) for seed in seeds])
    print(f"{found.mean():.1%} of {found.size} intervals hold the truth")
    for name, share in zip(CONSTANTS, found.mean(axis=0).tolist(), strict=True):
        print(f"  {name:<18} {share:.1%}")


if __name__ == "__main__":
    main()
