"""What users get: the wheel of the sdist, in a clean environment outside of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def done(*line: str | Path, cwd: Path) -> str:
    """What a process prints, which must succeed; it knows nothing of the checkout."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    ended = subprocess.run(
        [*map(str, line)], cwd=cwd, env=clean, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the sdist of this checkout; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    assert (source / "README.md").is_file()
    assert not list(source.rglob("*.pyc"))
    done(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("clean")
    done(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", "--python", python)
    done(*pip, "install", *offline, wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # a path in a .pth file is not searched for .pth files: no editable install comes along
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def test_wheel__holds_the_package_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"llmsched", "llmsched_command.py"}
    assert "llmsched/py.typed" in names
    assert any(name.startswith("llmsched/data/calibration/") for name in names)
    assert any(name.startswith("llmsched/data/workloads/") for name in names)
    data = [name for name in names if name.startswith("llmsched/data/")]
    assert {Path(name).suffix for name in data} <= {".csv", ".json", ".toml"}


def test_command__runs_where_only_the_wheel_is(environment, tmp_path):
    command = environment / "bin" / "llmsched"
    told = json.loads(done(command, "doctor", "--json", cwd=tmp_path))
    assert told["in_order"], told
    where = {one["name"]: one["found"] for one in told["checks"]}["llmsched"]
    assert str(environment) in where
    line = ("compare", "--requests", "200", "--seeds", "2", "--latency", "h100-llama-3-8b-vllm")
    found = json.loads(done(command, *line, "--json", "--quiet", cwd=tmp_path))
    assert len(found["schedulers"]) == 3


def test_python__finds_the_public_names(environment, tmp_path):
    code = "import llmsched; print(llmsched.simulate('poisson', 'static_fifo').metrics.completed)"
    python = environment / "bin" / "python"
    assert done(python, "-I", "-W", "ignore", "-c", code, cwd=tmp_path).strip() == "10000"
