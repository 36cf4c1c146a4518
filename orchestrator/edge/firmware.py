"""Students in C on emulated microcontrollers (`kdsweep profile --target m4`), into <sweep>/profile.json."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kd.edge import emulate
from kd.edge.c import instructions
from kd.edge.export import preprocess_json
from kd.errors import InputError
from kd.signals.prepare import load_recordings
from kd.signals.windows import subject_label
from kd.training.train import load_model
from orchestrator.edge import int8
from orchestrator.edge.latency import read_profile
from orchestrator.edge.on_chip import RECORDS
from orchestrator.edge.profile import write_profile
from orchestrator.edge.seen import opened_for
from orchestrator.space.resolve import Opened
from orchestrator.store.refits import store_of

CMSIS_NN_RECORDS = "targets_int8_cmsis_nn"
Say = Callable[[str], None]


def profile_targets(
    opened: Opened,
    ids: Iterable[str],
    targets: Iterable[str],
    *,
    precision: str = "fp32",
    cmsis_nn: Path | None = None,
    again: bool = False,
    say: Say,
) -> dict[str, Any]:
    """Count points' instructions on each of `targets`, in `precision`, write profile.json, return it.

    Of int8 they lie under "targets_int8", of float32 under "targets", of int8 with products by `cmsis_nn`, a
    checkout of that library, under "targets_int8_cmsis_nn". The targets of a point are built and run at once.

    Only of points that `profile_points` measured before. What the same compiler and emulator counted of the
    same model's C is kept, unless `again`. Raises InputError where they are missing. A student
    that the emulated board has no room for, or that has no C, is said and left out.
    """
    require(precision, cmsis_nn)
    profile, tools = read_profile(opened.store.path), emulate.versions()
    ids, targets = list(ids), list(dict.fromkeys(targets))
    for i, id in enumerate(ids):
        result = store_of(opened.store.path, id).result(id)
        if not instructions.known(result["arch"]):
            say(f"{i + 1} of {len(ids)}: {id} not counted: {result['arch']} has no C")
            continue
        where = RECORDS[precision] if cmsis_nn is None else CMSIS_NN_RECORDS
        records = profile["points"][id].setdefault(where, {})
        student, more = student_of(opened, id, result, precision)
        made_of = {"model_sha256": result["model_sha256"], "c_sha256": emulate.c_sha256(*student, cmsis_nn)}
        known = {t for t in targets if (made_of | tools).items() <= records.get(t, {}).items() and not again}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            counts = {
                t: pool.submit(emulate.measure, *student, t, cmsis_nn) for t in targets if t not in known
            }
            for target in targets:
                if target in known:
                    say(f"{i + 1} of {len(ids)}: {id} already counted on {target}")
                    continue
                try:
                    records[target] = record = counts[target].result() | made_of | more
                except emulate.TooLarge as why:
                    say(f"{i + 1} of {len(ids)}: {id} not counted on {target}: {why}")
                    continue
                said = f"{record['instructions']:,} instructions a window in {precision}"
                flash = f"{record['flash_bytes_c']:,} bytes of flash"
                say(f"{i + 1} of {len(ids)}: {id} on {record['cpu']} {said}, {flash}")
                write_profile(opened.store, profile)
    return profile


def require(precision: str, cmsis_nn: Path | None) -> None:
    """InputError where a compiler, an emulator or CMSIS-NN is missing, or `precision` has no use for that."""
    emulate.require_tools()
    if cmsis_nn is not None:
        emulate.require_cmsis_nn(cmsis_nn)
        if precision != "int8":
            raise InputError("--cmsis-nn: CMSIS-NN computes in 8 bits: add --precision int8, or leave it out")


def student_of(
    opened: Opened, id: str, result: dict[str, Any], precision: str
) -> tuple[tuple[Any, str, dict[str, Any], int], dict[str, Any]]:
    """A trained point as `kd.edge.emulate.measure` takes it (model, architecture, preprocess.json, inputs).

    And what a record has besides: under "test", what int8 costs.
    """
    mine = opened_for(opened.of_fold(result.get("fold")), result)
    channels, samples = mine.windows.test.x.shape[1:]
    shape = {"channels": channels, "samples": samples, "classes": mine.windows.classes}
    folder: Path = store_of(opened.store.path, id).folder(id)
    model = load_model(folder, arch=result["arch"], depth=result["depth"], width=result["width"], **shape)
    config = preprocess_json(mine.data, channels, result.get("acc_scale"))
    inputs = sensor_channels(mine) if config["channels"] == "mean" else channels - mine.windows.axes
    if precision == "fp32":
        return (model, result["arch"], config, inputs), {}
    student = int8.quantised(model, result["arch"], mine.windows)
    return (student, result["arch"], config, inputs), {"test": int8.cost(model, student, mine.windows)}


def sensor_channels(opened: Opened) -> int:
    """The fewest channels of a tested subject's recording: the sensor's, as for `kdsweep export --c`."""
    tested = set(map(str, np.unique(opened.windows.test.subject)))
    return min(len(r.ppg) for r in load_recordings(opened.data) if subject_label(r) in tested)
