"""The stress plan's report: one file, everything in it, nothing from outside, the same bytes."""

from __future__ import annotations

import base64
import html
import json
import math
import re
import shutil
import struct
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import plan_scenario
from llmsched import Workload
from llmsched.metrics.load import LABEL_RULE
from llmsched.simulation.sweep.sweep import RunConfig, sweep
from llmsched.studies.stress.html import MISSING, Markup, element, escaped, interval, number, table
from llmsched.studies.stress.plan import Plan
from llmsched.studies.stress.report import html_report, write_report
from llmsched.studies.stress.step_results import StepFigure, StepResult, StressResult

ATTACK = "<script>alert(1)</script>.csv"
VOID = {"meta", "link", "img", "br", "hr"}  # elements without an end tag
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def one_figure(text: str = "a figure"):
    import plotnine as p9

    points = pd.DataFrame({"x": [1, 2, 3], "y": [2.0, 1.0, 4.0]})
    return p9.ggplot(points, p9.aes("x", "y")) + p9.geom_point() + p9.labs(title=text)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> pd.DataFrame:
    """Eight small runs, two of which fail: a predictor of output bins cannot bin by totals."""
    from llmsched import Binning

    workload = Workload(requests=60)
    configs = [
        RunConfig(workload=workload, scheduler=scheduler, n_gpus=n_gpus, seed=seed)
        for scheduler in ("static_fifo", "multi_bin_dynamic")
        for n_gpus in (1, 2)
        for seed in (0, 1)
    ]
    broken = [
        replace(config, predictor="bin-error:0.1", binning=Binning(by="total"))
        if config.scheduler == "multi_bin_dynamic" and config.hardware.n_gpus == 2
        else config
        for config in configs
    ]
    frame = sweep(broken, tmp_path_factory.mktemp("runs"), jobs=1)
    return frame.assign(
        requests_asked=60,
        n_bins=[4.0 if name == "multi_bin_dynamic" else 1.0 for name in frame["scheduler"]],
        target_load=math.nan,
    )


SUMMARY = [  # scheduler, GPUs, K, ρ, label, n, {metric: (mean, low, high)}
    (
        *("static_fifo", 1.0, 1.0, 3.25, "overloaded", 2),
        {"sla_violation_rate": (0.9, 0.88, 0.92), "latency_mean_s": (1234.5, 1230.0, 1239.0)},
    ),
    (
        *("multi_bin_dynamic", 1.0, 4.0, 0.61, "stable", 2),
        {"sla_violation_rate": (0.25, 0.25, 0.25), "padding_waste": (0.5, math.nan, math.nan)},
    ),
]
ON_ONE_GPU = ("multi_bin_dynamic, 1 GPU", "static_fifo")  # what, against
DIFFERENCES = [
    (*ON_ONE_GPU, "goodput_rps", 2.0, 1.0, 3.0, "larger than the noise"),
    (*ON_ONE_GPU, "throughput_rps", 0.5, -1.0, 2.0, "within the noise"),
    (*ON_ONE_GPU, "rejected", 0.0, 0.0, 0.0, "equal"),
]


def step(runs: pd.DataFrame, name: str = "step1", **changes) -> StepResult:
    rows = [
        {
            "scheduler": scheduler,
            "n_gpus": n_gpus,
            "requests": 60,
            "n_bins": n_bins,
            "metric": metric,
            "mean": mean,
            "low": low,
            "high": high,
            "n": n,
            "target_load": math.nan,
            "offered_load": rho,
            "load_label": label,
            "n_label": n,
        }
        for scheduler, n_gpus, n_bins, rho, label, n, metrics in SUMMARY
        for metric, (mean, low, high) in metrics.items()
    ]
    columns = ["what", "against", "metric", "mean", "low", "high", "verdict"]
    given = StepResult(
        name=name,
        title=f"Request scaling of {name}",
        runs=runs,
        summary=pd.DataFrame(rows),
        differences=pd.DataFrame(DIFFERENCES, columns=columns),
        statements=("Violations fall from 90 % to 25 % <on one GPU>.",),
        figures={
            "violations": StepFigure("Violations & their intervals", one_figure),
            "latency": StepFigure("Latency", lambda: one_figure("another")),
        },
    )
    return replace(given, **changes)


def result(*steps: StepResult, **plan) -> StressResult:
    return StressResult(
        plan=Plan(**{"base": plan_scenario(seed=3), "replications": 2} | plan),
        steps=steps,
        command='llmsched stress all --out "out & more"',
        versions={"llmsched": "0.0.1", "python": "3.11.9", "numpy": "2.1", "simpy": "4.1"},
    )


@pytest.fixture(scope="module")
def page(runs) -> str:
    return html_report(result(step(runs), step(runs, "step2", title="GPU scaling")))


class Page(HTMLParser):
    """What a page is made of, and whether its tags balance."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.alts: list[str] = []
        self.cells: list[list[list[str]]] = []  # table, row, cell
        self.classes: Counter[str] = Counter()
        self.feed(page)
        self.close()
        self.faults += [f"<{tag}> never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if len(given) != len(attrs):
            self.faults.append(f"<{tag}> repeats an attribute")
        self.tags[tag] += 1
        self.classes.update((given.get("class") or "").split())
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.sources += [given["src"]] if "src" in given else []
        self.alts += [given["alt"]] if tag == "img" else []
        if tag == "table":
            self.cells.append([])
        if tag == "tr":
            self.cells[-1].append([])
        if tag in ("td", "th"):
            self.cells[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> does not match")

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.cells[-1][-1][-1] += data

    def table(self, title: str) -> list[list[str]]:
        """The first table one of whose columns has this title, head included."""
        return next(rows for rows in self.cells if title in rows[0])


# Numbers


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((32118.94, 32100.0, 32137.88), "32,119 ± 19"),
        ((0.99783, 0.99763, 0.99803), "0.9978 ± 0.0002"),
        ((0.5, -4.5, 5.5), "0.500 ± 5.000"),  # the interval is what there is to see
        ((1.0, 0.99999, 1.00001), "1.000 ± <0.001"),
        ((0.0, 0.0, 0.0), "0 ± 0"),
        ((7.25, math.nan, math.nan), "7.250"),
        ((math.nan, math.nan, math.nan), MISSING),
        ((1e-9, 0.0, 2e-9), "1e-09 ± 1e-09"),
    ],
)
def test_interval__has_four_digits_and_half_its_width_in_the_same_decimals(given, text):
    assert interval(*given) == text


def test_number__with_a_sign_is_plus_or_minus_and_zero_is_neither():
    signed = [number(value, sign=True) for value in (2.5, -2.5, 0.0, -0.0)]
    assert signed == ["+2.500", "−2.500", "0", "0"]
    assert [number(value) for value in (4.0, math.inf, None)] == ["4", "∞", MISSING]


def test_interval__of_a_minus_that_rounds_away_shows_no_minus():
    assert interval(-0.00001, -0.9, 0.9, sign=True) == "0.0000 ± 0.9000"


# Markup


def test_element__escapes_text_and_attributes_but_not_markup():
    inner = element("b", "<i>")
    assert element("p", "a & b", inner, title='"x"') == (
        '<p title="&quot;x&quot;">a &amp; b<b>&lt;i&gt;</b></p>'
    )
    assert escaped(Markup("<i>")) == "<i>"


def test_table__sets_numbers_to_the_right_and_nothing_else():
    markup = table(["a", "b"], [["x", "1.5 ± 0.2"], ["y", "≈ −3"], ["z", "12 rows"]], label="t")
    assert [cell.count('class="number"') for cell in markup.split("<tr>")] == [0, 0, 1, 1, 0]


# The page


def test_report__is_well_formed_with_unique_ids_and_links_that_lead_somewhere(page):
    found = Page(page)
    assert found.faults == []
    assert len(set(found.ids)) == len(found.ids)
    inside = [link for link in found.links if link.startswith("#")]
    assert len(inside) >= 7
    assert {link[1:] for link in inside} <= set(found.ids)


def test_report__asks_for_nothing_outside_itself(page):
    found = Page(page)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert found.tags["script"] == 0
    assert all(link.startswith("#") or link == "data:," for link in found.links)
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page


def test_report__holds_every_figure_with_its_caption_as_alternative_text(page):
    found = Page(page)
    assert found.alts == ["Violations & their intervals", "Latency"] * 2
    pictures = [base64.b64decode(source.partition(",")[2]) for source in found.sources]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert all(picture.endswith(b"IEND\xaeB`\x82") for picture in pictures)  # and whole
    assert min(struct.unpack(">II", pictures[0][16:24])) > 200  # pixels each way
    assert pictures[0] != pictures[1]


def test_report__states_load_and_label_at_every_point(page):
    rows = Page(page).table("ρ")
    assert rows[0][:5] == ["scheduler", "bins\u00a0K", "ρ", "load", "violations [%]"]
    assert rows[1][:5] == ["static_fifo", "1", "3.25", "overloaded", "90.00 ± 2.00"]
    assert rows[2][:5] == ["multi_bin_dynamic", "4", "0.61", "stable", "25.00 ± 0"]
    assert rows[1][5] == "1,234 ± 4"  # 1234.5 ± 4.5: halves to even
    assert rows[2][5] == MISSING  # no mean latency was given there
    assert "GPUs 1, requests 60." in page  # what all points share


def test_report__shows_metrics_it_does_not_know_by_their_names(page):
    rows = Page(page).table("padding waste")
    assert rows[2][-2:] == ["0.5000", "2"]


def test_report__says_what_is_significant_and_what_is_not(page):
    rows = Page(page).table("less")
    assert rows[0] == ["what", "less", "goodput [req/s]", "throughput [req/s]", "rejected"]
    assert rows[1][2:] == ["+2.000 ± 1.000", "≈ +0.500 ± 1.500", "equal"]
    assert "<strong>+2.000 ± 1.000</strong>" in page
    assert "1 of 3 differences are larger than the noise" in page


def test_report__lists_failed_runs_with_their_errors(page, runs):
    rows = Page(page).table("error")
    error = runs.loc[runs["status"] == "failed", "error"].iloc[0]
    assert [row[:5] for row in rows[1:]] == [
        ["multi_bin_dynamic", "2", "60", "4", "0"],
        ["multi_bin_dynamic", "2", "60", "4", "1"],
    ]
    assert rows[1][5] == error
    assert Page(page).table("step")[1][1:6] == ["6", "2", "1", "0", "1"]


def test_report__says_how_it_was_made(page, runs):
    facts = {row[0]: row[1] for row in Page(page).table("value")[1:]}
    assert "<code>llmsched stress all --out &quot;out &amp; more&quot;</code>" in page
    assert facts["versions"] == "llmsched 0.0.1, python 3.11.9, numpy 2.1, simpy 4.1"
    assert facts["latency model"].startswith("reference (formula): T = 15 ms")
    assert facts["seeds"] == "3, 4"
    assert facts["workload"] == "burstgpt-like (synthetic profile)"
    assert html.escape(LABEL_RULE) in page
    for checksum in runs.loc[runs["status"] == "done", "trace_sha256"].unique():
        assert len(checksum) == 64
        assert page.count(checksum) == 1


def test_report__has_every_setting_of_the_plan(runs):
    page = html_report(result(step(runs), target_violations=0.125, bins=(1, 7)))
    settings = {row[0]: row[1] for row in Page(page).table("field")[1:]}
    assert settings["target_violations"] == "0.125"
    assert settings["bins"] == "1, 7"
    assert settings["slo_latency_s"] == "1"


def test_report__counts_the_notes_of_the_runs(runs):
    noted = runs.assign(notes=[np.array(["lengths <tie>"])] * 3 + [None] * 5)
    assert "lengths &lt;tie&gt; (3 runs)" in html_report(result(step(noted)))


def test_report__escapes_whatever_a_user_named(runs):
    # given a trace file, a scheduler, an error, a caption and a command that are scripts
    hostile = step(
        runs.assign(error=ATTACK, trace=ATTACK, scheduler=ATTACK, latency_description=ATTACK),
        title=ATTACK,
        statements=(ATTACK,),
        figures={ATTACK: StepFigure(f'"><{ATTACK}', one_figure)},
    )
    hostile = replace(
        hostile,
        summary=hostile.summary.assign(scheduler=ATTACK, metric=ATTACK, load_label=ATTACK),
        differences=hostile.differences.assign(what=ATTACK, against=ATTACK, metric=ATTACK),
    )
    given = result(hostile, base=plan_scenario(workload=Workload(source=ATTACK)))
    page = html_report(replace(given, command=ATTACK, versions={ATTACK: ATTACK}))
    # then none of them is one any more
    found = Page(page)
    assert found.tags["script"] == 0
    assert found.faults == []
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;.csv") > 15


def test_report__of_a_step_without_a_finished_run_says_so(runs):
    failed = runs[runs["status"] == "failed"]
    bare = step(runs)
    empty = replace(
        bare, runs=failed, summary=bare.summary[:0], differences=bare.differences[:0], figures={}
    )
    page = html_report(result(empty))
    assert "No point has a finished run." in page
    assert "reference: no run is done" in page
    assert Page(page).faults == []


def test_report__of_the_same_results_is_the_same_bytes(runs, tmp_path):
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    write_report(result(step(runs)), first)
    slower = runs.assign(wall_s=runs["wall_s"] + 1)  # took longer: not in the report
    write_report(result(step(slower)), second)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 5_000_000


def test_write_report__that_fails_leaves_the_old_one(runs, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")

    def broken():
        raise RuntimeError("no plot")

    bad = step(runs, figures={"bad": StepFigure("bad", broken)})
    with pytest.raises(RuntimeError, match="no plot"):
        write_report(result(bad), path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_write_report__where_no_file_can_be_put_says_so_before_drawing(runs, tmp_path):
    def never():
        raise AssertionError("drawn")

    bad = step(runs, figures={"never": StepFigure("never", never)})
    with pytest.raises(ValueError, match="the report must not be a folder"):
        write_report(result(bad), tmp_path)


# In a browser

PROBE = """<script>
addEventListener("load", () => {
  const root = document.documentElement, seen = document.createElement("pre");
  seen.id = "probe";
  seen.textContent = JSON.stringify({
    widths: [...document.images].map(image => image.naturalWidth),
    shown: [...document.images].map(image => image.getBoundingClientRect().height),
    overflow: root.scrollWidth - root.clientWidth,
    loaded: performance.getEntriesByType("resource").map(entry => entry.name)
      .filter(name => !name.startsWith("data:")),
    contents: getComputedStyle(document.querySelector("nav")).position,
  });
  document.body.append(seen);
});
</script></body>"""


def in_chromium(path: Path, width: int) -> tuple[str, str]:
    """The page's DOM after loading, and what the browser logged of the page."""
    assert CHROMIUM is not None
    flags = (
        "--headless --no-sandbox --disable-gpu --enable-logging=stderr --v=0 --dump-dom "
        f"--virtual-time-budget=5000 --window-size={width},2000"
    )
    profile = path.with_suffix(f".{width}.profile")
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, "\n".join(console)


chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="THE REPORT WAS OPENED IN NO BROWSER: chromium is not installed"
)


@chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 500])
def test_report__opens_in_chromium_with_every_figure_and_no_error(page, tmp_path, width):
    # given the page as it is, and once more with a probe that its policy would refuse
    plain, probed = tmp_path / "plain.html", tmp_path / "probed.html"
    plain.write_text(page, encoding="utf-8")
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert policy.search(page)
    probed.write_text(policy.sub("", page).replace("</body>", PROBE), encoding="utf-8")
    # when a browser opens both
    _, console = in_chromium(plain, width)
    dom, _ = in_chromium(probed, width)
    # then it complains of nothing, shows all, and nothing is wider than the window
    assert console == ""
    text = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert text is not None
    seen = json.loads(html.unescape(text.group(1)))
    assert len(seen["widths"]) == 4
    assert min(seen["widths"]) > 200
    assert min(seen["shown"]) > 100
    assert seen["loaded"] == []
    assert seen["contents"] == "sticky"
    assert seen["overflow"] <= 0


@chromium
@pytest.mark.slow
def test_report__refuses_scripts_and_requests_even_if_there_were_some(page, tmp_path):
    # given a page into which both have found their way
    path = tmp_path / "injected.html"
    both = '<script>document.title = "taken"</script><img src="other.png">'
    path.write_text(page.replace("</main>", f"{both}</main>"), encoding="utf-8")
    # then its policy stops both, and the console says so (so the test above would see an error)
    dom, console = in_chromium(path, 1200)
    assert "<title>taken</title>" not in dom
    assert "script-src" in console
    assert "img-src" in console
