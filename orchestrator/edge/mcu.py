"""Students on a microcontroller's runtime, in a Python environment of its own (the extra [mcu]).

litert-torch wants other versions than mlflow, and gigabytes: the environment is made when it is first asked
for, and only for the arena and flash of the students that matter.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd.errors import InputError
from kd.signals.prepare import Data
from orchestrator.edge.latency import read_profile
from orchestrator.edge.profile import calibration_windows, describe, drift, write_profile
from orchestrator.edge.seen import windows_for
from orchestrator.space.folds import windows_of
from orchestrator.store.refits import store_of
from orchestrator.store.store import Store

HELD_OUT_WINDOWS = 1000  # tflite's interpreter takes one at a time
READY, MAKING = "ready", "making"  # files in an environment that is complete, and in one that is made here
MODULES = ("torch", "safetensors", "litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_micro")
Say = Callable[[str], None]


def default_environment() -> Path:
    """Where the environment is made unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "kdsweep" / "mcu"


def environment(folder: Path, say: Say) -> Path:
    """The Python of the environment at `folder`, made and installed into if it isn't there.

    Raises InputError with what pip said when it can't be installed here, and then nothing is left behind; and
    for a folder of somebody else's, which is never changed, if it is no environment with what is needed.
    """
    python = folder / "bin" / "python"
    if (folder / READY).exists():
        return python
    wanted = requirements()
    if folder.exists() and not (folder / MAKING).exists() and any(folder.iterdir()):
        if lacking := _lacking(python):
            raise InputError(
                f"{folder} lacks {', '.join(lacking)}: install {', '.join(wanted)} into it, or name a folder "
                f"that does not exist yet with --mcu-env"
            )
        return python
    say(f"making an environment for {', '.join(wanted)} in {folder}: some 2 GB, once")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MAKING).touch()
    try:
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        torch = importlib.metadata.version(
            "torch"
        )  # this one's wheel is known to be found, and may be CPU-only
        try:
            _run([*pip, f"torch=={torch}", *wanted])
        except _Failed:
            _run([*pip, *wanted])
    except _Failed as failed:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            f"the [mcu] environment can't be installed here: {failed}\n"
            f"go on without --mcu or --tflite, or give an environment that has {', '.join(wanted)} "
            f"with --mcu-env"
        ) from None
    (folder / READY).touch()
    return python


def _lacking(python: Path) -> list[str]:
    """Which of MODULES a Python has not; all of them if there is no such Python."""
    code = f"import importlib.util as u; print(*[m for m in {MODULES!r} if u.find_spec(m) is None])"
    try:
        return _run([str(python), "-c", code]).split()
    except (OSError, _Failed):
        return list(MODULES)


def requirements() -> list[str]:
    """What the extra [mcu] names."""
    found = []
    for line in importlib.metadata.requires("kdsweep") or []:
        requirement, _, marker = line.partition(";")
        if re.search(r"""extra\s*==\s*['"]mcu['"]""", marker):
            found.append(requirement.strip())
    return found


def profile_mcu(
    store: Store, ids: Iterable[str], data: Data | Mapping[int, Data], folder: Path, say: Say
) -> dict[str, Any]:
    """Record .tflite bytes, tensor arena and int8 error of points into profile.json, and return it."""
    python = environment(folder, say)
    profile = read_profile(store.path)
    ids = list(ids)
    for i, id in enumerate(ids):
        own = store_of(store.path, id)
        result = own.result(id)
        mine = windows_for(windows_of(data, result.get("fold")), result)
        point = profile["points"].setdefault(id, describe(result, mine))  # may be none that was timed
        if point.get("mcu", {}).get("model_sha256") == result["model_sha256"]:
            say(f"{i + 1} of {len(ids)}: {id} has its arena recorded")
            continue
        point["mcu"] = record = measure_mcu(own, result, mine, python)
        arenas = ", ".join(f"{name} {record[name]['arena_bytes']:,}" for name in ("fp32", "int8"))
        say(f"{i + 1} of {len(ids)}: {id} arena bytes {arenas}")
        write_profile(store, profile)
    return profile


def measure_mcu(
    store: Store, result: dict[str, Any], data: Data, python: Path, keep: Path | None = None
) -> dict[str, Any]:
    """One point's record: per precision flash_bytes, arena_bytes, mae_bpm and drift_bpm against torch.

    Of int8 also "input" and "output", how both are quantised. keep: where the int8 file shall be put. Raises
    InputError where it can't be made.
    """
    import torch

    from kd.training import metrics
    from kd.training.teacher import MODEL

    step = max(len(data.test) // HELD_OUT_WINDOWS, 1)
    held_out, bpm = np.asarray(data.test.x[::step]), np.asarray(data.test.bpm[::step])
    centres = metrics.class_centres(data.min_bpm, data.classes)
    root = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as temporary:
        windows = Path(temporary) / "windows.npz"
        np.savez(windows, calibration=calibration_windows(data), held_out=held_out)
        model = store.folder(result["id"]) / MODEL
        try:
            said = _run(
                [str(python), "-m", "kd.edge.mcu", str(model), str(windows), temporary], {"PYTHONPATH": root}
            )
        except (OSError, _Failed) as failed:
            raise InputError(
                f"no .tflite of {result['id']}: {python} failed with {failed}; remove {python.parents[1]} "
                f"to have it made again"
            ) from None
        record: dict[str, Any] = json.loads(said.splitlines()[-1])
        if keep is not None:
            shutil.copyfile(Path(temporary) / "int8.tflite", keep)
        with np.load(Path(temporary) / "logits.npz") as logits:
            predicted = {
                name: metrics.decode_expectation(torch.from_numpy(logits[name]), centres).numpy()
                for name in ("torch", "fp32", "int8")
            }
    for name in ("fp32", "int8"):
        record[name]["mae_bpm"] = metrics.error_figures(predicted[name], bpm)["mae_bpm"]
        record[name]["drift_bpm"] = drift(predicted[name], predicted["torch"])
    return record | {"model_sha256": result["model_sha256"], "held_out_windows": len(bpm)}


class _Failed(RuntimeError):
    """A command that ended badly; its last words."""


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise _Failed(" ".join(done.stderr.strip().splitlines()[-3:]) or f"exit code {done.returncode}")
    return done.stdout
