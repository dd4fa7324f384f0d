"""FORMS.md in words: what a user should take from the errors of the forms, and their limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from forms_errors import Row, StepRow, forms_of, held, median, middle, percent, worst

from llmsched.calibration.benchmarks.fit import BenchmarkFit

GOOD, ROUGH = 0.10, 0.25  # worst error up to which a form is called so


def take_away(rows: Sequence[Row], steps: Sequence[StepRow], served: BenchmarkFit) -> str:
    """The report in five points."""
    reference, four = forms_of(rows, "reference"), forms_of(rows, "four-term")
    grid = forms_of(rows, "interpolation")
    rough = sum(worst(one) <= ROUGH for one in reference)
    growth = median([one.growth for one in rows if np.isfinite(one.growth)])
    ratio = median([one.largest_ratio for one in reference])
    sound = [one.in_sample for one in steps if one.in_sample is not None]
    lumped = [found for one in steps if (found := one.whole["four-term"]) is not None]
    return bullets(
        f"""**The α/β/γ form, `reference`, is within {percent(ROUGH)} in every cell for {rough} of
        {len(reference)} configurations.** In the median configuration its worst cell is
        {percent(median([worst(one) for one in reference]))} off. It says that a batch of 64
        takes hardly longer than one of 16 (5 % at most); measured, it takes {growth:.2f} times as
        long. It gives the largest batch of the longest requests {ratio:.2f} of its time. So it
        makes large batches look almost free, and flatters any scheduler that makes them.""",
        f"""**`four-term` is within {percent(median([worst(one) for one in four]))} in the worst
        cell of the median configuration**, {percent(median([middle(one) for one in four]))} off
        in its median cell, and {percent(held(four, "between"))} on batch sizes and lengths that
        lie between the measured ones and were left out of the fit.""",
        f"""**`interpolation` is for the inside of a grid:** {percent(held(grid, "between"))} off
        between its cells, {percent(held(grid, "largest"))} one step beyond the largest batch or
        length (`four-term`: {percent(held(four, "largest"))}).""",
        f"""**Where prompts and outputs vary apart, no form in their sum will do.** On Splitwise's
        measurements `four-term` is {percent(median([middle(one) for one in lumped]))} off in
        the median cell, and gives a long prompt with a short answer up to
        {1 + max(worst(one) for one in lumped):.0f} times its time; `step`, fitted to prefills and
        decode steps, is
        {percent(median([median(np.abs(one.whole)) for one in sound]))} off. The requests of a
        served model on an RTX 3090 are met within {percent(served.max_relative_error)} at
        concurrency 1 to 32.""",
        """**So:** measure prefill and decode apart (`llmsched calibrate measure` does), let
        `llmsched calibrate fit` choose by what was left out, and stay inside the grid. Take
        `reference` only to repeat results that were made with it.""",
    )


def about_rows(rows: Sequence[Row], shipped: dict[str, tuple[float, float]]) -> str:
    """Which configurations, and how they were fitted."""
    cut = sum(not one.kept for one in rows)
    (reference, reference_worst), (four, four_worst) = shipped["reference"], shipped["four-term"]
    return prose(
        f"""{len(rows)} configurations of NVIDIA GPUs by rules 1 to 4 of [README.md](README.md):
        b = 1, 16, 32, 64 requests of 128 to 2048 prompt and as many output tokens, 12 to 20 cells.
        {cut} of them are marked ✂: `measured_sets.csv` leaves them out, since there even the four
        terms miss a cell by more than 20 %. Fitted as `calibrate fit` does without trials, to the
        squares of ln(modelled/measured), so that half counts as much as twice; README.md's table
        is of fits to the squares of modelled/measured − 1, as the shipped sets are, which gives
        {100 * reference:.1f} % / {100 * reference_worst:.1f} % for `reference` and
        {100 * four:.1f} % / {100 * four_worst:.1f} % for `four-term` in place of the column *in
        sample*. Errors are |modelled/measured − 1|; under *left out* the form was fitted without
        that batch size or length."""
    )


def after_summary(rows: Sequence[Row]) -> str:
    """How to read the first table."""
    reference = forms_of(rows, "reference")
    lone = [one.held_out_median(["batch 1"]) for one in reference if "batch 1" in one.held_out]
    holes = len(rows) - len(forms_of(rows, "interpolation"))
    missed = f"`reference` is {percent(median(lone))} off there" if lone else "no γ is found"
    return prose(
        f"""Median error / worst error, each the median over the configurations. `interpolation`
        meets its own cells, so that only what is left out says anything of it; {holes} grids with
        holes it cannot take. Fitted without batch 1, {missed}: the other batch sizes
        differ by more than (b − 1)/b allows, so the fit takes the largest γ there is, and hardly
        any time is left for a request alone."""
    )


def about_table() -> str:
    """How to read the table of configurations."""
    return prose(
        f"""Median / worst error. *Left out* is over all batch sizes but 1 and all lengths, each
        left out in turn. *Largest* is what `reference` says of the largest batch of the longest
        requests, as a share of what was measured. In words: good, every cell within
        {percent(GOOD)}; rough, within {percent(ROUGH)}; bad, beyond that. `step` needs more than
        whole batches with prompt = output, whose prompt tokens and decode steps come in equal
        numbers: it is fitted where one time to first token was measured as well (b = 16, prompt
        1024). That tells the costs of the two apart, but not where the floor of the prefill ends
        (n0)."""
    )


def about_steps(steps: Sequence[StepRow]) -> str:
    """What Splitwise measured, and what the step form misses."""
    refused = ", ".join(one.name for one in steps if one.in_sample is None)
    bends = {
        tokens: median([one.lone_prefill[tokens] for one in steps if one.lone_prefill])
        for tokens in (128, 2048, 8192)
    }
    return prose(
        f"""llama2-70b and bloom-176b: prompts of 128 to 8192 tokens at b = 1, and b = 1 to 64 at
        512 prompt tokens, 128 to 8192 output tokens, five repeats and more. Left out: the
        power-capped H100, which is the H100 times 1.3, and two GPUs at b = 64, out of memory. A
        whole batch is prefill + (output − 1) decode steps. *Left out*: each batch size but 1 and
        each prompt length but 512. The measured prefill bends where the form is straight: alone, a
        prompt of 128 tokens comes out {bends[128]:+.0%}, one of 2048 {bends[2048]:+.0%}, one of
        8192 {bends[8192]:+.0%} (medians)."""
        + (f" Not fitted, since its weights did not settle: {refused}." if refused else "")
    )


def about_served(served: BenchmarkFit) -> str:
    """How well the import meets a served model."""
    model = served.model
    tpot = [abs(one.tpot_relative_error) for one in served.points]
    sizes = [str(one.point.concurrency) for one in served.points]
    n, tpot_s = np.array([(p.point.concurrency, p.point.tpot.mean_s) for p in served.points]).T
    slope_s, floor_s = np.polyfit(n, tpot_s, 1)
    last, tokens = served.points[-1].point, served.points[-1].point.output_tokens
    prefill_s = last.concurrency * (served.points[0].point.ttft.mean_s - floor_s) + floor_s
    naive_s = prefill_s + (tokens - 1) * (floor_s + last.concurrency * slope_s)
    return prose(
        f"""TTFT and TPOT at concurrency {", ".join(sizes)}, taken as `llmsched calibrate import`
        takes them (README.md, *Results you already have*): a batch of n takes what a request takes
        among n. {len(served.points) + 1} times, 3 parameters: c0 = {1e3 * model.c0_s:.2f} ms,
        {1e3 * model.cp_s * last.prompt_tokens:.0f} ms per prompt, cb = {1e6 * model.cb_s:.0f} µs.
        End-to-end times are met within {percent(served.median_relative_error)} (median) and
        {percent(served.max_relative_error)} (worst), TPOT within {percent(max(tpot))}. Taking
        TPOT under load for the decode step, and TTFT at concurrency 1 for the prefill, would count
        the others' prefills twice: a batch of {last.concurrency} would take {naive_s:.1f} s, where
        requests took {last.e2e.mean_s:.1f} s. The output of {tokens:.0f} tokens is read off the
        file's throughput; the prompt's length is not known, and only scales the time per
        prompt token."""
    )


def prose(text: str) -> str:
    """One paragraph on one line."""
    return " ".join(text.split())


def bullets(*items: str) -> str:
    """A list, each item on one line."""
    return "\n".join(f"- {prose(item)}" for item in items)


LIMITS = (
    """Equal requests: every member of a batch has the same prompt and output. Mixed batches, taken
    at their longest, are upper bounds under any form.""",
    """2023 and 2024 frameworks, up to b = 64 and 2048 + 2048 tokens in the first tables. Single
    runs there: the noise of a cell is not known (repeated keys differ by up to 3.1 %).""",
    """Those marked ✂ jump at large b·L, most likely where the batch no longer fits the KV memory
    and queues inside the framework. No form here describes a jump; the simulated GPU's memory
    limit is there to keep such batches out.""",
    """Leaving out the largest batch or length extrapolates by a factor of two; of more, these
    numbers say nothing.""",
    """The Splitwise sweeps vary one thing at a time, so nothing there tells how batch and prompt
    go together.""",
)

SOURCES = """\
- LLM-Inference-Bench (Chitty-Venkata et al.), argonne-lcf/LLM-Inference-Bench @ \
4211f5d4e9bc0145ed541b6d372d5d8223b44235, `Plots/All_results.csv` and \
`Plots/Fig_22/all_results_TTFT_ITL.csv`; BSD-3-Clause, copyright UChicago Argonne, LLC.
- Splitwise (Patel et al.), Mutinifni/splitwise-sim @ 8f99e7dc9b407f4ce2488d03dd44c0b8b946dab0, \
`data/perf_model.csv`; MIT.
- AMD-Aljohani/dr-bgs-llm-routing @ 92883925975183a5795fbecd1ddb18119468b093, \
`data/calibration/qwen_rtx3090_direct_telemetry.csv`; CC-BY-4.0.
- ML.ENERGY, ml-energy/leaderboard @ 0cd52dab897c5d91a45f4d413038f3b8b4251b0f, \
`public/data/tasks/lm-arena-chat.json`; no licence file: figures only.

No measured row is in this repository: the tables hold errors of fits."""
