"""Every state file of a finished sweep, damaged in every way: commands answer, or name file and key."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.commands.main import cli
from orchestrator.laws.document import sealed
from orchestrator.store import store

LITTLE = 3  # places of each file and kind of damage that are tried
VALUES = (None, "x", [], 3, float("nan"), -1, {})


def places(value: Any, way: tuple = ()) -> list[tuple]:
    """Where the keys of a JSON value are, three of every list and mapping deep down."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    few = keys if len(way) < 1 else list(keys)[:3]
    return [(*way, k) for k in few] + [p for k in few for p in places(value[k], (*way, k))]


def damaged(content: Any, dice: random.Random) -> list[bytes]:
    """The file without each of some keys, with other values there, cut short, empty, in no encoding."""
    text = json.dumps(content).encode()
    out = [b"", text[: len(text) // 2], b"\xff\xfe" + text, b"[]", b"null", b"3"]
    for way in places(content):
        for value in dice.sample(VALUES, LITTLE):
            changed = json.loads(text)
            at = changed
            for key in way[:-1]:
                at = at[key]
            at[way[-1]] = value
            out.append(json.dumps(changed).encode())
        if isinstance(way[-1], str):
            changed = json.loads(text)
            at = changed
            for key in way[:-1]:
                at = at[key]
            del at[way[-1]]
            out.append(json.dumps(changed).encode())
    return out


@pytest.fixture(scope="module")
def sweep(profiled_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of few points with every state file there is."""
    folder = tmp_path_factory.mktemp("damage") / "s"
    shutil.copytree(profiled_sweep, folder)
    (folder / "space.yaml").write_text("name: fitted\ndata: {source: synthetic}\n", encoding="utf-8")
    for n, point in enumerate(sorted((folder / "points").iterdir())):
        if n % 12 and point.name not in ("bad", "teacher"):
            shutil.rmtree(point)
    laws = json.loads((folder / "laws.json").read_text(encoding="utf-8"))
    (folder / "laws.json").write_text(json.dumps(sealed(laws)), encoding="utf-8")
    used = {"slots": 1, "cpus_per_slot": 1, "gpus_per_slot": 0}
    ledger = [{"event": "start", "time": 1.0}, {"event": "point", "time": 2.0, "id": "x", "train_seconds": 1}]
    lines = "".join(json.dumps(line | used) + "\n" for line in ledger)
    (folder / "ledger.jsonl").write_text(lines, encoding="utf-8")
    where = {"point": "open", "epoch": 1, "max_epochs": 4, "val_mae_bpm": 4.0}
    beat = {"state": "RUNNING", "time": 1e12, "host": "elsewhere", "pid": 1, "running": [where]}
    beat |= {"rate_per_h": 2.0, "eta_s": 30.0, "slots": 1, "ray": {"directory": "/nowhere/kds-1"}}
    (folder / "progress.json").write_text(json.dumps(beat), encoding="utf-8")
    here = folder / "slurm" / "20260101-000000"
    here.mkdir(parents=True)
    request = {"role": "driver", "script": "s", "args": ["a"], "comment": "c", "job": None}
    record = {"id": "1", "sweep": "s", "mode": "gang", "site": "s.yaml", "worker_name": "w", "max_links": 1}
    text = json.dumps(record | {"created": 0.0, "requests": [request]})
    (here / "submission.json").write_text(text, encoding="utf-8")
    begin = {"event": "begin", "link": "7-0", "job": "7", "time": 1.0, "progress": [0, 0], "host": "n"}
    end = {"event": "end", "link": "7-0", "code": 75, "verdict": "stop", "why": "w", "ended": 2.0}
    links = "".join(json.dumps(e | {"progress": [0, 0]}) + "\n" for e in (begin, end))
    (here / "links.jsonl").write_text(links, encoding="utf-8")
    head = {"state": "up", "link": "7-0", "address": "10.0.0.1:1", "token": "/t", "host": "n", "time": 1.0}
    (here / "head.json").write_text(json.dumps(head), encoding="utf-8")
    return folder


def files(folder: Path) -> dict[str, tuple[Path, list[list[str]]]]:
    """Kind -> a file of it, and the commands that read it."""
    point = next(p for p in sorted((folder / "points").iterdir()) if (p / "result.json").exists())
    s, id = str(folder), point.name
    overview = [["status", s, "--all"], ["ls", s]]
    of_point = [["show", s, id], ["logs", s, id]]
    return {
        "result": (
            point / "result.json",
            [*overview, ["results", s], ["compare", s, s], ["show", s, id], ["retry", s, "--dry-run"]],
        ),
        "error": (folder / "points" / "bad" / "error.json", [*overview, ["show", s, "bad"], ["logs", s]]),
        "history": (point / "history.jsonl", of_point),
        "ledger": (folder / "ledger.jsonl", [["status", s]]),
        "progress": (folder / "progress.json", [*overview, *of_point]),
        "profile": (folder / "profile.json", [["query", s, "--max-latency-ms", "1", "--device", "cpu-1"]]),
        "laws": (folder / "laws.json", [["query", s, "--max-params", "9000"]]),
        "submission": (folder / "slurm" / "20260101-000000" / "submission.json", [["status", s]]),
        "links": (folder / "slurm" / "20260101-000000" / "links.jsonl", [["status", s], ["logs", s]]),
        "head": (folder / "slurm" / "20260101-000000" / "head.json", [["status", s]]),
        "plan": (folder / "plan.json", [["status", s], ["show", s, id], ["sync", s, "--tracking-uri", "x:"]]),
    }


KINDS = (
    "result",
    "error",
    "history",
    "ledger",
    "progress",
    "profile",
    "laws",
    "submission",
    "links",
    "head",
    "plan",
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_state_file_stops_no_command_with_a_traceback(
    sweep: Path, kind: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr("orchestrator.run.jobs.jobs_of", lambda folder: [])
    path, commands = files(sweep)[kind]
    whole, dice = path.read_bytes(), random.Random(0)
    lines = path.suffix == ".jsonl"
    first, *rest = whole.splitlines(keepends=True) if lines else (whole, b"")
    found = damaged(json.loads(first), dice)
    tried = found if len(found) < 60 else [*found[:6], *dice.sample(found[6:], 54)]
    request.addfinalizer(lambda: path.write_bytes(whole))
    for wrong in tried if kind != "laws" else dice.sample(tried, 8):  # a query takes a while
        path.write_bytes(wrong + b"\n" + b"".join(rest) if lines else wrong)
        for command in commands if len(commands) < 3 else dice.sample(commands, 2):
            out = CliRunner().invoke(cli, command)
            if isinstance(out.exception, InputError):
                assert any(
                    where in str(out.exception) for where in (str(sweep), "--device", "MLflow at x:")
                ), command
                assert "\n" not in str(out.exception)
            elif out.exception is not None and not isinstance(out.exception, SystemExit):
                raise AssertionError(f"{command} after {wrong[:400]!r}") from out.exception


@pytest.mark.parametrize("kind", ["result", "error", "plan", "laws"])
def test_a_damaged_state_file_stops_no_analysis_with_a_traceback(
    sweep: Path, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path, _ = files(sweep)[kind]
    whole, dice, s = path.read_bytes(), random.Random(1), str(sweep)
    laws = (sweep / "laws.json").read_bytes()
    request.addfinalizer(lambda: (path.write_bytes(whole), (sweep / "laws.json").write_bytes(laws)))
    suggest = ["suggest", s, "--max-params", "9000", "--gpu-hours", "1", "-o", str(tmp_path / "next.yaml")]
    commands = [["fit", s], ["report", s, "-o", str(tmp_path / "r.html")], suggest, ["plan", s]]
    for wrong in dice.sample(damaged(json.loads(whole), dice), 3):
        for command in commands:
            path.write_bytes(wrong)
            out = CliRunner().invoke(cli, command)
            if isinstance(out.exception, InputError):
                assert str(sweep) in str(out.exception) or "space" in str(out.exception), command
            elif out.exception is not None and not isinstance(out.exception, SystemExit):
                raise AssertionError(f"{command} after {wrong[:400]!r}") from out.exception


def test_one_damaged_result_is_named_and_the_others_are_answered(sweep: Path) -> None:
    path, _ = files(sweep)["result"]
    whole = path.read_bytes()
    content = json.loads(whole)
    del content["mae_bpm"]
    store._warned.clear()  # each warning is said once
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        out = CliRunner().invoke(cli, ["results", str(sweep), "--json"])
        rows = json.loads(out.stdout)
        assert len(rows) > 5
        assert content["id"] not in {row["point"] for row in rows}
        assert f"{path}: mae_bpm is missing" in out.stderr
        assert f"kdsweep retry {sweep} {path.parent.name}" in out.stderr
    finally:
        path.write_bytes(whole)
