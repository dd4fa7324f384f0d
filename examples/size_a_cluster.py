# %% [markdown]
# # Size a cluster from a log
#
# A log with odd columns, an H100, and a target: 95 % of the requests within 10 s.

# %%
from llmsched import Workload, compare, read_trace, simulate

log = read_trace("log.csv", columns="arrival=t0,prompt=n_in,output=n_out", time_unit="s")
print(len(log), "requests,", round(float(log.arrival_s[-1])), "s")

# %% [markdown]
# ## Which scheduler?
#
# All see the same requests. What is random is repeated, and differences are paired.

# %%
result = compare(
    log,
    ["static_fifo", "multi_bin_dynamic"],
    latency="h100-llama-3-8b-vllm",
    n_gpus=4,
    slo=10.0,
    replications=3,
)
print(result)

# %% [markdown]
# The paired differences, and the drawing:

# %%
print(result.differences_frame()[["scheduler", "metric", "verdict"]].to_string(index=False))
result.plot().save("compare.png", verbose=False)

# %% [markdown]
# ## And with continuous batching?
#
# Ten times the traffic, on one to three replicas.

# %%
busy = Workload(
    source="log.csv",
    columns="arrival=t0,prompt=n_in,output=n_out",
    time_unit="s",
    rps_scale=10.0,
)
for n_gpus in (1, 2, 3):
    run = simulate(
        busy, "continuous_static", step_time="h100-llama-3-8b-vllm", n_gpus=n_gpus, slo=10.0
    )
    print(run)
