# %% [markdown]
# # What a run holds
#
# One row per request, one per batch, and every figure of merit with its unit.

# %%
from llmsched import Workload, simulate

run = simulate(
    Workload(source="poisson", requests=1000, rps_scale=6.0),
    "multi_bin_dynamic",
    latency="h100-llama-3-8b-vllm",
    n_gpus=2,
    slo=10.0,
)
print(run)

# %%
requests = run.requests.to_frame()
print(requests.head(3).to_string())

# %% [markdown]
# ## Who waits?
#
# A bin is a class of requests by predicted length. All hold as many; the longest wait longest.

# %%
requests["latency_s"] = requests["finish_s"] - requests["arrival_s"]
print(requests.groupby("bin")["latency_s"].describe().round(2).to_string())

# %% [markdown]
# ## Batches

# %%
batches = run.batches.to_frame()
print(batches["size"].value_counts().sort_index().to_string())

# %% [markdown]
# ## Every figure of merit

# %%
print(run.to_frame()[["metric", "value", "unit"]].to_string(index=False))
run.plot().save("run.png", verbose=False)
