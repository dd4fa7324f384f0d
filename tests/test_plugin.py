"""A scheduler from somebody else's package: the example, and packages that are not in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from installed_package import put_package
from llmsched._util.registry import Registry
from llmsched.cli.main import main
from llmsched.schedulers.registry import SCHEDULERS, make_scheduler, static_fifo
from plan_world import in_plan

EXAMPLE = Path(__file__).parents[1] / "examples" / "shortest_bin_first"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The example, installed by pip into a folder, without any network."""
    target = tmp_path_factory.mktemp("site")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", target, EXAMPLE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def llmsched(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own that also finds the packages in `site`."""
    return subprocess.run(
        [sys.executable, "-m", "llmsched", *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_example__is_short():
    lines = (EXAMPLE / "shortest_bin_first.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 20


def test_example__is_a_command_in_the_help(installed):
    listed = llmsched(installed, "--help").stdout
    assert "  shortest-bin-first    Of package shortest-bin-first.\n" in listed
    of_command = llmsched(installed, "shortest-bin-first", "--help")
    assert "Bins by predicted length, the shortest first." in of_command.stdout
    assert "--bins" in of_command.stdout


def test_example__runs_and_does_serve_the_short_ones_first(installed):
    """On one GPU with a long backlog, a lower bin never waits behind a higher one."""
    workload = ("--requests", "200", "--gpus", "1", "--rps-scale", "100000", "--json")
    done = llmsched(installed, "shortest-bin-first", *workload)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["scheduler"], found["completed"]) == ("shortest_bin_first", 200)
    waits = [one["wait_max_s"] for one in found["per_bin"] if one["requests"]]
    assert len(waits) > 2
    assert waits == sorted(waits)


def test_example__takes_part_in_a_comparison(installed):
    asked = ("--schedulers", "static-fifo,shortest-bin-first", "--requests", "100", "--seeds", "2")
    done = llmsched(installed, "compare", *asked, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    names = [entry["scheduler"] for entry in found["schedulers"]]
    assert names == ["static_fifo", "shortest_bin_first"]
    assert {d["scheduler"] for d in found["differences"]} == {"shortest_bin_first"}


def test_example__is_gone_when_it_is_not_installed():
    assert "shortest-bin-first" not in run("--help").stdout
    assert "shortest_bin_first" not in SCHEDULERS
    assert run("shortest-bin-first").exit_code == 2


# packages that are not in order

Installer = Callable[..., None]


@pytest.fixture
def install(tmp_path, monkeypatch) -> Installer:
    """Puts a package of one module and one entry point where Python finds it."""

    def write(name: str, code: str, *, scheduler: str, attribute: str = "make") -> None:
        site = put_package(
            tmp_path, name, code, group=SCHEDULERS.group, entry=scheduler, attribute=attribute
        )
        monkeypatch.syspath_prepend(site)

    return write


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, in_plan(arguments))


def assert_refused(result: Result, *texts: str) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    for text in texts:
        assert text in lines[-1]


OURS = "from llmsched.schedulers import static_fifo as make\n"


@pytest.mark.parametrize(
    ("name", "code", "texts"),
    [
        ("lacking", "import no_such_module\n", ["ModuleNotFoundError", "no_such_module"]),
        ("garbled", "def make(:\n", ["SyntaxError"]),
        ("failing", "1 / 0\n", ["ZeroDivisionError"]),
        ("nameless", "other = 1\n", ["AttributeError", "make"]),
        ("lifeless", "make = 3\n", ["must name a callable as module:function"]),
    ],
)
def test_package__that_cannot_be_loaded_is_one_line_and_disturbs_no_other(
    install, name, code, texts
):
    install(name, code, scheduler="mine")
    whose = ("scheduler 'mine' of package " + name, f"{name}:make")
    assert_refused(run("mine", "--requests", "5"), *whose, *texts)
    assert_refused(run("mine", "--help"), *whose, *texts)
    assert_refused(run("compare", "--schedulers", "static-fifo,mine"), *whose, *texts)
    with pytest.raises(ValueError, match="scheduler 'mine' of package"):
        make_scheduler("mine")
    assert f"mine                  Of package {name}." in run("--help").stdout
    assert run("static-fifo", "--requests", "5").exit_code == 0


@pytest.mark.parametrize("spelling", ["static_fifo", "static-fifo"])
def test_package__with_one_of_our_names_is_left_aside_with_a_note(install, spelling):
    before = run("static-fifo", "--requests", "20", "--json")
    install("usurper", "1 / 0\n", scheduler=spelling)
    note = "Note: scheduler 'static_fifo' is llmsched's own; that of package usurper is not used"
    after = run("static-fifo", "--requests", "20", "--json")
    assert note not in before.stderr
    assert after.stderr.count(note) == 1
    assert after.stdout == before.stdout
    compared = run("compare", "--requests", "20", "--seeds", "2")
    assert compared.exit_code == 0
    assert compared.stderr.count(note) == 1
    assert run("--help").stdout.count("static-fifo") == 1
    with pytest.warns(UserWarning, match="that of package usurper is not used"):
        assert SCHEDULERS.named("static_fifo") is static_fifo
    assert len(SCHEDULERS) == len(list(SCHEDULERS)) == len(SCHEDULERS.ours)
    assert run("dynamic-no-bins", "--requests", "20").stderr.count("usurper") == 0


def test_packages__with_the_same_name_are_refused(install):
    install("first", OURS, scheduler="mine")
    install("second", OURS, scheduler="mine")
    texts = ("must come from one installed package", "package first", "package second")
    assert_refused(run("mine"), *texts)
    assert_refused(run("compare", "--schedulers", "mine"), *texts)


@pytest.mark.parametrize("name", ["compare", "trace"])
def test_package__named_like_another_command_is_still_compared(install, name):
    install(f"called_{name}", OURS, scheduler=name)
    assert run("--help").stdout.count(f"\n  {name} ") == 1
    assert f"Usage: main {name} " in run(name, "--help").stdout
    result = run("compare", "--schedulers", name, "--requests", "20", "--seeds", "1", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["schedulers"][0]["scheduler"] == name


@pytest.mark.parametrize("spelling", ["my_own", "my-own"])
def test_package__is_found_in_either_spelling(install, spelling):
    install("speller", OURS, scheduler=spelling)
    for asked in ("my-own", "my_own"):
        alone = run(asked, "--requests", "20", "--json")
        assert json.loads(alone.stdout)["scheduler"] == spelling
        compared = run("compare", "--schedulers", asked, "--requests", "20", "--json")
        assert json.loads(compared.stdout)["schedulers"][0]["scheduler"] == spelling
    assert "  my-own " in run("--help").stdout


def test_registry__is_a_mapping_of_ours_and_theirs(install):
    registry = Registry("scheduler", "llmsched.schedulers", {"ours": static_fifo})
    assert list(registry) == ["ours"]
    install("mapped", OURS, scheduler="theirs")
    assert list(registry) == ["ours", "theirs"]
    assert len(registry) == 2
    assert registry["theirs"] is registry["ours"] is static_fifo
    assert "theirs" in registry
    assert "absent" not in registry
    assert registry.get("absent") is None
    with pytest.raises(ValueError, match="scheduler must be one of ours, theirs; got 'absent'"):
        registry.named("absent")
