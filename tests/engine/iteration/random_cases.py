"""Random runs, for the engine and the stepping reference alike, full of ties and tight corners."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import stepping

from llmsched.engine.iteration.run import IterationRun, run_iteration_engine
from llmsched.engine.iteration.settings import IterationSettings
from llmsched.schedulers.iteration.base import IterationScheduler
from llmsched.schedulers.iteration.limits import DynamicLimit
from llmsched.schedulers.iteration.orders import Fcfs, by_priority
from llmsched.schedulers.iteration.routing import LeastOutstanding, RoundRobinRouter
from llmsched.workload.demand import demand_of
from llmsched.workload.prefixes.prefix_ids import PrefixIds
from llmsched.workload.sessions import Turns
from llmsched.workload.trace import Trace


@dataclass(frozen=True)
class Case:
    """One run as plain data; `options` are those of the reference."""

    arrival_s: list[float]
    prompt: list[int]
    output: list[int]
    priority: list[int]
    ids: list[list[int]] | None
    blocks_per_id: int
    options: dict[str, Any]
    turns: Turns | None = None  # where requests wait for answers

    def reference(self, step: Any) -> stepping.Result:
        """What the stepping reference makes of it."""
        return stepping.run(
            self.arrival_s,
            self.prompt,
            self.output,
            step.step_s,
            stepping.Options(**self.options),
            priority=self.priority,
            block_ids=self._block_ids(),
            demand=None if self.turns is None else demand_of(self.trace),
        )

    def _block_ids(self) -> list[list[tuple[int, int]]] | None:
        """The ids of full prompt blocks: an id stands for several blocks, the last ones cut off."""
        if self.ids is None:
            return None
        block = self.options["block_tokens"]
        return [
            [(i, part) for i in row for part in range(self.blocks_per_id)][: prompt // block]
            for row, prompt in zip(self.ids, self.prompt, strict=True)
        ]

    @property
    def settings(self) -> IterationSettings:
        """The same options for the engine."""
        o = self.options
        return IterationSettings(
            kv_tokens=o["usable_blocks"] * o["block_tokens"],
            block_tokens=o["block_tokens"],
            max_running=o["max_num_seqs"],
            step_tokens=o["max_num_batched_tokens"],
            depth=o["depth"],
            prefill=o["prefill"],
            prefix_caching=o["prefix_caching"],
            full_sequence_check=o["full_sequence_check"],
            watermark_blocks=o["watermark_blocks"],
            long_prefill_tokens=o["long_prefill_token_threshold"],
            max_model_len=o["max_model_len"],
            overhead_s=o["overhead_s"],
            per_request_s=o["per_request_s"],
        )

    @property
    def trace(self) -> Trace:
        ids = None
        if self.ids is not None:
            tokens = self.blocks_per_id * self.options["block_tokens"]
            ids = PrefixIds.of(self.ids, tokens_per_id=tokens)
        return Trace(
            arrival_s=np.array(self.arrival_s),
            prompt_tokens=np.array(self.prompt, np.int32),
            output_tokens=np.array(self.output, np.int32),
            priority=np.array(self.priority, np.int32),
            prefix_ids=ids,
            turns=self.turns,
        )

    def _limit(self) -> DynamicLimit:
        settings = self.settings
        return DynamicLimit.of(
            capacity_tokens=settings.usable_blocks * settings.block_tokens,
            batch_max=settings.max_running,
            tpot_sla_s=self.options["d_sla_s"],
        )

    def engine(self, step: Any, **more: Any) -> IterationRun:
        """What the engine makes of it."""
        o = self.options
        return run_iteration_engine(
            self.trace,
            self.settings,
            step,
            scheduler=IterationScheduler(
                by_priority if o["order"] == "priority" else Fcfs,
                self._limit if o["limits"] else None,
            ),
            n_replicas=o["replicas"],
            router=RoundRobinRouter if o["router"] == "round_robin" else LeastOutstanding,
            **more,
        )


def random_case(seed: int, *, limits: bool = False) -> Case:
    """The case of a seed; with `limits`, the batch limits of Pang et al. are on."""
    r = random.Random(seed)
    n = r.choice([5, 20, 60, 150])
    block = r.choice([16, 16, 16, 16, 4, 1, 7])
    blocks = r.randint(30, 400)
    budget = r.choice([64, 100, 256, 512, 2048] if r.random() < 0.85 else [1, 3, 8, 20])
    first = r.random() < 0.25
    arrival_s = _arrivals(r, n, rate_per_s=r.choice([0.5, 2, 5, 20, 100, 1000]))
    prompt_mean, output_mean = r.choice([10, 60, 200]), r.choice([1, 5, 30, 120])
    prompt, output = [], []
    for _ in range(n):
        tokens = max(1, int(r.expovariate(1 / prompt_mean)))
        if r.random() < 0.15:
            tokens = block * r.randint(1, 8)
        if r.random() < 0.05:
            tokens = budget + r.randint(0, 100)
        prompt.append(tokens)
        output.append(1 if r.random() < 0.1 else max(1, int(r.expovariate(1 / output_mean))))
    chosen = r.choice([("memory",), ("memory", "sla")]) if limits else ()
    options = {
        "usable_blocks": blocks,
        "block_tokens": block,
        "max_num_seqs": r.choice([1, 2, 4, 8, 16, 32, 64, 256]),
        "max_num_batched_tokens": budget,
        "depth": 1 if first else r.choice([1, 2, 2]),
        "prefill": "first" if first else "chunked",
        "order": r.choice(["fcfs", "fcfs", "priority"]),
        "full_sequence_check": r.random() < 0.7,
        "watermark_blocks": r.choice([0, 0, 1, 5]),
        "long_prefill_token_threshold": r.choice([0, 0, 0, 7, 32]),
        "max_model_len": r.choice([None, None, 150]),
        "prefix_caching": r.random() < 0.5,
        "overhead_s": r.choice([0, 1e-3]),
        "per_request_s": r.choice([0, 1e-5]),
        "replicas": r.choice([1, 1, 1, 2, 3]),
        "router": r.choice(["round_robin", "least_outstanding"]),
        "limits": frozenset(chosen),
        "d_sla_s": r.choice([0.015, 0.02, 0.025, 0.05]) if "sla" in chosen else None,
    }
    priority = [r.randint(0, 3) for _ in range(n)]
    ids, per_id = None, r.choice([1, 1, 2, 3, 8])
    if options["prefix_caching"] and r.random() < 0.7:
        ids = _shared_ids(r, [-(-tokens // (block * per_id)) for tokens in prompt], most=50)
    return Case(arrival_s, prompt, output, priority, ids, per_id, options)


def waiting_for_answers(case: Case, seed: int, pauses_s: list[float]) -> Case:
    """The same requests of users or in sessions, after pauses of which many are equal."""
    r = random.Random(seed)
    n = len(case.arrival_s)
    after = [r.randrange(i) if i and r.random() < 0.5 else -1 for i in range(n)]
    think_s = [r.choice(pauses_s) for _ in range(n)]
    arrival_s = list(case.arrival_s)
    for i, before in enumerate(after):
        if before >= 0:
            arrival_s[i] = arrival_s[before] + think_s[i]
    users = r.choice([None, 1, 2, 5, 17])
    order = sorted(range(n), key=lambda i: (arrival_s[i], i))
    row = {old: new for new, old in enumerate(order)}
    turns = Turns(
        after=np.array([row.get(after[i], -1) for i in order], np.int32),
        think_s=np.array([think_s[i] for i in order]),
        users=users,
    )
    # only arrivals move: each row keeps its request, so that prefix ids need not
    return replace(case, arrival_s=[arrival_s[i] for i in order], turns=turns)


def tiny_case(seed: int) -> Case:
    """A few requests of a few tokens in a few small blocks: every corner is near."""
    r = random.Random(seed)
    n, block = r.randint(2, 5), r.choice([1, 2, 2, 3, 4])
    first = r.random() < 0.2
    limits = r.choice([(), (), ("memory",), ("memory", "sla")])
    options = {
        "usable_blocks": r.randint(3, 9),
        "block_tokens": block,
        "max_num_seqs": r.choice([1, 2, 3, 9]),
        "max_num_batched_tokens": r.choice([1, 2, 3, 4, 6, 12, 99]),
        "depth": 1 if first else r.choice([1, 2, 2]),
        "prefill": "first" if first else "chunked",
        "order": r.choice(["fcfs", "fcfs", "priority"]),
        "full_sequence_check": r.random() < 0.5,
        "watermark_blocks": r.choice([0, 0, 1]),
        "long_prefill_token_threshold": r.choice([0, 0, 1, 2, 3]),
        "max_model_len": None,
        "prefix_caching": r.random() < 0.7,
        "overhead_s": 0.0,
        "per_request_s": 0.0,
        "replicas": r.choice([1, 1, 2]),
        "router": r.choice(["round_robin", "least_outstanding"]),
        "limits": frozenset(limits),
        "d_sla_s": 0.02 if "sla" in limits else None,
    }
    prompt = [r.randint(1, 3 * block + 2) for _ in range(n)]
    per_id = r.choice([1, 1, 2, 3])
    ids = None
    if options["prefix_caching"] and r.random() < 0.7:
        ids = _shared_ids(r, [-(-tokens // (block * per_id)) for tokens in prompt], most=2)
    return Case(
        [float(at) for at in sorted(r.choice([0, 0, 0.02, 0.05, 0.1]) for _ in range(n))],
        prompt,
        [r.randint(1, 12) for _ in range(n)],
        [r.randint(0, 1) for _ in range(n)],
        ids,
        per_id,
        options,
    )


def _arrivals(r: random.Random, n: int, *, rate_per_s: float) -> list[float]:
    """Arrivals of which a fifth tie with the one before, and some are round."""
    now_s, arrivals = 0.0, []
    for _ in range(n):
        if r.random() > 0.2:
            now_s += r.expovariate(rate_per_s)
        if r.random() < 0.1:
            now_s = max(round(now_s, 2), arrivals[-1] if arrivals else 0.0)
        arrivals.append(now_s)
    return arrivals


def _shared_ids(r: random.Random, lengths: list[int], *, most: int) -> list[list[int]]:
    """Ids of which the first ones come from a few common texts; some rows stop early."""
    texts = [[r.randint(0, most) for _ in range(2048)] for _ in range(r.choice([1, 3, 10]))]
    rows = []
    for length in lengths:
        row = r.choice(texts)[: r.randint(0, length)]
        row += [1000 + r.randint(0, 10**6) for _ in range(length - len(row))]
        rows.append(row[: r.randint(0, len(row))] if r.random() < 0.3 else row)
    return rows
