"""The report in a real browser: headless Chromium, driven by Playwright.

Answers in the page must be those of `kdsweep query --json`; nothing may be asked of a network. In CI a
missing Chromium is a failure, elsewhere these tests are skipped.
"""

import json
import math
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Page as Tab

from orchestrator.answers.best import answer
from orchestrator.answers.candidates import Budget, limits
from orchestrator.commands.query import query
from orchestrator.edge.latency import PRECISIONS, with_costs
from orchestrator.report import page
from orchestrator.report.sweep import Sweep

BUDGETS = 50
WIDTHS = (390, 820, 1400)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Opened:
    """A tab with everything it said and asked for."""

    tab: Tab
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and os.environ.get("CI"):
        pytest.fail("no Chromium: apt-get install -y --no-install-recommends chromium")
    if path is None:
        pytest.skip("no Chromium here: apt-get install -y --no-install-recommends chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def sweep(fitted_sweep: Path) -> Sweep:
    return Sweep.read(fitted_sweep)


@pytest.fixture(scope="module")
def report(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page.render(sweep), encoding="utf-8")
    return path


def visit(browser: Browser, path: Path, **options: Any) -> Opened:
    opened = Opened(browser.new_page(**options))
    tab = opened.tab
    tab.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: opened.said.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: opened.said.append(f"dialog: {dialog.message}"))
    tab.on("request", lambda request: opened.requests.append(request.url))
    tab.goto(path.as_uri())
    tab.evaluate("kdsweep.ready")
    return opened


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    found = visit(browser, report, viewport={"width": 1400, "height": 900})
    yield found
    assert found.said == []
    assert found.requests == [report.as_uri()]
    found.tab.close()


def random_budgets(document: dict[str, Any], precision: str = "fp32") -> list[dict[str, float]]:
    """One to all limits each, from too small for any student to beyond what laws may say."""
    dice, out, known = random.Random(0), [], {}
    for name, (column, unit, _) in limits(document, precision).items():
        columns = [a["configurations"][column] for a in document["architectures"].values()]
        if values := [v / unit for column in columns for v in column if v is not None]:
            known[name] = math.log(min(values) / 1.5), math.log(max(values) * 1.2)
    for _ in range(BUDGETS):
        names = dice.sample(sorted(known), dice.randint(1, len(known)))
        out.append({name: float(f"{math.exp(dice.uniform(*known[name])):.4g}") for name in names})
    return out


def asked(document: dict[str, Any], budget: dict[str, float], precision: str = "fp32") -> dict[str, Any]:
    """What `kdsweep query --json` prints."""
    whole = Budget(**budget, precision=precision)
    return dict(json.loads(json.dumps(with_costs(document, whole, answer(document, whole)))))


ANSWER_ALL = "([all, precision]) => all.map((b) => kdsweep.answer(kdsweep.laws, b, precision))"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_are_those_of_query(opened: Opened, sweep: Sweep, precision: str) -> None:
    budgets = random_budgets(sweep.document, precision)
    found = opened.tab.evaluate(ANSWER_ALL, [budgets, precision])
    wanted = [asked(sweep.document, budget, precision) for budget in budgets]
    assert found == wanted
    assert {a["verdict"] for a in wanted} == {"ok", "refuse"}
    assert "Latency was not measured in this sweep" in opened.tab.inner_text("#budget")
    best = [a["best"] for a in wanted if a["best"]]
    assert len(best) > BUDGETS / 3
    for key in ("arch", "strategy", "trained", "init"):  # budgets that all had one answer would prove little
        assert len({b[key] for b in best}) > 1, key
    assert {a["binding"]["budget"] for a in wanted if a["binding"]} >= {"max_params", "max_macs"}
    assert any("WARNING" in a["why"] for a in wanted)


@pytest.mark.parametrize(("device", "precision"), [("cpu-1", "fp32"), ("cpu-1", "int8"), ("cpu-2", "int8")])
def test_answers_of_a_profiled_sweep_are_those_of_query(
    browser: Browser, profiled_sweep: Path, tmp_path: Path, device: str, precision: str
) -> None:
    """Latency with its doubt, measured arenas, int8; on cpu-2 nothing is known of MLPs."""
    opened, sweep = visit_profiled(browser, profiled_sweep, tmp_path, device)
    budgets = random_budgets(sweep.document, precision)
    wanted = [asked(sweep.document, budget, precision) for budget in budgets]
    assert opened.tab.evaluate(ANSWER_ALL, [budgets, precision]) == wanted
    options = [f"--{name.replace('_', '-')}={limit}" for name, limit in budgets[0].items()]
    options += [f"--precision={precision}", f"--device={device}", "--json"]
    printed = CliRunner().invoke(query, [str(profiled_sweep), *options], catch_exceptions=False)
    assert json.loads(printed.stdout) == wanted[0]
    timed = [a["best"] for a in wanted if a["best"] and "max_latency_ms" in a["budget"]]
    assert len(timed) > BUDGETS / 10
    if device == "cpu-1":
        sure = {b["p_feasible"] for b in timed}
        assert 1 in sure
        assert any(p < 1 for p in sure)
        costs = [a["best"]["cost"] for a in wanted if a["best"]]
        assert {c["latency_is"] for c in costs} == {"measured", "predicted by the latency law"}
        assert len({c["flash_is"] for c in costs}) == 2
        assert {"max_latency_ms", "max_memory_kb"} <= {a["binding"]["budget"] for a in wanted if a["binding"]}
    else:
        assert any("an unknown number of ms (int8)" in a["why"] for a in wanted)
    assert opened.said == []
    opened.tab.close()


def visit_profiled(browser: Browser, folder: Path, out: Path, device: str) -> tuple[Opened, Sweep]:
    sweep, path = Sweep.read(folder, device), out / "profiled.html"
    path.write_text(page.render(sweep), encoding="utf-8")
    return visit(browser, path), sweep


def test_whole_refusal_is_that_of_query(browser: Browser, sweep: Sweep, tmp_path: Path) -> None:
    arms = [
        arm | {"reach": 0.0, "verdict": "refuse", "why": "too few sizes"} for arm in sweep.document["arms"]
    ]
    document = sweep.document | {"arms": arms, "gains": {"arms": [], "architectures": []}, "crossovers": []}
    path = tmp_path / "refused.html"
    path.write_text(page.render(replace(sweep, document=document)), encoding="utf-8")
    opened = visit(browser, path)
    budget = {"max_params": 5000.0}
    assert opened.tab.evaluate("b => kdsweep.answer(kdsweep.laws, b)", budget) == asked(document, budget)
    assert "Refused: no law may be used" in opened.tab.inner_text("#answer")
    assert opened.said == []
    opened.tab.close()


def test_latency_and_precision_move_the_answer(
    browser: Browser, profiled_sweep: Path, tmp_path: Path
) -> None:
    opened, sweep = visit_profiled(browser, profiled_sweep, tmp_path, "cpu-1")
    tab, budget = opened.tab, {"max_latency_ms": 0.1}
    assert "Latency on cpu-1 (CPU of cpu-1)" in tab.inner_text("#budget")
    tab.locator("[data-name=max_params] input[type=checkbox]").uncheck()
    tab.locator("[data-name=max_latency_ms] input[type=number]").fill("0.1")
    full = tab.evaluate("kdsweep.last")
    assert full == asked(sweep.document, budget)
    shown = tab.inner_text("#answer")
    assert "ms on cpu-1" in shown
    assert "P(meets the latency limit)" in shown
    assert "Errors are for float32" not in shown
    tab.get_by_label("int8").check()
    small = tab.evaluate("kdsweep.last")
    assert small == asked(sweep.document, budget, "int8")
    assert small["best"]["params"] > full["best"]["params"]  # int8 is faster: more fits
    shown = tab.inner_text("#answer")
    assert f"on {small['int8']['points']} students" in shown
    assert f"latency: {small['best']['cost']['latency_is']}" in shown
    assert tab.inner_text("#command").endswith("--max-latency-ms 0.1 --precision int8 --device cpu-1")
    assert "Latency was not measured" not in tab.content()
    assert opened.said == []
    tab.close()


def test_numbers_are_written_as_python_writes_them(opened: Opened) -> None:
    dice = random.Random(1)
    numbers = [
        0.0625,
        1.0625,
        2.5,
        0.5,
        1e-5,
        123456.5,
        99999.95,
        0.30000000000000004,
        0.00005,
        1234565,
        1234575,
    ]
    numbers += [math.exp(dice.uniform(-12, 16)) for _ in range(400)]
    script = """all => all.map((x) => [
        round(x, 3), fixed(x, 2), general(x), general(x, 4, true), thousands(Math.trunc(x))
    ])"""
    found = opened.tab.evaluate(script, numbers)
    wanted = [[round(x, 3), f"{x:.2f}", f"{x:g}", f"{x:,.4g}", f"{int(x):,}"] for x in numbers]
    assert found == wanted


def test_typing_and_dragging_move_the_answer(opened: Opened, sweep: Sweep) -> None:
    tab = opened.tab
    typed = tab.locator("[data-name=max_params] input[type=number]")
    heard = []
    for limit in ("9000", "2500"):
        typed.fill(limit)
        last = tab.evaluate("kdsweep.last")
        assert last == asked(sweep.document, {"max_params": float(limit)})
        shown = tab.inner_text("#answer")
        best, mae = last["best"], last["best"]["mae_bpm"]
        assert f"{best['arch']} {best['depth']}×{best['width']}" in shown
        assert f"{mae['median']:.2f} BPM" in shown
        assert f"{mae['low']:.2f} to {mae['high']:.2f} for 90 % of new runs" in shown
        assert "P(best)" in shown
        assert "Runner-up: " in shown
        assert f"--max-params {limit}" in tab.inner_text("#command")
        heard.append(shown)
    slider = tab.locator("[data-name=max_params] input[type=range]")
    box = slider.bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    tab.mouse.down()
    for share in (0.4, 0.5, 0.55):
        tab.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        heard.append(tab.inner_text("#answer"))
        limit = float(typed.input_value())
        assert tab.evaluate("kdsweep.last") == asked(sweep.document, {"max_params": limit})
    tab.mouse.up()
    assert len(set(heard)) > 1  # the best measured student may stay the answer over a stretch
    memory = tab.locator("[data-name=max_memory_kb]")
    memory.locator("input[type=range]").focus()
    tab.keyboard.press("Home")  # the least memory any student needs
    both = tab.evaluate("kdsweep.last")
    assert set(both["budget"]) == {"max_params", "max_memory_kb"}
    assert both == asked(sweep.document, both["budget"])
    for name in ("max_params", "max_memory_kb"):
        tab.locator(f"[data-name={name}] input[type=checkbox]").uncheck()
    assert "Set at least one limit." in tab.inner_text("#answer")


def test_pictures_have_axes_and_text(opened: Opened) -> None:
    pictures = opened.tab.locator("figure svg")
    assert pictures.count() > 12
    for k in range(pictures.count()):
        picture = pictures.nth(k)
        sizes = picture.locator("text").evaluate_all("all => all.map((t) => t.getBBox().width)")
        assert len(sizes) > 4
        assert all(s > 0 for s in sizes)
    laws = opened.tab.locator("#laws figure")
    for k in range(laws.count()):
        words = laws.nth(k).locator("text").all_text_contents()
        assert "parameters" in words
        assert "test MAE, BPM" in words
        assert any(w.endswith("k") for w in words)


def test_a_run_tells_itself_under_the_pointer(opened: Opened, sweep: Sweep) -> None:
    picture = opened.tab.locator("#laws svg[data-arms]").first
    picture.scroll_into_view_if_needed()
    arm = sweep.document["arms"][int(str(picture.get_attribute("data-arms")).split()[0])]
    run, box = arm["runs"][0], picture.bounding_box()
    assert box is not None
    place = []
    for axis, key, size in (("x", "params", 360.0), ("y", "mae_bpm", 280.0)):
        low, high, start, end = map(float, str(picture.get_attribute(f"data-{axis}")).split())
        at = start + math.log(run[key] / low) / math.log(high / low) * (end - start)
        place.append(box[axis] + at / size * box["width" if axis == "x" else "height"])
    opened.tab.mouse.move(*place)
    assert f"{run['mae_bpm']:.2f} BPM" in opened.tab.inner_text("#tip")
    assert f"point {run['id']}" in opened.tab.inner_text("#tip")


def test_tables_sort(opened: Opened) -> None:
    tab = opened.tab
    tab.locator("#runs summary").click()
    header = tab.locator("#runs th", has_text="MAE BPM").first
    column = 1 + header.evaluate("th => th.cellIndex")
    cells = tab.locator(f"#runs td:nth-child({column})")
    for order, reverse in (("ascending", False), ("descending", True)):
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == order
        values = [float(v) for v in cells.all_inner_texts()]
        assert values == sorted(values, reverse=reverse)
    tab.locator("#runs th button", has_text="student").click()
    names = tab.locator("#runs td:nth-child(1)").all_inner_texts()
    assert names[0].startswith("mlp")
    widths = [int(n.split("×")[1]) for n in names if n.startswith("mlp")]
    assert widths == sorted(widths)  # 4, 6, 12 and not 12, 4, 6
    tab.locator("#laws summary").first.click()
    tab.locator("#laws th button", has_text="held-out error %").first.click()  # gaps go last, whichever way
    assert tab.evaluate("globalThis.hacked") is None


def test_hostile_names_are_shown_as_text(opened: Opened) -> None:
    tab = opened.tab
    assert tab.evaluate("globalThis.hacked") is None
    assert "</script><script>globalThis.hacked = 1</script>" in tab.inner_text("#trouble")
    assert "</script>" in tab.inner_text("#command")
    assert tab.locator("script").count() == 2


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_every_width(browser: Browser, report: Path, width: int) -> None:
    """On a phone too: nothing sticks out sideways, what is read is large enough."""
    opened = visit(browser, report, viewport={"width": width, "height": 800}, device_scale_factor=1)
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= width
    heights = opened.tab.locator("figure svg .t-tick").evaluate_all(
        "all => all.map((t) => t.getBoundingClientRect().height)"
    )
    assert min(heights) >= 9
    assert opened.said == []
    opened.tab.close()


def test_dark_mode_and_print(browser: Browser, report: Path) -> None:
    tab = visit(browser, report, color_scheme="dark").tab
    shade = "getComputedStyle(document.documentElement).backgroundColor"
    ink = "getComputedStyle(document.querySelector('figure svg text')).fill"
    dark, dark_ink = tab.evaluate(shade), tab.evaluate(ink)
    tab.emulate_media(color_scheme="light")
    light, light_ink = tab.evaluate(shade), tab.evaluate(ink)
    assert _brightness(dark) < 60 < 200 < _brightness(light)
    assert _brightness(light_ink) < 60 < 200 < _brightness(dark_ink)
    tab.emulate_media(color_scheme="dark", media="print")  # paper is white whatever the screen is
    assert _brightness(tab.evaluate(shade)) > 200
    assert not tab.locator("#budget").is_visible()
    assert tab.locator("h1").is_visible()
    tab.close()


def _brightness(colour: str) -> float:
    parts = colour[colour.index("(") + 1 : -1].split(",")[:3]
    return sum(map(float, parts)) / 3


def test_without_javascript_everything_but_the_explorer_reads(browser: Browser, report: Path) -> None:
    tab = browser.new_context(java_script_enabled=False).new_page()
    tab.goto(report.as_uri())
    assert "Ship a " in tab.inner_text("h1")
    assert "The explorer needs JavaScript" in tab.inner_text("#answer")
    assert tab.locator("#laws figure svg").first.is_visible()
    tab.close()
