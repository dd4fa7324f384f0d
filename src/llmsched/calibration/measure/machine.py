"""What a measurement ran on: processor, GPU with its clocks, library versions. No host names."""

from __future__ import annotations

import csv
import os
import platform
import sys
from pathlib import Path
from typing import Any

from llmsched.calibration.measure.model import TimedModel, usable_cpus
from llmsched.calibration.measure.torch_library import libraries

_GPU_STATE = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "temperature.gpu",
    "power.draw",
    "power.limit",
    "utilization.gpu",
    "memory.used",
    "persistence_mode",
)
_NVIDIA_SMI_S = 30.0


def versions() -> dict[str, str]:
    """Of everything that a time may depend on."""
    import numpy as np

    import llmsched

    torch, transformers = libraries()
    return {
        "llmsched": llmsched.__version__,
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cuda": str(torch.version.cuda),
    }


def device_facts(model: TimedModel) -> dict[str, Any]:
    """What the model runs on, as far as it stays the same from one start to the next."""
    torch, _ = libraries()
    facts: dict[str, Any] = {
        "device": model.device,
        "dtype": model.dtype,
        "cpu": cpu_model(),
        "cpus_usable": usable_cpus(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if model.device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": gpu.name,
            "gpu_memory_bytes": int(gpu.total_memory),
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        }
    return facts


def device_state(model: TimedModel) -> dict[str, Any]:
    """What changes while measuring: clocks and temperature of a GPU, load of a CPU."""
    if model.device == "cuda":
        return _gpu_state()
    if os.name != "posix":
        return {}
    one_minute, five_minutes, _ = os.getloadavg()
    return {
        "load_1_min": round(one_minute, 2),
        "load_5_min": round(five_minutes, 2),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
    }


def process_peak_memory_bytes() -> int | None:
    """Most memory that this process ever held; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None  # not on Windows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _gpu_state() -> dict[str, Any]:
    """What nvidia-smi says of the GPU in use, units as it gives them; else why it says nothing."""
    import subprocess

    torch, _ = libraries()
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    if uuid is None:
        return {"unknown": f"torch {torch.__version__} does not name the GPU in use"}
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_STATE)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            [*command, "-i", f"GPU-{str(uuid).removeprefix('GPU-')}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_NVIDIA_SMI_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"unknown": f"nvidia-smi did not run: {type(error).__name__}"}
    if done.returncode:
        return {"unknown": " ".join(f"nvidia-smi: {done.stdout} {done.stderr}".split())[:200]}
    values = next(csv.reader(done.stdout.splitlines(), skipinitialspace=True), [])
    return dict(zip(_GPU_STATE, values, strict=False))
