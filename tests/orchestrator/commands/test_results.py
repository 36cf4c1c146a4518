"""`kdsweep results`: sorted, filtered, and the same in every format."""

import csv
import io
import json

import pandas as pd
import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.api import open_sweep
from orchestrator.commands import main as cli
from orchestrator.store.metric import Headline, error_of
from orchestrator.store.store import Store
from orchestrator.store.table import frame, keep, ordered, rows_of


def kdsweep(*args):
    return CliRunner().invoke(cli.cli, [str(a) for a in args])


@pytest.fixture(scope="module")
def rows(tiny_sweep):
    return rows_of(Store(tiny_sweep).results(), Headline("by-subject"))


def test_the_table_is_sorted_and_keeps_ids_whole_at_80_columns(tiny_sweep, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = kdsweep("results", tiny_sweep).stdout.splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    expected = [r["id"] for r in sorted(Store(tiny_sweep).results(), key=error_of)]
    assert [line.split()[0] for line in lines[1:-1]] == expected
    monkeypatch.setenv("COLUMNS", "30")
    narrow = kdsweep("results", tiny_sweep, "--sort", "-mae_bpm").stdout.splitlines()
    assert [line.split()[0] for line in narrow[1:-1]] == expected[::-1]


def test_a_name_is_text_not_markup(fitted_sweep):
    run = kdsweep("results", fitted_sweep, "--filter", "params<3000")
    assert "</script>" in run.stdout


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("arch=mlp", lambda r: r["arch"] == "mlp"),
        ("arch != mlp", lambda r: r["arch"] != "mlp"),
        ("params<=1000", lambda r: r["params"] <= 1000),
        ("params>1000", lambda r: r["params"] > 1000),
        ("width=4", lambda r: r["width"] == 4),
        ("teacher=", lambda r: True),
        ("teacher!=", lambda r: False),
        ("recipe.max_epochs=1", lambda r: True),
        ("finished_at>=2027", lambda r: False),
    ],
)
def test_conditions(rows, condition, kept):
    assert keep(rows, [condition]) == [r for r in rows if kept(r)]


def test_conditions_add_up(rows):
    found = keep(rows, ["arch=resnet1d", "width>=3", "width<6"])
    assert sorted(r["width"] for r in found) == [3, 4, 5]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("parms<3", "no column 'parms': did you mean params?"),
        ("params", "is no condition"),
        ("params<many", "'many' is none"),
        ("__import__('os').system('x')=1", "no column"),
    ],
)
def test_what_is_no_condition_is_said(tiny_sweep, rows, condition, message):
    with pytest.raises(InputError, match=message):
        keep(rows, [condition])


def test_an_unknown_column_to_sort_by(tiny_sweep, tmp_path):
    for folder in (tiny_sweep, tmp_path):
        (folder / "points").mkdir(exist_ok=True)
        run = kdsweep("results", folder, "--sort", "mae")
        assert isinstance(run.exception, InputError)
        assert "no column 'mae'" in str(run.exception)


def test_absent_values_come_last():
    rows = [{"a": None}, {"a": 1}, {"a": 2}]
    assert [r["a"] for r in ordered(rows, "a")] == [1, 2, None]
    assert [r["a"] for r in ordered(rows, "-a")] == [2, 1, None]


def test_every_format_holds_the_same(tiny_sweep, rows, tmp_path):
    args = ("results", tiny_sweep, "--sort", "params")
    shown = json.loads(kdsweep(*args, "--json").stdout)
    assert shown == ordered(rows, "params")
    assert kdsweep(*args, "--csv", tmp_path / "r.csv").exit_code == 0
    assert (tmp_path / "r.csv").read_text() == kdsweep(*args, "--csv", "-").stdout
    read = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [r["point"] for r in read] == [r["point"] for r in shown]
    assert [float(r["mae_bpm"]) for r in read] == [r["mae_bpm"] for r in shown]
    assert kdsweep(*args, "--parquet", tmp_path / "r.parquet").exit_code == 0
    found = pd.read_parquet(tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(found, frame(shown))
    whole = open_sweep(tiny_sweep).results().sort_values("point", ignore_index=True)
    pd.testing.assert_frame_equal(found.sort_values("point", ignore_index=True), whole)


def test_columns_of_mixed_strategies():
    like = {"id": "a", "role": "student", "arch": "mlp", "mae_bpm": 3.0}
    results = [
        like | {"id": "a", "strategy_args": {"temperature": 4.0, "flag": True, "steps": 3}},
        like | {"id": "b", "strategy_args": {"beta": [1, 2]}},
    ]
    found = frame(rows_of(results, Headline()))
    kinds = {name: str(found[f"args.{name}"].dtype) for name in ("temperature", "flag", "steps", "beta")}
    assert kinds == {"temperature": "Float64", "flag": "boolean", "steps": "Int64", "beta": "string"}
    assert found["args.temperature"].isna().tolist() == [False, True]


def test_rows_by_subject_have_windows_and_every_format(tiny_sweep, tmp_path):
    read = json.loads(kdsweep("results", tiny_sweep, "--by", "subject", "--json").stdout)
    results = {r["id"]: r for r in Store(tiny_sweep).results()}
    assert {row["point"] for row in read} == set(results)
    for row in read:
        sums = results[row["point"]]["subjects"][row["subject"]]
        assert row["windows"] == sums["windows"] > 0
        assert row["mae_bpm"] == pytest.approx(sums["abs_sum"] / sums["windows"])
        assert row["rmse_bpm"] >= row["mae_bpm"] - 1e-9
    assert [row["mae_bpm"] for row in read] == sorted(row["mae_bpm"] for row in read)
    table = kdsweep("results", tiny_sweep, "--by", "subject", "--filter", "mae_bpm<0").stderr
    assert "no trained point" in table
    assert kdsweep("results", tiny_sweep, "--by", "dataset").stdout.split()[:3] == ["point", "dataset", "MAE"]
    found = open_sweep(str(tiny_sweep)).results(by="subject")
    assert str(found["windows"].dtype) == "Int64"
    assert len(found) == len(read)
