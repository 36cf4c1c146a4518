"""Students in C on emulated microcontrollers (`kdsweep profile --target m4`), into <sweep>/profile.json."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kd.edge import emulate
from kd.edge.export import preprocess_json
from kd.signals.prepare import load_recordings
from kd.signals.windows import subject_label
from kd.training.train import load_model
from orchestrator.edge import int8
from orchestrator.edge.latency import read_profile
from orchestrator.edge.on_chip import RECORDS
from orchestrator.edge.profile import write_profile
from orchestrator.space.resolve import Opened
from orchestrator.store.refits import store_of

Say = Callable[[str], None]


def profile_targets(
    opened: Opened,
    ids: Iterable[str],
    targets: Iterable[str],
    *,
    precision: str = "fp32",
    again: bool = False,
    say: Say,
) -> dict[str, Any]:
    """Count points' instructions on each of `targets`, in `precision`, write profile.json, return it.

    Of int8 they lie under "targets_int8", of float32 under "targets".

    Only of points that `profile_points` measured before. What the same compiler and emulator counted of the
    same model's C is kept, unless `again`. Raises InputError where they are missing. A student
    that the emulated board has no room for is said and left out.
    """
    emulate.require_tools()
    profile, tools = read_profile(opened.store.path), emulate.versions()
    ids, targets = list(ids), list(dict.fromkeys(targets))
    for i, id in enumerate(ids):
        result = store_of(opened.store.path, id).result(id)
        records = profile["points"][id].setdefault(RECORDS[precision], {})
        student, more = student_of(opened, id, result, precision)
        made_of = {"model_sha256": result["model_sha256"], "c_sha256": emulate.c_sha256(*student)}
        for target in targets:
            wanted = {**made_of, **tools}
            if wanted.items() <= records.get(target, {}).items() and not again:
                say(f"{i + 1} of {len(ids)}: {id} already counted on {target}")
                continue
            try:
                records[target] = record = emulate.measure(*student, target) | made_of | more
            except emulate.TooLarge as why:
                say(f"{i + 1} of {len(ids)}: {id} not counted on {target}: {why}")
                continue
            say(
                f"{i + 1} of {len(ids)}: {id} on {record['cpu']} {record['instructions']:,} instructions a "
                f"window in {precision}, {record['flash_bytes_c']:,} bytes of flash"
            )
            write_profile(opened.store, profile)
    return profile


def student_of(
    opened: Opened, id: str, result: dict[str, Any], precision: str
) -> tuple[tuple[Any, str, dict[str, Any], int], dict[str, Any]]:
    """A trained point as `kd.edge.emulate.measure` takes it (model, architecture, preprocess.json, inputs).

    And what a record has besides: under "test", what int8 costs.
    """
    mine = opened.of_fold(result.get("fold"))
    channels, samples = mine.windows.test.x.shape[1:]
    shape = {"channels": channels, "samples": samples, "classes": mine.windows.classes}
    folder: Path = store_of(opened.store.path, id).folder(id)
    model = load_model(folder, arch=result["arch"], depth=result["depth"], width=result["width"], **shape)
    config = preprocess_json(mine.data, channels)
    inputs = sensor_channels(mine) if config["channels"] == "mean" else channels
    if precision == "fp32":
        return (model, result["arch"], config, inputs), {}
    student = int8.quantised(model, result["arch"], mine.windows)
    return (student, result["arch"], config, inputs), {"test": int8.cost(model, student, mine.windows)}


def sensor_channels(opened: Opened) -> int:
    """The fewest channels of a tested subject's recording: the sensor's, as for `kdsweep export --c`."""
    tested = set(map(str, np.unique(opened.windows.test.subject)))
    return min(len(r.ppg) for r in load_recordings(opened.data) if subject_label(r) in tested)
