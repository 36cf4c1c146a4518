"""`kdsweep data check`: what it says of recordings, to people and to programs, and what it says of none."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from orchestrator.commands import main as cli
from orchestrator.commands.data import bars, examine, in_words


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
