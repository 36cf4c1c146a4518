"""The figures that training and its data give, by version: they change only when a version is raised.

A point's id holds RECIPE_VERSION, PREPARE_VERSION and GENERATOR_VERSION, not the code. To accept a change:
raise the version, KDSWEEP_WRITE_GOLDEN=1 pytest tests/kd/training/test_golden.py, and read the diff. What is
new in a registry needs no other version, only to be written.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd.files import read_json, write_json
from kd.models import inits
from kd.models.architectures import ARCHITECTURES
from kd.recordings import Recording
from kd.signals import prepare, synthetic
from kd.signals.augment import Augment
from kd.signals.prepare import PREPARE_VERSION, Data, DataConfig
from kd.signals.preprocess import Preprocess
from kd.signals.splits import SIDES
from kd.signals.windows import Dropped, WindowSet
from kd.training.recipe import RECIPE_VERSION, Recipe, Spec
from kd.training.strategies import STRATEGIES, defaults, needs_teacher
from kd.training.train import Run

HERE = Path(__file__).parent
Figures = dict[str, Any]
# Other CPUs, numbers of threads and instruction sets give these up to 1e-6; what changes a recipe, far more.
TOLERANCE = 2e-5
DEPTH, WIDTH, SAMPLES = 5, 2, 128  # batch norms of 2 filters that are fused, and others that are not
RECIPE = Recipe(
    max_epochs=2,
    batch_size=64,
    lr=1e-2,
    weight_decay=0.05,
    warmup_fraction=0.25,
    clip_norm=0.5,
    patience=0,
    label_sigma_bpm=1.5,
    windows_per_epoch=256,
)
OTHER = {"temperature": 3.0, "window": 2, "warmup_fraction": 1.0}  # of strategies that take them


def cases() -> dict[str, Figures]:
    """What is trained of every architecture: name -> fields of the Spec that are not everyone's."""
    found: dict[str, Figures] = {}
    for arch in ARCHITECTURES:
        for strategy in STRATEGIES:
            args = defaults(strategy)
            found[f"{arch} {strategy}"] = {"arch": arch, "strategy": strategy, "strategy_args": args}
            if other := {name: OTHER[name] for name in args if name in OTHER}:
                found[f"{arch} {strategy} {json.dumps(other)}"] = {
                    "arch": arch,
                    "strategy": strategy,
                    "strategy_args": args | other,
                }
        for init in inits.INITS:
            if inits.needs_teacher(init) and not inits.why_not(arch, DEPTH, WIDTH + 2, arch, DEPTH, WIDTH):
                found[f"{arch} scratch {init}"] = {"arch": arch, "init": init}
        one_hot = dataclasses.replace(RECIPE, label_sigma_bpm=0.0, windows_per_epoch=0)
        found[f"{arch} one-hot"] = {"arch": arch, "recipe": one_hot}
        wsd = dataclasses.replace(RECIPE, schedule="wsd", cooldown_fraction=0.5, warmup_epochs=1.5)
        found[f"{arch} dkd wsd"] = {"arch": arch, "recipe": wsd, "strategy": "dkd"}
        found[f"{arch} dkd wsd"]["strategy_args"] = defaults("dkd") | OTHER
    return found


def windows(n: int, first: int) -> WindowSet:
    """Pulses of given rates by formula, so that they depend on no generator."""
    i, t = np.arange(first, first + n)[:, None, None], np.arange(SAMPLES) / 25.0
    bpm = 50.0 + 70.0 * ((i * 0.6180339887) % 1)
    phase = 2 * np.pi * (bpm / 60 * t + (i * 0.7548776662) % 1)
    channel = np.arange(2)[None, :, None]
    x = np.sin(phase + channel) + 0.4 * np.sin(2 * phase + i) + 0.3 * np.sin(7.7 * t * (1 + channel) + i * i)
    subject = np.array([f"s{k % 3}" for k in range(n)])
    return WindowSet(x, bpm.ravel(), subject, subject)


def training(dtype: torch.dtype, folder: Path) -> dict[str, Figures]:
    """The figures of every case after two epochs of four steps."""
    data = Data(windows(300, 0), windows(40, 300), windows(40, 340), "golden", Dropped({}), 30, 180)
    teachers: dict[str, Path] = {}
    for arch in ARCHITECTURES:
        teachers[arch] = folder / f"teacher {arch}"
        trained(
            Spec("t", "teacher", arch, DEPTH, WIDTH + 2, seed=1, recipe=RECIPE), data, teachers[arch], dtype
        )
    found = {}
    for name, fields in cases().items():
        spec = Spec("s", "student", depth=DEPTH, width=WIDTH, seed=3, **{"recipe": RECIPE} | fields)
        taught = needs_teacher(spec.strategy) or inits.needs_teacher(spec.init)
        spec = dataclasses.replace(spec, teacher="t" if taught else None)
        found[name] = trained(spec, data, folder / name, dtype, teachers[spec.arch] if taught else None)
    return found


def trained(spec: Spec, data: Data, folder: Path, dtype: torch.dtype, teacher: Path | None = None) -> Figures:
    run = Run(spec, data, folder, teacher_folder=teacher, dtype=dtype)
    rows = []
    while row := run.step():
        rows.append(row)
    state = run.stack.state(0, len(rows))
    ended = run.finish()
    return {
        **{key: [row[key] for row in rows] for key in ("train_loss", "val_mae_bpm", "lr")},
        "best_epoch": ended["best_epoch"],
        "mae_bpm": ended["mae_bpm"],
        "weights": summed(
            np.concatenate([v.double().flatten() for k, v in state.items() if "running" not in k])
        ),
        "statistics": summed(
            np.concatenate([v.double().flatten() for k, v in state.items() if "running" in k])
        ),
    }


def summed(values: np.ndarray) -> list[float]:
    """The norm of some numbers, and a sum that knows their order, in units of the norm."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float64).ravel())
    if not values.size:
        return []
    norm = float(np.linalg.norm(values))
    return [norm, float(np.cos(0.1 + np.arange(values.size)) @ values) / norm]


def recordings() -> list[Recording]:
    """Seven subjects of one minute at 32 Hz, with two channels and a gap."""
    made = []
    for k in range(7):
        t = np.arange(60 * 32) / 32.0
        bpm = 70 + 6 * k + 15 * np.sin(t / (9 + k))
        phase = 2 * np.pi * np.cumsum(bpm) / 60 / 32
        ppg = np.stack([np.sin(phase) + 0.5 * np.sin(3.3 * t + k), 3 * np.sin(phase + 1) + np.sin(9.1 * t)])
        ppg[:, 700 : 700 + 8 * k] = np.nan
        hr = bpm[: 26 * 64].reshape(26, 64)[:, :32].mean(1)
        made.append(
            Recording(f"r{k}", "golden", f"s{k}", ppg.astype(np.float32), 32.0, hr.astype(np.float32))
        )
    return made


CONFIGS = {
    "default": DataConfig(),
    "strides between labels": DataConfig(preprocess=Preprocess(stride_s=1.5, window_s=6.0)),
    "all channels as they are": DataConfig(preprocess=Preprocess(channels="all", normalise="none", fs=20.0)),
    "first channel": DataConfig(preprocess=Preprocess(channels="first", order=2, low_hz=0.7, high_hz=3.5)),
    "augmented": DataConfig(augment=Augment(copies=2)),
}


def prepared(folder: Path) -> dict[str, Figures]:
    """The figures of the windows that the recordings above are cut into."""
    found = {}
    for name, config in CONFIGS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepare, "each_recording", lambda config, progress=None: recordings())
            data = prepare.prepare(config, folder)
        found[name] = {}
        for side in SIDES:
            part: WindowSet = getattr(data, side)
            found[name][side] = [
                *part.x.shape,
                *summed(part.x),
                *summed(part.bpm),
                *np.unique(part.subject).tolist(),
            ]
    return found


def generated(_: Path) -> dict[str, Figures]:
    """The figures of synthetic recordings."""
    configs = {
        "default": synthetic.Synthetic(subjects=2, minutes=1.0),
        "still, at 40 Hz": synthetic.Synthetic(
            subjects=2, minutes=1.0, seed=1, motion=0.0, noise=0.5, fs=40.0
        ),
    }
    return {
        name: {r.name: [*r.ppg.shape, *summed(r.ppg), *summed(r.hr)] for r in synthetic.recordings(config)}
        for name, config in configs.items()
    }


# file -> the version it is of, that version's name, what gives the figures
GOLDEN: dict[str, tuple[int, str, Callable[[Path], dict[str, Figures]]]] = {
    "training": (RECIPE_VERSION, "RECIPE_VERSION", lambda folder: training(torch.float64, folder)),
    "windows": (PREPARE_VERSION, "PREPARE_VERSION", prepared),
    "generator": (synthetic.GENERATOR_VERSION, "GENERATOR_VERSION", generated),
}


def different(found: Any, golden: Any, tolerance: float) -> bool:
    """Whether figures differ by more than this, relative, and for what is about 1 or less absolute."""
    if isinstance(golden, Mapping):
        return found.keys() != golden.keys() or any(different(found[k], golden[k], tolerance) for k in golden)
    if isinstance(golden, list):
        pairs = zip(found, golden, strict=False)
        return len(found) != len(golden) or any(different(a, b, tolerance) for a, b in pairs)
    return found != (
        golden if isinstance(golden, str) else pytest.approx(golden, rel=tolerance, abs=tolerance)
    )


def why_not(found: Mapping[str, Any], golden: Mapping[str, Any], version: int, name: str) -> str:
    """Why these figures may not be written as the new golden ones; "" if they may."""
    was = golden["figures"]
    changed = [case for case in found if case in was and different(found[case], was[case], TOLERANCE)]
    if changed and version == golden["version"]:
        return f"{name} is still {version}, but it now gives other figures for {', '.join(changed)}: raise it"
    return ""


def rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


@pytest.fixture(autouse=True)
def doubles():
    """Weights begin in double precision: in single, instruction sets draw other last digits, ReLUs flip."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("which", GOLDEN)
def test_figures_change_only_with_the_version(which, tmp_path):
    version, name, figures = GOLDEN[which]
    found, file = rounded(figures(tmp_path)), HERE / f"golden_{which}.json"
    golden = read_json(file) if file.exists() else {"version": version, "figures": {}}
    assert not (why := why_not(found, golden, version, name)), why
    if os.environ.get("KDSWEEP_WRITE_GOLDEN"):
        write_json(file, {"version": version, "figures": found})
    golden = read_json(file)
    accept = "write it: see the head of this file"
    assert golden["version"] == version, f"{file.name} is of another {name}: {accept}"
    assert golden["figures"].keys() == found.keys(), f"{file.name} has other cases: {accept}"


def test_single_precision_trains_to_the_same_figures(tmp_path):
    """What sweeps train in, as far as rounding is not blown up where ReLUs flip."""
    found, golden = training(torch.float32, tmp_path), read_json(HERE / "golden_training.json")["figures"]
    assert [case for case in found if different(found[case], golden[case], 5e-2)] == []


def test_other_figures_are_only_written_under_another_version():
    golden = {"version": 3, "figures": {"a": {"loss": [1.0, 2.0]}, "b": {"loss": [5.0]}}}
    rest = {"b": {"loss": [5.0]}}
    assert not why_not({"a": {"loss": [1.0, 2.000001]}, **rest}, golden, 3, "VERSION")
    assert not why_not({**golden["figures"], "new": {"loss": [7.0]}}, golden, 3, "VERSION")
    for changed in ({"loss": [1.0, 2.001]}, {"loss": [1.0]}, {"error": [1.0, 2.0]}):
        assert "VERSION is still 3, but it now gives other figures for a: raise it" in why_not(
            {"a": changed, **rest}, golden, 3, "VERSION"
        )
        assert not why_not({"a": changed, **rest}, golden, 4, "VERSION")
