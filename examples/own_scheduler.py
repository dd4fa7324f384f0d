# %% [markdown]
# # A scheduler of your own
#
# It answers one question: which waiting requests are served next? It sees counts and predictions,
# never a true length.

# %%
from llmsched import Settings, Workload, simulate
from llmsched.schedulers.base import FinishedBatch, Selection, WaitingView


class NewestFirst:
    """A stack of the waiting requests."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.stack: list[int] = []

    def next_batch(self, waiting: WaitingView, now_s: float) -> Selection | None:
        self.stack += waiting.arrived.column("request").tolist()
        batch, self.stack = self.stack[-self.size :], self.stack[: -self.size]
        return Selection(batch) if batch else None

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """A feedback controller would learn here."""


def newest_first(settings: Settings) -> NewestFirst:
    return NewestFirst(settings.batch_size or 8)


# %% [markdown]
# ## Against first come, first served
#
# The same requests, the same GPUs. The newest first serves the median sooner and the tail later.

# %%
workload = Workload(source="poisson", requests=2000, rps_scale=8.0)
for scheduler in ("static_fifo", newest_first):
    run = simulate(workload, scheduler, latency="h100-llama-3-8b-vllm", n_gpus=2, slo=10.0)
    print(run)
    print(f"  p50 {run.metrics.latency_p50_s:.2f} s, p99 {run.metrics.latency_p99_s:.1f} s")
