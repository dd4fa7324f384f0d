"""The stress plan's report: one file, everything in it, nothing from outside, the same bytes."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import struct
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from stress_builders import MERGED

from llmsched import Workload
from llmsched.metrics.load import LABEL_RULE
from llmsched.simulation.hardware import DEFAULT_LATENCY
from llmsched.simulation.scenario import Scenario
from llmsched.studies.stress.figures import Figure, png
from llmsched.studies.stress.report import html_report, results_sha256, write_report
from llmsched.studies.stress.run import StressResult
from llmsched.studies.stress.step import StepResult

ATTACK = "<script>alert(1)</script>.csv"
VOID = {"meta", "link", "img", "br", "hr"}  # elements without an end tag
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.filterwarnings(MERGED)


@pytest.fixture(scope="module")
def picture() -> bytes:
    import plotnine as p9

    points = pd.DataFrame({"x": [1, 2, 3], "y": [2.0, 1.0, 4.0]})
    return png(Figure("", lambda: p9.ggplot(points, p9.aes("x", "y")) + p9.geom_point()))


@pytest.fixture(scope="module")
def result(done) -> StressResult:
    """Steps 1 and 2 of the tiny plan, with numbers that a test can know."""
    step1, step2, *_ = done[1].steps
    rows = {  # metric -> mean, low, high at the first point
        "sla_violation_rate": (0.9, 0.88, 0.92),
        "latency_mean_s": (1234.5, 1230.0, 1239.0),
        "padding_waste": (0.5, float("nan"), float("nan")),
    }
    summary = step1.summary.copy()
    differences = step1.differences.copy()
    for metric, ends in rows.items():
        place = summary.index[summary["metric"] == metric][0]
        summary.loc[place, ["mean", "low", "high"]] = ends
    for place, (verdict, *ends) in enumerate(
        [("larger than the noise", 2, 1, 3), ("within the noise", 2, -1, 5), ("equal", 0, 0, 0)]
    ):
        differences.loc[place, ["mean", "low", "high"]] = ends
        differences.loc[place, "verdict"] = verdict
    runs = step1.runs.copy()
    runs.loc[runs.index[:2], "status"] = "failed"
    runs.loc[runs.index[:2], "error"] = "no <luck>"
    step1 = replace(step1, runs=runs, summary=summary, differences=differences)
    return replace(done[1], steps=(step1, step2), command='llmsched stress all --model "a & b"')


def page_of(result: StressResult, picture: bytes) -> str:
    names = [name for found in result.steps for name in found.figures]
    return html_report(result, pictures=dict.fromkeys(names, picture))


@pytest.fixture(scope="module")
def page(result, picture) -> str:
    return page_of(result, picture)


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
        self.feed(page)
        self.close()
        self.faults += [f"<{tag}> never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags[tag] += 1
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
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1][-1] += data

    def table(self, *titles: str) -> list[dict[str, str]]:
        """The rows of the first table that has these columns."""
        head, *rows = next(rows for rows in self.cells if set(titles) <= set(rows[0]))
        return [dict(zip(head, row, strict=True)) for row in rows]


def test_report__is_well_formed_and_its_links_lead_somewhere(page):
    found = Page(page)
    assert found.faults == []
    assert len(set(found.ids)) == len(found.ids)
    inside = {link[1:] for link in found.links if link.startswith("#")}
    assert inside == {"step1", "step2", "made", "definitions"} == set(found.ids)


def test_report__asks_for_nothing_outside_itself(page):
    found = Page(page)
    for outside in ("http:", "https:", "@import", "url(", ' src="/'):
        assert outside not in page
    assert found.tags["script"] == 1  # its own few lines, which its policy knows by their checksum
    assert all(link.startswith("#") or link == "data:," for link in found.links)
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha25" in page


def test_report__begins_with_the_finding_and_its_picture(page, result):
    before, _, _ = page.partition("<nav")
    for found in result.steps:
        assert html.escape(found.verdict[0], quote=False) in before.replace("&#39;", "'")
    assert before.count("<img") == 1


def test_report__holds_every_figure_once_with_its_caption_as_alternative_text(page, result):
    found = Page(page)
    assert found.alts == [one.caption for step in result.steps for one in step.figures.values()]
    pictures = [base64.b64decode(source.partition(",")[2]) for source in found.sources]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert min(struct.unpack(">II", pictures[0][16:24])) > 200  # pixels each way


def test_report__states_load_and_label_at_every_point(page, result):
    row = Page(page).table("ρ", "violations [%]")[0]
    first = result.steps[0].rates.iloc[0]
    assert row["scheduler"] == "static_fifo"
    assert (row["requests"], row["GPUs"], row["bins K"]) == ("60", "1", "1")
    assert row["ρ"] == f"{first['offered_load']:.3g}"
    assert row["load"].startswith(first["load_label"])
    assert (row["violations [%]"], row["mean latency [s]"]) == ("90.0 ± 2.0", "1,234.5 ± 4.5")
    assert Page(page).table("padding waste [%]")[0]["padding waste [%]"] == "50"
    assert "All points: multi_bin_dynamic, 120 requests, 2 bins." in page  # of step 2


def test_report__says_what_is_significant_and_what_is_not(page):
    row = Page(page).table("what", "less")[0]
    assert row["what"] == "dynamic_no_bins, 1 GPU, 60 requests, 1 bin"
    assert row["less"] == "static_fifo"
    cells = list(row.values())[2:5]
    assert cells == ["+2.0 ± 1.0", "≈ +2.0 ± 3.0", "equal"]


def test_report__lists_failed_runs_with_their_errors(page):
    rows = Page(page).table("error")
    assert [(row["scheduler"], row["seed"], row["error"]) for row in rows] == [
        ("static_fifo", "0", "no <luck>"),
        ("static_fifo", "1", "no <luck>"),
    ]
    overview = Page(page).table("step", "failed")[0]
    assert (overview["runs done"], overview["failed"]) == ("30", "2")


def test_report__says_how_it_was_made(page, result):
    found = Page(page)
    assert "<code>llmsched stress all --model &#34;a &amp; b&#34;</code>" in page
    facts = {row["what"]: row["value"] for row in found.table("what", "value")}
    assert facts["latency"].startswith("reference (formula): T = 15 ms")
    assert facts["versions"] == ", ".join(f"{n} {v}" for n, v in result.versions.items())
    settings = {row["setting"]: row["value"] for row in found.table("setting")}
    assert settings["gpu_counts"] == "1, 2"
    assert settings["slo_latency_s"] == "1"
    assert str(html.escape(LABEL_RULE)) in page
    checksums = found.table("SHA-256 of the requests")
    assert {row["trace"] for row in checksums} == {"burstgpt-like"}
    assert all(len(row["SHA-256 of the requests"]) == 64 for row in checksums)


def test_report__names_the_default_latency_in_its_title(result, picture):
    plan = replace(result.plan, base=Scenario())
    page = page_of(replace(result, plan=plan, steps=result.steps[1:]), picture)
    assert f"<h1>Stress plan: burstgpt-like, {DEFAULT_LATENCY}</h1>" in page


def test_report__escapes_whatever_a_user_named(result, picture):
    # given a trace file, a scheduler, an error, a note and a command that are scripts
    step = result.steps[0]
    runs = step.runs.assign(error=ATTACK, trace=ATTACK, scheduler=ATTACK)
    runs["latency_description"] = ATTACK
    runs.attrs = {"notes": [ATTACK]}
    summary = step.summary.assign(scheduler=ATTACK, load_label=ATTACK)
    differences = step.differences.assign(what=ATTACK, against=ATTACK)
    hostile = replace(step, runs=runs, summary=summary, differences=differences)
    plan = replace(result.plan, base=Scenario(workload=Workload(source=ATTACK)))
    given = replace(result, plan=plan, steps=(hostile,), command=ATTACK, versions={ATTACK: ATTACK})
    page = page_of(given, picture)
    # then none of them is one any more
    found = Page(page)
    assert found.tags["script"] == 1
    assert found.faults == []
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;.csv") > 15


def test_report__of_a_step_without_a_finished_run_says_so(result, picture):
    step = result.steps[0]
    failed = step.runs[step.runs["status"] == "failed"]
    empty = StepResult.of(step.step, failed, step.plan)
    page = page_of(replace(result, steps=(empty,)), picture)
    assert "No run finished, so there is nothing to say." in page
    assert "reference: no run is done" in page
    assert Page(page).faults == []


def test_report__of_the_same_results_is_the_same_bytes(result, picture, tmp_path):
    names = [name for found in result.steps for name in found.figures]
    for name in ("first.html", "second.html"):
        write_report(result, tmp_path / name, pictures=dict.fromkeys(names, picture))
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_checksum__is_that_of_everything_shown(result):
    # given the same result, and ones with another number, another note and another command
    step = result.steps[0]
    summary = step.summary.assign(mean=step.summary["mean"] + 1e-9)
    noted = step.runs.copy()
    noted.attrs = {"notes": ["another note"]}
    others = [
        replace(result, steps=(replace(step, summary=summary), *result.steps[1:])),
        replace(result, steps=(replace(step, runs=noted), *result.steps[1:])),
        replace(result, command="another"),
    ]
    # then each has a checksum of its own, so that its report is made again
    checksums = [results_sha256(one) for one in (result, *others)]
    assert len(set(checksums)) == 4
    assert results_sha256(replace(result)) == checksums[0]


def test_write_report__that_fails_leaves_the_old_one(result, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def broken(figure):
        raise RuntimeError("no plot")

    monkeypatch.setattr("llmsched.studies.stress.report.png", broken)
    with pytest.raises(RuntimeError, match="no plot"):
        write_report(result, path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    # and where no file can be put, it says so before drawing
    with pytest.raises(ValueError, match="the report must not be a folder"):
        write_report(result, tmp_path)


# In a browser, in a frame as wide as a phone or a screen

PROBE = """<script>
addEventListener("load", () => {
  const root = document.documentElement, title = document.querySelectorAll("section th")[1];
  const column = () => [...title.closest("table").tBodies[0].rows].map(
    row => row.cells[1].textContent);
  title.click(); const up = column(); title.click();
  parent.postMessage(JSON.stringify({
    shown: [...document.images].map(image => image.getBoundingClientRect().height),
    first: document.images[0].getBoundingClientRect().top,
    overflow: root.scrollWidth - root.clientWidth,
    loaded: performance.getEntriesByType("resource").map(entry => entry.name)
      .filter(name => !name.startsWith("data:")),
    up: up, down: column(),
  }), "*");
});
</script></body>"""
FRAME = """<iframe src="probed.html" width="{width}" height="800"></iframe><script>
addEventListener("message", event => {{
  const seen = document.createElement("pre");
  seen.id = "probe"; seen.textContent = event.data; document.body.append(seen);
}});
</script>"""


def in_chromium(path: Path) -> tuple[str, str]:
    """The page's DOM after loading, and what the browser logged of the page."""
    assert CHROMIUM is not None
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --enable-logging=stderr --v=0 "
        "--dump-dom --virtual-time-budget=5000 --window-size=1400,900"
    )
    profile = path.with_suffix(".profile")
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
@pytest.mark.parametrize("width", [1280, 400])
def test_report__opens_in_chromium_sorts_its_tables_and_fits_the_window(page, tmp_path, width):
    # given the page with a probe that its policy would refuse, in a frame
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    probed = policy.sub("", page).replace("</body>", PROBE)
    (tmp_path / "probed.html").write_text(probed, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    dom, _ = in_chromium(tmp_path / "frame.html")
    text = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert text is not None
    seen = json.loads(html.unescape(text.group(1)))
    # then it shows all, asks for nothing, is no wider than the window, and has its picture at once
    assert min(seen["shown"]) > 100
    assert seen["first"] < 500
    assert seen["loaded"] == []
    assert seen["overflow"] <= 0
    # and a click on a title sorts by that column, another one the other way
    numbers = [float(cell) for cell in seen["up"]]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 1
    assert [float(cell) for cell in seen["down"]] == sorted(numbers, reverse=True)


@chromium
@pytest.mark.slow
def test_report__runs_its_own_script_only_and_asks_for_nothing(page, tmp_path):
    # given the page as it is, then the browser complains of nothing
    path = tmp_path / "plain.html"
    path.write_text(page, encoding="utf-8")
    assert in_chromium(path)[1] == ""
    # when a script and a picture from outside have found their way into it
    both = '<script>document.title = "taken"</script><img src="other.png">'
    path.write_text(page.replace("</main>", f"{both}</main>"), encoding="utf-8")
    # then its policy stops both, and the console says so (so that it would above)
    dom, console = in_chromium(path)
    assert "<title>taken</title>" not in dom
    assert "script-src" in console
    assert "img-src" in console
