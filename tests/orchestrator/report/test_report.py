"""The report without a browser: what it says, that it is safe, small and complete; its figures in MLflow."""

import base64
import json
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.errors import InputError
from orchestrator.answers.best import answer
from orchestrator.answers.candidates import Budget
from orchestrator.commands.report import report
from orchestrator.edge.latency import attach, empty_profile
from orchestrator.laws.document import make_document
from orchestrator.laws.packing import unpack
from orchestrator.laws.simulate import FakeSweep
from orchestrator.report import page
from orchestrator.report.costs import costs, inits
from orchestrator.report.embed import differences, embed
from orchestrator.report.plot import Scale, apart
from orchestrator.report.sweep import Sweep
from orchestrator.report.words import recommended
from orchestrator.store.store import Store

HOSTILE = "</script><script>globalThis.hacked = 1</script>"


class Page(HTMLParser):
    """Ids, tags and texts of a page."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.said.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.said))


@pytest.fixture(scope="module")
def sweep(fitted_sweep) -> Sweep:
    return Sweep.read(fitted_sweep)


@pytest.fixture(scope="module")
def html(sweep: Sweep) -> str:
    return page.render(sweep)


@pytest.fixture(scope="module")
def parsed(html: str) -> Page:
    return Page(html)


def test_the_page_is_well_formed_small_and_asks_nobody(html: str, parsed: Page) -> None:
    assert parsed.open == []
    assert len(html.encode()) < 1_000_000
    assert "default-src 'none'" in html
    for _, attributes in parsed.tags:
        for key in ("src", "href", "action", "srcset", "xlink:href", "data"):
            assert re.match(r"#|data:,", attributes.get(key) or "#")
    css = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css


def test_hostile_names_stay_text(sweep: Sweep, html: str, parsed: Page) -> None:
    assert html.count(HOSTILE) == 0
    assert [tag for tag, _ in parsed.tags].count("script") == 2  # the data and the program
    assert parsed.text.count(HOSTILE) > 5
    assert f"Diverged: the loss is {HOSTILE}" in parsed.text
    for name, picture in page.sheets(sweep).items():
        root = ET.fromstring(picture)  # not even a parser for XML stumbles
        assert not [e for e in root.iter() if e.tag.endswith("script")], name


def test_the_answer_stands_first_and_is_that_of_query(sweep: Sweep, parsed: Page) -> None:
    largest = float(max(arm["largest"] for arm in sweep.document["arms"]))
    best = answer(sweep.document, Budget(max_params=largest))["best"]
    headline = f"Ship a {best['arch']} of depth {best['depth']} and width {best['width']}"
    assert headline in parsed.text
    assert f"{best['mae_bpm']['median']:.2f} BPM mean absolute error" in parsed.text
    assert f"{best['mae_bpm']['low']:.2f} to {best['mae_bpm']['high']:.2f} for 90 %" in parsed.text


def test_the_report_does_not_open_with_a_law_that_was_stretched(sweep: Sweep) -> None:
    """ResNets measured to 13k parameters only, MLPs to 21k: a ResNet of 21k looks best, but nobody knows."""
    arms = [
        arm | {"largest": arm["largest"] // (8 if arm["arch"] == "resnet1d" else 1)}
        for arm in sweep.document["arms"]
    ]
    document = sweep.document | {"arms": arms}
    tempting = answer(document, Budget(max_params=float(max(arm["largest"] for arm in arms))))
    assert tempting["extrapolation"]["distance"] > 1
    found = recommended(replace(sweep, document=document))
    assert found["extrapolation"]["distance"] == 1
    assert found["best"]["mae_bpm"]["median"] > tempting["best"]["mae_bpm"]["median"]


def test_synthetic_data_is_said_loudly_and_real_data_is_not(sweep: Sweep, parsed: Page) -> None:
    assert "Synthetic data." in parsed.text
    real = replace(sweep, space="data: {path: recordings, source: auto}\n")
    assert real.source == "recordings"
    assert "Synthetic data." not in page.render(real)


def test_every_section_and_every_run_is_there(sweep: Sweep, html: str, parsed: Page) -> None:
    ids = {a.get("id") for _, a in parsed.tags}
    wanted = "explorer laws pareto gains crossovers teachers calibration trouble cost runs reproduce"
    assert ids >= set(wanted.split())
    students = [r for r in sweep.results if r["role"] == "student"]
    laws = html[html.index('<section id="laws">') : html.index('<section id="pareto">')]
    dots = sum(d.count("M") for d in re.findall(r'<path class="run [^"]*" d="([^"]*)"', laws))
    assert dots == len(students)
    table = html[html.index('<section id="runs">') : html.index('<section id="reproduce">')]
    assert table.count("<tr>") == len(students) + 1
    for words in ("c0ffee", "data fingerprint simulated", "source: synthetic", "torch 2", "digest"):
        assert words in parsed.text


def test_pictures_have_text_alternatives(parsed: Page) -> None:
    pictures = [a for tag, a in parsed.tags if tag == "svg" and a.get("role") == "img"]
    assert len(pictures) > 10
    assert all(len(a["aria-label"] or "") > 30 for a in pictures)
    decorations = [a for tag, a in parsed.tags if tag == "svg" and a.get("role") != "img"]
    assert all(a.get("aria-hidden") == "true" for a in decorations)


def test_failed_blocked_and_open_points(sweep: Sweep, parsed: Page) -> None:
    assert [p.id for p in sweep.blocked] == ["blocked"]
    assert [p.id for p in sweep.waiting] == ["open"]
    assert "1 point failed and 1 cannot be trained because their teacher failed." in parsed.text
    assert "its teacher bad failed" in parsed.text


def test_costs_are_the_sum_of_all_training(sweep: Sweep) -> None:
    total = sum(r["train_seconds"] for r in sweep.results)
    assert sum(c.seconds for c in costs(sweep)) == pytest.approx(total)
    assert costs(sweep)[0].stage == "teacher"
    gpu = replace(sweep, results=[r | {"device": "NVIDIA H100"} for r in sweep.results])
    assert {c.kind for c in costs(gpu)} == {"GPU"}


def test_births_are_compared_at_equal_epochs_and_at_equal_compute(sweep: Sweep) -> None:
    found = inits(sweep)
    assert {b.init for b in found} == {"pruned"}
    assert len(found) == 6
    for b in found:
        seconds = next(
            r["train_seconds"] for r in sweep.results if (r["arch"], r["width"]) == ("resnet1d", b.width)
        )
        assert b.pairs == 2
        assert b.test[1] == pytest.approx(0.97 * b.test[0])
        assert b.epochs == 4
        assert b.at_epochs == pytest.approx([1.25 * b.test[0], 1.25 * b.test[1]])  # 1 + 1/4 after four epochs
        assert b.total_s == pytest.approx(seconds)
        done = int(4 * (seconds - 2.0) / seconds + 1e-6)  # epochs that fit when the teacher's 2 s are paid
        if done < 1:
            assert b.at_total is None
        else:
            assert b.at_total == pytest.approx([1.25 * b.test[0], (1 + 1 / done) * b.test[1]])
    assert {b.at_total is None for b in found} == {True, False}  # both cases are seen


def test_stale_laws_are_told(sweep: Sweep) -> None:
    assert not sweep.stale
    fewer = replace(sweep, results=sweep.results[1:])
    assert fewer.stale
    assert "Out of date." in page.render(fewer)


def test_a_sweep_whose_laws_refuse_has_a_report_too(tmp_path) -> None:
    results = FakeSweep(archs=("mlp",), widths=(4, 8), strategies=("scratch",), seeds=1).results()
    document = attach(make_document("small", results, {"samples": 200, "classes": 180}), empty_profile())
    parsed = Page(page.render(Sweep(tmp_path, document, results, {}, {}, "")))
    assert "No student can be recommended: no law may be used" in parsed.text
    assert "only 2 distinct sizes" in parsed.text
    assert parsed.open == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(-32768, 32767), min_size=5, max_size=5), min_size=1, max_size=3))
def test_differences_lose_nothing(rows: list[list[int]]) -> None:
    values = np.array(rows, dtype="<i2")
    back = differences(values).copy()
    for start in (2, 1):  # as explorer.js does it
        for column in range(start, back.shape[1]):
            back[:, column] += back[:, column - 1]
    np.testing.assert_array_equal(back, values)


def test_the_embedded_draws_are_those_of_laws_json(sweep: Sweep) -> None:
    whole = zlib.decompress(base64.b64decode(embed(sweep)))
    (length,) = struct.unpack("<I", whole[:4])
    light, binary = json.loads(whole[4 : 4 + length]), whole[4 + length :]
    half = len(binary) // 2
    planes = np.stack([np.frombuffer(binary[:half], "u1"), np.frombuffer(binary[half:], "u1")], axis=1)
    numbers, place, arrays = planes.copy().view("<i2").ravel(), 0, []
    for *shape, step in light["arrays"]:
        block = numbers[place : place + int(np.prod(shape))].reshape(shape).copy()
        place += block.size
        for start in (2, 1):
            for column in range(start, block.shape[-1]):
                block[..., column] += block[..., column - 1]
        arrays.append(block * step)
    for arm, small in zip(sweep.document["arms"], light["arms"], strict=True):
        for key in ("median", "noise", "draws"):
            np.testing.assert_array_equal(arrays[small[key]], unpack(arm[key]))


def test_a_sweep_profiled_on_two_devices_names_them_until_one_is_chosen(profiled_sweep, tmp_path) -> None:
    out, asked = tmp_path / "r.html", [str(profiled_sweep), "--no-mlflow", "-o", str(tmp_path / "r.html")]
    CliRunner().invoke(report, asked, catch_exceptions=False)
    assert (
        "Latency was measured on cpu-1, cpu-2: choose one with kdsweep report --device."
        in Page(out.read_text()).text
    )
    CliRunner().invoke(report, [*asked, "--device", "cpu-2"], catch_exceptions=False)
    assert "Latency on cpu-2 (CPU of cpu-2)" in Page(out.read_text()).text


def test_figures_are_svg_files_that_stand_alone(sweep: Sweep) -> None:
    pictures = page.figures(sweep.document, sweep.results)
    assert {"laws.svg", "pareto.svg", "gains.svg", "crossovers.svg", "calibration.svg", "cost.svg"} <= set(
        pictures
    )
    for picture in pictures.values():
        root = ET.fromstring(picture)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        assert width > 300
        assert height > 100
        assert b"nan" not in picture


def test_the_command_writes_the_file_and_says_the_answer(fitted_sweep, tmp_path) -> None:
    out = tmp_path / "r.html"
    result = CliRunner().invoke(report, [str(fitted_sweep), "-o", str(out), "--json"], catch_exceptions=False)
    said = json.loads(result.stdout)
    assert said["report"] == str(out)
    assert said["bytes"] == out.stat().st_size
    assert said["answer"].startswith("Ship a ")
    assert (said["synthetic"], said["stale"], said["failed"], said["blocked"]) == (True, False, 1, 1)
    assert said["mlflow_run"] is None
    assert not (fitted_sweep / "report.html").exists()


def test_without_laws_the_command_says_what_to_do(tmp_path) -> None:
    (tmp_path / "points").mkdir()
    with pytest.raises(InputError, match="kdsweep fit"):
        CliRunner().invoke(report, [str(tmp_path)], catch_exceptions=False)


def test_report_and_figures_go_to_the_parent_run(fitted_sweep, sweep: Sweep, html: str, tmp_path) -> None:
    """Found by its tag among other sweeps' runs and the sweep's own points; a second time replaces."""
    from mlflow import MlflowClient

    from orchestrator.report.artifacts import log
    from orchestrator.tracking.tags import POINT, SWEEP

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("sweeps", artifact_location=(tmp_path / "artifacts").as_uri())
    client.create_run(experiment, tags={SWEEP: "another"})
    parent = client.create_run(experiment, tags={SWEEP: "mine"}).info.run_id
    client.create_run(experiment, tags={SWEEP: "mine", POINT: "p"})
    here = replace(sweep, folder=tmp_path)
    with pytest.raises(InputError, match="kdsweep sync"):
        log(here, html, uri)
    (tmp_path / "mlflow.json").write_text(json.dumps({"sweep": "mine"}))
    for _ in range(2):
        assert log(here, html, uri) == parent
    names = {a.path for a in client.list_artifacts(parent, "report")}
    assert {"report/report.html", "report/laws.svg", "report/pareto.svg"} <= names
    assert len(names) == 1 + len(page.sheets(sweep))
    for name in ("points", "laws.json", "plan.json", "space.yaml"):
        (tmp_path / name).symlink_to(fitted_sweep / name)
    said = CliRunner().invoke(report, [str(tmp_path), "--json"], catch_exceptions=False)  # mlflow.db is there
    assert json.loads(said.stdout)["mlflow_run"] == parent
    (tmp_path / "mlflow.json").unlink()
    said = CliRunner().invoke(report, [str(tmp_path), "--json"], catch_exceptions=False)
    assert json.loads(said.stdout)["mlflow_run"] is None
    assert "warning: not logged" in said.stderr
    with pytest.raises(InputError, match="kdsweep sync"):
        CliRunner().invoke(report, [str(tmp_path), "--mlflow"], catch_exceptions=False)
    path = client.download_artifacts(parent, "report/report.html", str(tmp_path))
    assert Path(path).read_text(encoding="utf-8") == html


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 1e6), st.floats(1.05, 1e6), st.booleans())
def test_ticks_lie_on_their_scale(low: float, ratio: float, log: bool) -> None:
    scale = Scale(low, low * ratio, 0, 100, log)
    ticks = scale.ticks(6)
    assert 1 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))
    assert all(-0.01 <= scale(t) <= 100.01 for t in ticks)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_labels_never_cover_each_other(wanted: list[float]) -> None:
    placed = sorted(apart(wanted, 12, 0, 100))
    assert all(b - a >= 12 - 1e-9 for a, b in pairwise(placed))
    assert placed[-1] <= 100 + 1e-9


def test_a_paper_sized_sweep_stays_below_three_megabytes(sweep: Sweep) -> None:
    """84 arms: 2 architectures, 2 inits, 5 teachers, 4 strategies and scratch; 8 widths, 3 seeds."""
    base = sweep.document["arms"]
    more = [arm | {"key": f"{arm['key']} {k}", "teacher": f"t{k}"} for k in range(10) for arm in base]
    arms = [*base, *more]
    big = replace(sweep, document=sweep.document | {"arms": arms[:84]})
    assert len(big.document["arms"]) == 84
    assert len(page.render(big).encode()) < page.MOST_BYTES


def test_a_report_too_heavy_to_mail_is_refused(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_BYTES", 100_000)
    with pytest.raises(InputError, match="split the search space"):
        page.render(sweep)


def test_a_result_without_a_space_is_not_called_synthetic_or_real(sweep: Sweep) -> None:
    assert replace(sweep, space="").source == ""
    assert not replace(sweep, space="").synthetic
    assert replace(sweep, space="name: x\n").synthetic  # a space's default
    assert Store(sweep.folder).is_done("teacher")


def test_claims_stand_in_the_report_once_there_are_people_to_pair(sweep: Sweep, html: str) -> None:
    assert 'id="claims"' not in html
    assert "claims.svg" not in page.sheets(sweep)
    generator = np.random.default_rng(0)
    level = {f"A/{HOSTILE}{k}": float(v) for k, v in enumerate(generator.uniform(0.5, 1.5, 12))}
    people = [
        r | {"mae_by_subject": {n: v * r["mae_bpm"] for n, v in level.items()}}
        if r["role"] == "student"
        else r
        for r in sweep.results
    ]
    told = replace(sweep, results=people)
    found = {row["id"]: row for row in told.claims}
    assert found["dkd-scratch"]["verdict"] == "supported"
    assert found["dkd-hard"]["verdict"] == "undecided"  # nobody was trained so
    said = Page(page.render(told))
    assert said.open == []
    assert "Which claims hold" in said.text
    assert "dkd beats scratch" in said.text
    assert "no two students that differ in this alone were trained" in said.text
    labels = [a["aria-label"] for tag, a in said.tags if tag == "svg" and "aria-label" in a]
    assert any("The paper's claims: by how much" in (label or "") for label in labels)
    root = ET.fromstring(page.sheets(told)["claims.svg"])
    whiskers = [e for e in root.iter() if "whisker" in e.get("class", "")]
    assert len(whiskers) == sum(row["effect_percent"] is not None for row in told.claims) > 3
    alike = replace(sweep, results=people)
    alike.__dict__["claims"] = [r | {"verdict": "equivalent"} if r["p"] else r for r in told.claims]
    sheet = page.sheets(alike)["claims.svg"].decode()
    assert sheet.count(">equivalent<") == sheet.count("whisker c-scratch") > 1
    assert "within 1 %, a difference that doesn't matter" in Page(page.render(alike)).text.replace("’", "'")
