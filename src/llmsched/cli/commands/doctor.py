"""`llmsched doctor`: whether this installation can do what it is for."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import click

from llmsched.cli.command import print_json
from llmsched.cli.errors import FAILED, OneLineErrors

State = Literal["ok", "missing", "broken"]
LEAST_PYTHON = (3, 11)
WORDS: dict[State, str] = {"ok": "ok", "missing": "not there", "broken": "BROKEN"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; only what is broken makes the command fail."""

    name: str
    state: State
    found: str


@click.command(cls=OneLineErrors)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Look at versions, extras, data, GPUs and folders; exit code 1 if something is broken.

    \b
    Example: llmsched doctor
    """
    checks = [*_python(), *_packages(), *_data(), *_gpus(), *_folders()]
    broken = [one for one in checks if one.state == "broken"]
    if as_json:
        rows = [{"name": one.name, "state": one.state, "found": one.found} for one in checks]
        print_json({"in_order": not broken, "checks": rows})
    else:
        wide = max(len(one.name) for one in checks)
        for one in checks:
            click.echo(f"{WORDS[one.state]:9}  {one.name.ljust(wide)}  {one.found}")
        click.echo(
            f"\n{len(broken)} broken: {', '.join(one.name for one in broken)}."
            if broken
            else "\nAll in order; what is not there is optional."
        )
    if broken:
        raise click.exceptions.Exit(FAILED)


def _python() -> Iterator[Check]:
    from llmsched import __version__

    where = Path(__file__).parents[2]
    yield Check("llmsched", "ok", f"{__version__} in {where}")
    fits = sys.version_info >= LEAST_PYTHON
    told = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Check("python", "ok" if fits else "broken", told if fits else f"{told}; needs 3.11")


def _packages() -> Iterator[Check]:
    """Every dependency, and the packages of the extras that a user may want."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("llmsched") or []
    except metadata.PackageNotFoundError:
        hint = "no metadata: install it (pip install .), or its packages are not checked"
        yield Check("packages", "missing", hint)
        return
    for line in sorted(lines):
        needed = Requirement(line)
        extra = next((x for x in ("calibrate", "ray") if _wanted_by(needed, x)), None)
        if extra is None and needed.marker is not None and not needed.marker.evaluate():
            continue
        name = needed.name if extra is None else f"{needed.name} [{extra}]"
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            state: State = "broken" if extra is None else "missing"
            hint = "" if extra is None else f"; pip install 'llmsched[{extra}]' brings it"
            yield Check(name, state, f"{needed.specifier or 'any'} is needed{hint}")
            continue
        fits = needed.specifier.contains(version, prereleases=True)
        told = version if fits else f"{version}, but {needed.specifier} is needed"
        yield Check(name, "ok" if fits else "broken", told)


def _wanted_by(needed: object, extra: str) -> bool:
    marker = getattr(needed, "marker", None)
    return marker is not None and not marker.evaluate() and marker.evaluate({"extra": extra})


def _data() -> Iterator[Check]:
    """The data that the wheel brings: it loads, and a run on it works."""
    from llmsched.latency.registry import load_latency, measured_names
    from llmsched.simulation.simulate import simulate
    from llmsched.workload.workload import Workload

    try:
        sets = [load_latency(name) for name in measured_names()]
        yield Check("measured sets", "ok" if sets else "broken", f"{len(sets)}")
        workload = Workload(source="poisson", requests=50)
        run = simulate(workload, "multi_bin_dynamic", latency="reference")
        yield Check("a small run", "ok", f"{run.metrics.completed} requests served")
    except Exception as error:  # whatever it is, it is what the user must see
        yield Check("a small run", "broken", f"{type(error).__name__}: {error}")


def _gpus() -> Iterator[Check]:
    """GPUs, as the driver lists them: torch would take seconds to say so."""
    driver = shutil.which("nvidia-smi")
    if driver is None:
        yield Check("GPU", "missing", "no nvidia-smi: `calibrate measure` runs on the CPU")
        return
    try:
        done = subprocess.run([driver, "-L"], capture_output=True, text=True, timeout=20)
        lines = done.stdout.split("\n") if done.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    names = [line.partition(" (UUID")[0] for line in lines if line.startswith("GPU")]
    yield Check("GPU", "ok" if names else "missing", ", ".join(names) or "nvidia-smi lists none")


def _folders() -> Iterator[Check]:
    """Where traces are kept, and where results go."""
    from platformdirs import user_cache_path

    cache = user_cache_path("llmsched")
    parents = [place for place in (cache, *cache.parents) if place.is_dir()]
    yield _writable("cache folder", cache, parents[0])
    yield _writable("this folder", Path.cwd(), Path.cwd())


def _writable(name: str, place: Path, there: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=there):
            return Check(name, "ok", f"{place} can be written")
    except OSError as error:
        return Check(name, "broken", f"{place} cannot be written: {error.strerror}")
