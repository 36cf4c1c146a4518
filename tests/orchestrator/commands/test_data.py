"""`kdsweep data check`: what it says of recordings, to people and to programs, and what it says of none."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.commands import main as cli
from orchestrator.commands.data import bars, examine, examine_space, in_words


@pytest.fixture
def mixed(tmp_path):
    """A wrist set with every kind of loss, and BIDMC, whose labels lag."""
    rng = np.random.default_rng(0)
    entries, arrays = [], {}
    for name, dataset, channels, bpm in [("a", "W", 2, 70), ("b", "W", 1, 95), ("c", "BIDMC", 1, 100)]:
        entries.append({"name": name, "dataset": dataset, "subject": name, "fs": 25})
        arrays[f"{name}/ppg"] = rng.standard_normal((channels, 1500)).astype(np.float32)
        arrays[f"{name}/hr"] = np.full(27, bpm, np.float32)
    arrays["a/hr"][3] = np.nan
    arrays["b/ppg"][:] = 1.0
    path = tmp_path / "mixed.npz"
    np.savez(path, meta_json=np.frombuffer(json.dumps(entries).encode(), np.uint8), **arrays)
    return path


def test_what_is_there_and_what_becomes_of_it(mixed):
    found = examine(mixed, "auto")
    assert (found["format"], found["subjects"], found["recordings"]) == ("recordings_npz", 3, 3)
    assert found["hours"] == pytest.approx(3 * 60 / 3600, abs=1e-3)
    assert found["windows"] == 26 + 24
    assert found["channels"] == [1, 2]
    wrist = found["datasets"]["W"]
    assert (wrist["subjects"], wrist["windows"]) == (2, 26)
    assert wrist["hr_bpm"] == {
        **{"min": 70.0, "median": 70.0, "max": 70.0},
        "histogram": [{"from": 70, "to": 80, "windows": 26}],
    }
    counts = {b["from"]: b["windows"] for b in found["hr_bpm"]["histogram"]}
    assert counts == {70: 26, 80: 0, 90: 0, 100: 24}
    assert found["dropped"] == {
        "windows": 31,
        "by_reason": {
            "no label (NaN)": 1,
            "flat signal": 27,
            "window reaches outside the recording": 3,
        },
        "by_recording": {
            "W/a": {"no label (NaN)": 1},
            "W/b": {"flat signal": 27},
            "BIDMC/c": {"window reaches outside the recording": 3},
        },
        "subjects_without_windows": ["W/b"],
    }


def test_people_and_programs_read_the_same(mixed):
    run = CliRunner().invoke(cli.cli, ["data", "check", str(mixed), "--json"])
    assert run.exit_code == 0
    assert json.loads(run.stdout) == examine(mixed, "auto")
    text = CliRunner().invoke(cli.cli, ["data", "check", str(mixed), "--format", "recordings_npz"]).stdout
    assert text == in_words(examine(mixed, "auto")) + "\n"
    lines = [line.split() for line in text.splitlines()]
    assert ["all", "3", "3", "0.05", "50", "1-2", "25", "70", "to", "100,", "median", "70"] in lines
    assert "dropped 31 of 81 windows" in text
    assert ["27", "flat", "signal"] in lines
    assert "no usable window: W/b" in text
    assert ["70", "#" * 40, "26"] in lines
    assert ["80", "0"] in lines


@pytest.fixture
def spoiled(tmp_path):
    """Two sets of four subjects, 1 min each, at 80 BPM; what one device showed isn't always a reading."""
    rng = np.random.default_rng(0)
    entries, arrays = [], {}
    for k in range(8):
        name, dataset = f"r{k}", "AB"[k % 2]
        entries.append({"name": name, "dataset": dataset, "subject": name, "fs": 25})
        arrays[f"{name}/ppg"] = rng.standard_normal((1, 1500)).astype(np.float32)
        arrays[f"{name}/hr"] = np.full(27, 80, np.float32)
    arrays["r1/hr"][[3, 4, 9]] = [0, 0, 300]
    arrays["r1/hr"][[15, 20]] = [np.nan, 125]
    path = tmp_path / "spoiled.npz"
    np.savez(path, meta_json=np.frombuffer(json.dumps(entries).encode(), np.uint8), **arrays)
    space = tmp_path / "mine.yaml"
    space.write_text(
        "data:\n"
        "  preprocess: {stride_s: 1.0, fs: 32, high_hz: 3.5}\n"
        f"  path: {path}\n"
        "  split: {fractions: [0.5, 0.25, 0.25]}\n"
        "  augment: {copies: 2}\n"
        "task: {min_bpm: 40, classes: 100}\n"
        "teachers: [{arch: mlp, depth: 1, width: 8}]\n",
        encoding="utf-8",
    )
    return space, path


def test_labels_that_are_none_are_counted_by_kind(spoiled):
    found = examine(spoiled[1], "auto")
    none = {"missing": 0, "zero": 0, "out_of_range": 0, "jumps": 0, "left_out": 0}
    bad = {"missing": 1, "zero": 2, "out_of_range": 1, "jumps": 2, "left_out": 0}
    assert found["datasets"]["A"]["labels"] == {"labels": 4 * 27, **none}
    assert found["datasets"]["B"]["labels"] == {"labels": 4 * 27, **bad}
    assert found["labels"] == {"labels": 8 * 27, **bad}
    assert found["labels_by_recording"] == {"B/r1": {"labels": 27, **bad}}
    assert found["datasets"]["B"]["dropped"]["by_reason"] == {
        "no label (NaN)": 1,
        "label outside the classes": 3,
    }
    lines = [line.split() for line in in_words(found).splitlines()]
    assert ["B", "108", "1", "2", "1", "2"] in lines
    assert "most in B/r1 (6)" in in_words(found)


def test_a_search_space_is_checked_with_its_own_settings(spoiled):
    space, path = spoiled
    run = CliRunner().invoke(cli.cli, ["data", "check", str(space), "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert (found["path"], found["format"], found["copies"]) == (str(path), "recordings_npz", 2)
    assert found["settings"]["bpm_range"] == [40, 139]
    assert (found["settings"]["stride_s"], found["settings"]["fs"]) == (1.0, 32)
    b = found["datasets"]["B"]
    assert b["windows"] + b["dropped"]["windows"] == 4 * 53  # twice as many as labels
    assert b["dropped"]["by_reason"]["label between two, one of them outside the classes"] >= 2
    assert b["hr_bpm"]["max"] == 125
    assert {side: s["subjects"] for side, s in b["split"].items()} == {"train": 2, "val": 1, "test": 1}
    assert sum(s["windows"] for s in found["split"].values()) == found["windows"]
    text = CliRunner().invoke(cli.cli, ["data", "check", str(space)]).stdout
    assert text == in_words(found) + "\n"
    assert "windows of 8 s every 1 s at 32 Hz, 0.5 to 3.5 Hz; classes 40 to 139 BPM" in text
    assert "2 changed copies" in text


def test_it_keeps_the_windows_that_are_trained_on(spoiled, tmp_path):
    from kd.signals.prepare import prepare
    from orchestrator.space.resolve import space_of

    found = examine_space(str(spoiled[0]), ["data.augment.copies=0"])
    data = prepare(space_of(str(spoiled[0]), ["data.augment.copies=0"], None)[0].data_config(), tmp_path)
    assert {side: s["windows"] for side, s in found["split"].items()} == {
        side: len(getattr(data, side)) for side in ("train", "val", "test")
    }
    assert found["dropped"]["by_recording"] == data.dropped.by_recording


def test_a_space_without_files_and_a_sweep_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps/one").mkdir(parents=True)
    (tmp_path / "sweeps/one/space.yaml").write_text(
        "data: {options: {subjects: 4, minutes: 1}}\nteachers: [{arch: mlp, depth: 1, width: 8}]\n",
        encoding="utf-8",
    )
    found = examine_space("one", ["data.options.subjects=5"])
    assert (found["format"], found["subjects"], found["labels"]["labels"]) == ("synthetic", 5, 5 * 27)
    run = CliRunner().invoke(cli.cli, ["data", "check", "one"])
    assert run.exit_code == 0
    assert run.stdout.startswith("one: synthetic\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no.yaml"], "no.yaml: no such search space"),
        (["mine.yaml", "--format", "spc"], "give mine.yaml data.source=spc"),
        (["mine.yaml", "data.path=nowhere"], "nowhere: no such file or folder"),
        (["mine.yaml", "data.preproces.fs=25"], "did you mean"),
        (["mine.yaml", "data.options.datasets=C"], "no recording of C"),
        (["spoiled.npz", "data.path=x"], "spoiled.npz is no search space"),
    ],
)
def test_what_cannot_be_checked_is_a_usage_error(spoiled, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(spoiled[0].parent)
    monkeypatch.setattr(sys, "argv", ["kdsweep", "data", "check", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "Traceback" not in err


def test_a_bar_is_as_long_as_its_share_and_never_lost():
    drawn = bars([{"from": 60, "to": 70, "windows": n} for n in (1000, 500, 1, 0)])
    assert [line.count("#") for line in drawn] == [40, 20, 1, 0]


def test_recordings_without_any_window_are_still_described(tmp_path):
    path = tmp_path / "short.npz"
    entries = [{"name": "a", "dataset": "W", "subject": "a", "fs": 25}]
    meta = np.frombuffer(json.dumps(entries).encode(), np.uint8)
    np.savez(path, meta_json=meta, **{"a/ppg": np.zeros((1, 50)), "a/hr": np.zeros(1)})
    found = examine(path, "auto")
    assert found["windows"] == 0
    assert found["hr_bpm"] is None
    assert "no window" in in_words(found)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["."], "no known recordings here"),
        (["nowhere"], "nowhere: no such file or folder"),
        ([".", "--format", "spc"], "no spc recordings here: expected a folder with IEEE SPC 2015"),
        ([".", "--format", "spk"], "unknown data format 'spk': did you mean spc?"),
    ],
)
def test_nothing_recognised_is_a_usage_error(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kdsweep", "data", "check", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err


def test_checking_imports_nothing_heavy(mixed):
    code = (
        "import sys; from orchestrator.commands.data import examine, in_words; from pathlib import Path; "
        f"in_words(examine(Path({str(mixed)!r}), 'auto')); "
        "print([m for m in ('torch', 'ray', 'mlflow', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_recordings_without_labels_are_counted_and_those_of_tested_people_apart(spoiled, tmp_path):
    from kd.signals.prepare import prepare
    from orchestrator.space.resolve import space_of

    space, path = spoiled
    overrides = ["data.augment.copies=0", f"data.unlabelled.path={path}"]
    with pytest.raises(InputError, match="a share below 1"):
        examine_space(str(space), [*overrides, "data.unlabelled.gate=quality"])
    found = examine_space(str(space), overrides)["unlabelled"]
    data = prepare(space_of(str(space), overrides, None)[0].data_config(), tmp_path)
    assert found["windows"] == len(data.unlabelled.windows) > 0
    assert found["left_out"] == data.unlabelled.left_out
    text = CliRunner().invoke(cli.cli, ["data", "check", str(space), *overrides]).stdout
    assert f"without labels: {found['windows']:,} windows to train on" in text
    assert "left out: subject validated or tested on" in text
