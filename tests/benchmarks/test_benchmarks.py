"""The benchmarks compare like with like: the naive script trains our models, a stack its members."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kd.edge.export import write_recordings
from kd.models.architectures import build
from kd.signals import synthetic
from kd.signals.prepare import DataConfig
from kd.training.objective import Labels, Objective
from kd.training.strategies import STRATEGIES

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bring
import economy
import first_gpu_contact
import naive_tune
import stack_gpu
import sweep_vs_naive
import unlabelled


class Teacher:
    """Outputs of a teacher for a handful of windows."""

    logits, features = torch.randn(6, 180) * 3, torch.randn(6, 7)


@pytest.mark.parametrize(("arch", "depth", "width"), [("resnet1d", 5, 4), ("mlp", 2, 8)])
def test_the_naive_scripts_models_are_ours(arch, depth, width):
    ours = build(arch, depth, width)
    theirs = naive_tune.model_of({"arch": arch, "depth": depth, "width": width})
    state = {k: v.squeeze(2) if v.ndim == 4 else v for k, v in ours.state_dict().items()}
    theirs.load_state_dict(state)
    x = torch.randn(6, 1, 200)
    for mine, other in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_a_sweep_and_the_naive_script_train_the_same_points_of_one_split(tmp_path):
    overrides = [*sweep_vs_naive.GRID, *sweep_vs_naive.SMALL]
    space = sweep_vs_naive.opened(tmp_path, overrides)
    assert len(space.plan.points) == 83
    assert space.plan.folds == []
    assert all("stop_on" not in p.recipe for p in space.plan.points), "the naive script stops by windows"
    assert DataConfig(source=space.data.source, options=space.data.options) == space.data


@pytest.mark.parametrize("strategy", ["scratch", "hard", "soft", "dkd", "feature"])  # those of the quickstart
def test_the_naive_scripts_losses_are_ours(strategy):
    generator = torch.Generator().manual_seed(1)
    logits, features = torch.randn(6, 180, generator=generator), torch.randn(6, 7, generator=generator)
    bpm = torch.tensor([30.0, 61.2, 72.4, 88.9, 120.0, 180.3])
    weights = STRATEGIES[strategy]()
    args = {"temperature": weights.temperature, **weights.terms}
    args |= {"alpha": weights.terms.get("tckd"), "beta": weights.terms.get("nckd")}
    args["weight"] = next((args[name] for name in ("hard", "soft", "feature") if name in args), None)
    point = {"strategy": strategy, "strategy_args": args, "recipe": {"label_sigma_bpm": 1.5}}
    taught = None if strategy == "scratch" else (Teacher.logits, Teacher.features)
    theirs = naive_tune.loss_of(point, (logits, features), taught, bpm, 0.5)
    labels = Labels(torch.arange(30.0, 210.0), 1.5)
    teachers = [None if strategy == "scratch" else Teacher()]
    objective = Objective([weights], labels, teachers)
    connected = {width: features.unsqueeze(0) for width in objective.featured}
    index = torch.arange(6).unsqueeze(0)
    ours = objective(logits.unsqueeze(0), connected, bpm.unsqueeze(0), index, torch.tensor([0.5]))
    torch.testing.assert_close(ours[0], theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture
def two_sensors(tmp_path):
    """A file of ten wrists and two fingers, half a minute each."""
    made = synthetic.recordings(synthetic.Synthetic(subjects=12, minutes=0.5))
    sets = ["SPC-train"] * 5 + ["BAMI-1"] * 5 + ["BIDMC"] * 2
    recordings = [dataclasses.replace(r, dataset=s) for r, s in zip(made, sets, strict=True)]
    write_recordings(tmp_path / "ppg.npz", recordings, {"BIDMC": 6.0})
    few = ["--folds", "0", "--epochs", "1", "--teacher", "1x4", "--students", "1x4"]
    return [str(tmp_path / "ppg.npz"), *few, "--out", str(tmp_path / "out")]


def test_labels_are_thrown_away_of_training_subjects_only(two_sensors, tmp_path, capsys):
    parts = [part for part in unlabelled.PARTS if part != "ways"]  # more of what "teachers" does
    unlabelled.main([*two_sensors, "--parts", *parts, "--pretrain", "1", "--copies", "1"])
    table = capsys.readouterr().out
    arms = {line.split("|")[1].strip() for line in table.splitlines() if line.startswith(("| all", "| a q"))}
    assert len(arms) == 12, table
    assert "came back: " in table

    def figures(name):
        return [json.loads(path.read_text()) for path in tmp_path.glob(f"out/{name}-0/points/*/result.json")]

    full, thrown = figures("full"), figures("thrown")
    assert len({tuple(sorted(r["mae_by_subject"])) for r in (*full, *thrown)}) == 1, "tested on the same"
    (student,) = [r for r in thrown if r["role"] == "student"]
    (teacher,) = [r for r in thrown if r["role"] == "teacher"]
    assert teacher["brought"]["same_split"]
    assert student["unlabelled_windows"] > 0
    assert sum(r["role"] == "teacher" for r in figures("thrown-pretrained")) == 1


def test_a_brought_teacher_is_told_from_rounding(two_sensors, capsys):
    bring.main([*two_sensors, "--students", "1x4"])
    rows = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "|" in line}
    assert "0.0e+00 | 0.0e+00 | 0.0e+00 | 3 of 3 | 0.0e+00" in rows[bring.SAME]
    assert 0 < float(rows[bring.MOVED].split("|")[2]) < 1e-5
    assert float(rows["ONNX file"].split("|")[2]) < 1e-4
    bring.main([*two_sensors, "--encoder", "Encoder1M"])
    assert "CPU seconds: teachers of 1 folds " in capsys.readouterr().out


def test_the_stack_that_is_timed_trains_its_members(monkeypatch):
    monkeypatch.setattr(stack_gpu, "WINDOWS", 512)
    windows = stack_gpu.Windows("cpu")
    for student in stack_gpu.QUICK:
        assert stack_gpu.check(windows, student, 2) < 1e-4
    rate = stack_gpu.stack_rate(("resnet1d", 2, 4), 2, windows, 1, "float32", 1)
    assert rate > 0
    memory, arithmetic = stack_gpu.floor_seconds(("resnet1d", 4, 14), stack_gpu.ROOF["H200"])
    assert 0 < arithmetic < memory < 1e-3


BARE = """
import sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ImportError(name + " is not on a bare machine")
sys.meta_path.insert(0, Bare())
"""
ABSENT = {
    "ray",
    "mlflow",
    "pandas",
    "scipy",
    "safetensors",
    "yaml",
    "pyarrow",
    "onnx",
    "orchestrator",
    "slurm",
}


def test_the_first_contact_with_a_gpu_tries_all_it_does_on_a_machine_with_torch_and_numpy_only(tmp_path):
    """But CUDA itself."""
    (tmp_path / "sitecustomize.py").write_text(BARE % ABSENT, encoding="utf-8")
    out = tmp_path / "contact.json"
    done = subprocess.run(
        ["sh", str(Path(__file__).with_name("first_gpu_contact.sh")), "--device", "cpu", "--out", str(out)],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert last.startswith("PASS")
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["pass"]
    checks = record["checks"]
    assert len(checks) == len(lines)
    kinds = {name.partition(" ")[0] for name in checks}
    assert kinds == {"capture", "equality", "probe", "want", "orders"}
    for arch in ("resnet1d", "mlp"):
        for strategy in STRATEGIES:
            assert any(name.startswith(f"equality {arch}") and strategy in name for name in checks)


def test_a_difference_and_an_error_fail_the_first_contact(monkeypatch):
    """One check that fails keeps none of the others from being made."""
    case = first_gpu_contact.Case(("mlp", 1, 4), ["scratch"], 64)
    assert first_gpu_contact.equality("cpu", case, "grouped")["ok"]
    stack = first_gpu_contact.Case.stack

    def wrong(self, device, dtype=torch.float32, way="grouped"):
        one = stack(self, device, dtype, way)
        if dtype == torch.float32:
            one.optimiser.flat.mul_(1.001)
        return one

    monkeypatch.setattr(first_gpu_contact.Case, "stack", wrong)

    def breaks():
        raise RuntimeError("CUDA error: some")

    done = first_gpu_contact.run(
        {
            "error": breaks,
            "other": lambda: first_gpu_contact.equality("cpu", case, "grouped"),
            "fine": lambda: first_gpu_contact.orders("cpu", 2, 100),
        }
    )
    assert [figures["ok"] for figures in done.values()] == [False, False, True]
    assert "CUDA error: some" in done["error"]["traceback"]


def test_an_economy_is_replayed_and_a_teacher_paid_once():
    world = economy.simulated(2)  # late-crossing
    assert {p.teacher for p in world.points if p.role == "student"} - {None} <= {p.id for p in world.points}
    replay = economy.Replay(world)
    first, second = [p for p in world.points if p.teacher == "T6x16-0"][:2]
    replay.train(first.id, 3)
    assert replay.done(first.teacher)
    before = replay.spent
    replay.train(second.id, 3)
    assert second.teacher == first.teacher
    assert replay.spent - before == pytest.approx(3 * world.seconds_per_epoch[second.id])
    assert set(replay.known().results) == {first.teacher}
    assert {len(c) for id, c in replay.known().curves.items() if id != first.teacher} == {3}


def test_the_ways_of_an_economy_are_compared_at_equal_cost():
    found = [economy.judge((8, 0, ("random", "ASHA", "V-optimal", "clairvoyant"), 0.08))]
    ways = found[0]["ways"]
    assert {len(errors) for errors in ways.values()} == {3}
    assert ways["ours"][-1] < np.inf, "a student is trained, with its teacher, for 8 % of the grid's cost"
    assert ways["ours"][-1] <= ways["random"][-1]
    assert found[0]["grid"] >= 0, "no answer is better than the best there is"
    table = economy.table(found, 0.08)
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == list(ways)
    assert economy.settled(np.array([[1.0, 0.05, 0.0], [0.0, 0.0, 0.0]]), (0.1, 0.2, 0.3)) == 0.2
    assert economy.settled(np.array([[0.0, 0.0, 1.0]]), (0.1, 0.2, 0.3)) is None
