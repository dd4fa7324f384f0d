"""Speed and memory of the core, as ratios on this machine: `make bench`.

Every measurement is a fresh process, so that peak memory is its own. Times are compared with one
yardstick measured beside them: items pushed through one bare `simpy.Store`. `--quick` stops at
1e6 requests.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

MIB = 2**20


def bare_store(n: int) -> float:
    """Seconds that `n` items take through one Store: a timeout and a put each, one consumer."""
    import simpy

    env = simpy.Environment()
    store = simpy.Store(env)

    def producer():
        for item in range(n):
            yield env.timeout(1.0)
            yield store.put(item)

    def consumer():
        for _ in range(n):
            yield store.get()

    env.process(producer())
    env.process(consumer())
    start = time.perf_counter()
    env.run()
    return time.perf_counter() - start


def timed(call: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def planned(trace: object) -> object:
    """A scenario with these requests in the stress plan's world."""
    from dataclasses import replace

    from llmsched.simulation.presets import preset

    return replace(preset("plan"), workload=trace)


def engine_ratio(n: int, n_gpus: int, scheduler: str) -> dict[str, float]:
    """One run of the engine over the bare Store, each `n` requests, taken in turn three times."""
    from llmsched.simulation.levels import batch as level
    from llmsched.simulation.simulate import simulate
    from llmsched.workload.workload import Workload

    trace = Workload(requests=n, rps_scale=200).load(0)
    engine_s: list[float] = []
    run_engine = level.run_engine

    def measured(*args, **options):
        seconds, tables = timed(lambda: run_engine(*args, **options))
        engine_s.append(seconds)
        return tables

    level.run_engine = measured
    ratios = []
    for _ in range(3):
        bare_s = bare_store(n)
        run = simulate(planned(trace), scheduler, n_gpus=n_gpus)
        ratios.append(engine_s[-1] / bare_s)
    return {
        "bare_s": bare_s,
        "engine_s": engine_s[-1],
        "ratio": statistics.median(ratios),
        "batches": run.metrics.batches,
        "offered_load": run.offered_load,
    }


def long_queue(n_waiting: int, scheduler: str, rate_per_s: float) -> dict[str, float]:
    """CPU time of a batch where about `n_waiting` requests wait: so many at first, then arrivals
    about as fast as they are served."""
    import numpy as np

    from llmsched.simulation.levels import batch as level
    from llmsched.simulation.simulate import simulate
    from llmsched.workload.slo import Slo
    from llmsched.workload.trace import Trace

    warnings.simplefilter("ignore")  # lengths beyond the measured range

    rng, n = np.random.default_rng(0), n_waiting + 20_000
    later_s = np.cumsum(rng.exponential(1 / rate_per_s, n - n_waiting))
    trace = Trace(
        arrival_s=np.concatenate((np.zeros(n_waiting), later_s)),
        prompt_tokens=rng.lognormal(6.3, 1.0, n).clip(1, 8000).astype(np.int32),
        output_tokens=rng.lognormal(5.0, 0.8, n).clip(1, 2000).astype(np.int32),
    )
    run_engine, spent_s = level.run_engine, []

    def measured(*args, **options):
        start = time.process_time()
        tables = run_engine(*args, **options)
        spent_s.append(time.process_time() - start)
        return tables

    level.run_engine = measured
    for _ in range(5):
        run = simulate(
            trace,
            scheduler,
            n_gpus=4,
            latency="h100-llama-3-8b-vllm",
            slo=Slo(latency_s=10.0),
        )
    served = np.cumsum(run.batches.size) - run.batches.size
    waiting = np.searchsorted(trace.arrival_s, run.batches.start_s, side="right") - served
    n_batches = len(run.batches)
    return {
        "batch_us": 1e6 * min(spent_s) / n_batches,
        "batch_size": n / n_batches,
        "waiting": float(np.median(waiting)),
    }


def csv_run(path: str) -> dict[str, float]:
    """Read a trace file, run multi-bin on it, measure it."""
    from llmsched.metrics.run import metrics
    from llmsched.simulation.simulate import simulate
    from llmsched.workload.formats.registry import read_trace
    from llmsched.workload.prepare import prepare

    read_s, raw = timed(lambda: read_trace(path))
    trace = prepare(raw, rps_scale=200)
    run_s, run = timed(lambda: simulate(planned(trace), "multi_bin_dynamic"))
    metrics_s, _ = timed(
        lambda: metrics(run.requests, run.batches, n_gpus=4, sla_s=1.0, n_bins=len(run.edges) + 1)
    )
    return {"rows": len(raw), "read_s": read_s, "run_s": run_s, "metrics_s": metrics_s}


def synthetic_run(n: int) -> dict[str, float]:
    """Generate `n` requests, run multi-bin on 4 GPUs, measure it."""
    from llmsched.simulation.simulate import simulate
    from llmsched.workload.workload import Workload

    load_s, trace = timed(lambda: Workload(requests=n, rps_scale=200).load(0))
    run_s, run = timed(lambda: simulate(planned(trace), "multi_bin_dynamic"))
    return {"generate_s": load_s, "run_s": run_s, "batches": run.metrics.batches}


def poisson_trace(n: int, rate_per_s: float):
    """Poisson arrivals, prompts of 300 and outputs of 200 tokens on average, both exponential."""
    import numpy as np

    from llmsched.workload.trace import Trace

    rng = np.random.default_rng(1)
    return Trace(
        arrival_s=np.cumsum(rng.exponential(1 / rate_per_s, n)),
        prompt_tokens=np.maximum(1, rng.exponential(300, n)).astype(np.int32),
        output_tokens=np.maximum(1, rng.exponential(200, n)).astype(np.int32),
    )


def iteration_run(n: int, rate_per_s: float, caching: bool) -> dict[str, float]:
    """One run of the iteration level with its figures: 4 replicas of an RTX 4090's memory."""
    from llmsched.engine import IterationSettings, run_iteration_engine
    from llmsched.latency.step_times import step_time_from_spec
    from llmsched.metrics import token_metrics

    trace = poisson_trace(n, rate_per_s)
    settings = IterationSettings(kv_tokens=41_392, prefix_caching=caching)
    step = step_time_from_spec("rtx-4090-llama-3.1-8b")
    start = time.process_time()
    run = run_iteration_engine(trace, settings, step, n_replicas=4)
    figures = token_metrics(run)
    cpu_s = time.process_time() - start
    return {
        "requests_per_s": n / cpu_s,
        "tokens_per_step": figures.tokens_per_step,
        "preemptions": int(run.requests.preemptions.sum()),
    }


def iteration_ratio(n: int, rate_per_s: float, caching: bool) -> dict[str, float]:
    """CPU time of the stepping reference over that of the engine, one replica."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "reference"))
    import stepping

    from llmsched.engine import IterationSettings, run_iteration_engine
    from llmsched.latency.step_times import step_time_from_spec

    trace, step = poisson_trace(n, rate_per_s), step_time_from_spec("rtx-4090-llama-3.1-8b")
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
    start = time.process_time()
    options = stepping.Options(usable_blocks=2587, prefix_caching=caching)
    stepping.run(*(column.tolist() for column in columns), step.step_s, options)
    reference_s = time.process_time() - start
    engine_s = []
    for _ in range(3):
        start = time.process_time()
        settings = IterationSettings(kv_tokens=41_392, prefix_caching=caching)
        run_iteration_engine(trace, settings, step)
        engine_s.append(time.process_time() - start)
    return {"ratio": reference_s / min(engine_s)}


def tiny_sweep(n: int) -> dict[str, float]:
    """CPU time of a sweep of `n` runs of 50 requests, one job, and of its second start."""
    from llmsched.simulation.scenario import Scenario
    from llmsched.simulation.sweep.sweep import sweep
    from llmsched.workload.workload import Workload

    def cpu_s(out: Path, runs: int) -> float:
        start = time.process_time()
        workload = Workload(requests=50)
        sweep([Scenario(workload=workload, seed=seed) for seed in range(runs)], out, jobs=1)
        return time.process_time() - start

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        cpu_s(out, 1)  # imports and shipped tables
        first_s, again_s = cpu_s(out, n), cpu_s(out, n)
        files = sum(1 for path in out.rglob("*") if path.is_file())
    return {"run_ms": 1e3 * first_s / n, "again_s": again_s, "files": files}


def memory_growth(n: int) -> dict[str, float]:
    """Memory that one process gains from its 20th to its `n`th run."""
    from llmsched.simulation.simulate import simulate
    from llmsched.workload.workload import Workload

    def resident_mib() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB

    for run in range(n):
        simulate(Workload(requests=500), "multi_bin_dynamic", latency="reference", seed=run)
        if run == 19:
            before_mib = resident_mib()
    return {"growth_mib": resident_mib() - before_mib}


CHILDREN = {
    call.__name__: call
    for call in (
        *(engine_ratio, long_queue, csv_run, synthetic_run, iteration_run, iteration_ratio),
        *(tiny_sweep, memory_growth),
    )
}


def child(task: str, *args: object) -> dict[str, float]:
    """Run one measurement in a process of its own; adds its wall time and peak memory."""
    command = [sys.executable, __file__, "--child", json.dumps([task, args])]
    result, wall_s, peak = process(command)
    return {**json.loads(result), "wall_s": wall_s, "peak_mib": peak}


def process(command: list[str]) -> tuple[str, float, float]:
    """Output, wall time [s] and peak memory [MiB] of a command."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        output = running.stdout.read()
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {running.returncode}")
    scale = 1 if sys.platform == "darwin" else 1024
    return output, time.perf_counter() - start, usage.ru_maxrss * scale / MIB


def line(what: str, value: str, target: str = "") -> None:
    print(f"{what:<62} {value:>16}   {target}", flush=True)


def bench_engine(n: int) -> None:
    print(f"\nEngine time over {n:,} items through a bare simpy.Store (median of 3)")
    for n_gpus, target in ((4, 0.3), (64, 1.5), (100, 1.5)):
        for scheduler in ("static_fifo", "dynamic_no_bins", "multi_bin_dynamic"):
            got = child("engine_ratio", n, n_gpus, scheduler)
            aim = f"at most {target}" if scheduler == "multi_bin_dynamic" else ""
            name = f"{scheduler}, {n_gpus} GPUs, {got['batches']:,} batches"
            line(name, f"{got['ratio']:.2f}", aim)


def bench_long_queue() -> None:
    print("\nCPU time of one batch in a long queue, 4 GPUs, SLA 10 s (least of 5)")
    for n_waiting, rates in ((1000, (9.0, 11.0)), (10_000, (9.0, 11.0))):
        costs = []
        for scheduler, rate in zip(("multi_bin_dynamic", "deadline_window"), rates, strict=True):
            got = child("long_queue", n_waiting, scheduler, rate)
            costs.append(got["batch_us"])
            name = f"{scheduler}, {got['waiting']:,.0f} wait, batches of {got['batch_size']:.0f}"
            line(name, f"{got['batch_us']:.0f} us")
        line("their ratio", f"{costs[1] / costs[0]:.1f}", "at most 3")


def bench_file(n: int) -> None:
    print(f"\nA BurstGPT file of {n:,} rows")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "trace.csv")
        write = (
            "import sys; from llmsched import *; import numpy as np;"
            "write_trace(generate(load_profile('burstgpt-like'), int(sys.argv[2]),"
            "np.random.default_rng(0)), sys.argv[1], trace_format='burstgpt')"
        )
        subprocess.run([sys.executable, "-c", write, path, str(n)], check=True)
        got = child("csv_run", path)
        line("read the file", f"{got['read_s']:.2f} s", "at most 1 s")
        line("metrics of one run", f"{got['metrics_s']:.2f} s", "at most 0.5 s")
        line("peak memory: file, one run, metrics", f"{got['peak_mib']:.0f} MiB", "at most 300")
        cli = [str(Path(sys.executable).parent / "llmsched"), "compare", "--trace", path, "--json"]
        cli += ["--preset", "plan", "--no-resample-trace"]
        for replications in (1, 5):
            _, wall_s, peak = process([*cli, "--seeds", str(replications)])
            line(
                f"llmsched compare, three schedulers, {replications} replication(s)",
                f"{wall_s:.1f} s",
                f"at most 15 s; peak {peak:.0f} MiB",
            )


def bench_small(n: int) -> None:
    print(f"\nSmall runs: a sweep of {n:,} runs of 50 requests, one job, CPU time")
    got = child("tiny_sweep", n)
    line("a run", f"{got['run_ms']:.1f} ms", "at most 5 ms")
    line("its second start, with nothing to do", f"{got['again_s']:.2f} s", "at most 1 s of 2,000")
    line("files in its folder", f"{got['files']}", "one per hundred runs")
    if Path("/proc/self/statm").exists():
        got = child("memory_growth", 500)
        line("growth of a process over 500 runs", f"{got['growth_mib']:.1f} MiB", "at most 20")


def bench_growth(sizes: list[int]) -> None:
    print("\nGrowth: generate, one multi_bin_dynamic run on 4 GPUs at 200x, metrics")
    print(f"{'requests':>12} {'generate':>10} {'run':>10} {'us/request':>11} {'peak MiB':>9}")
    for n in sizes:
        got = child("synthetic_run", n)
        print(
            f"{n:>12,} {got['generate_s']:>9.2f}s {got['run_s']:>9.2f}s "
            f"{1e6 * got['run_s'] / n:>11.2f} {got['peak_mib']:>9.0f}",
            flush=True,
        )


def bench_iteration(n: int, most: int) -> None:
    print(f"\nIteration level: {n:,} requests on 4 replicas, with metrics, per CPU second")
    for rate_per_s, load in ((12, "light"), (24, "moderate"), (48, "saturated")):
        for caching, least in ((False, 30_000), (True, 10_000)):
            got = child("iteration_run", n, rate_per_s, caching)
            name = f"{load}, {got['tokens_per_step']:.0f} tokens a step, "
            name += f"{got['preemptions']:,} preemptions{', prefix cache' if caching else ''}"
            aim = f"at least {least:,}" if load != "light" else ""
            line(name, f"{got['requests_per_s']:,.0f}/s", aim)
    got = child("iteration_run", most, 24, False)
    line(f"{most:,} requests, moderate", f"{got['requests_per_s']:,.0f}/s", "at most 40 s, 1.5 GB")
    line("its peak memory", f"{got['peak_mib']:.0f} MiB")
    for rate_per_s, batch in ((3, 12), (6, 29), (12, 80)):
        for caching, least in ((False, 20), (True, 8)):
            got = child("iteration_ratio", 3000, rate_per_s, caching)
            what = f"over the stepping reference, batch {batch}{', prefix cache' * caching}"
            line(what, f"{got['ratio']:.0f}x", f"at least {least}x")


def bench_start() -> None:
    print("\nStart")
    cli = str(Path(sys.executable).parent / "llmsched")
    commands = ([cli, "--help"], [sys.executable, "-c", "import click"])
    pairs = [[process(list(command))[1] for command in commands] for _ in range(11)]
    ratio = statistics.median(ours / click for ours, click in pairs)
    line("llmsched --help over python -c 'import click'", f"{ratio:.2f}", "at most 3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="stop at 1e6 requests")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task, args = json.loads(options.child)
        print(json.dumps(CHILDREN[task](*args)))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    bench_start()
    bench_small(200 if options.quick else 2000)
    bench_iteration(100_000, 100_000 if options.quick else 1_000_000)
    bench_file(1_000_000)
    bench_growth([10**4, 10**5, 10**6] + ([] if options.quick else [10**7]))
    bench_engine(1_000_000)
    bench_long_queue()


if __name__ == "__main__":
    main()
