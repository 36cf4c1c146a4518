"""What students cost on a microcontroller of the device table: columns of laws.json's document. numpy only.

Instructions are counted where `kdsweep profile --target` did, else computed from the shape
(`kd.edge.c.instructions`); milliseconds and microjoules are computed from them and the chip's numbers.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from kd.edge.c import instructions, instructions8
from kd.errors import InputError
from orchestrator.edge.device_table import Chip
from orchestrator.words import quoted

LAWS: dict[str, Any] = {"fp32": instructions, "int8": instructions8}
RECORDS = {"fp32": "targets", "int8": "targets_int8"}  # precision -> where profile.json has what was counted
C_OF = {"fp32": "float32 C", "int8": "int8 C"}
COUNTED, COMPUTED = "counted in QEMU", "computed from the shape"
ABOUT = "QEMU counts instructions, not cycles or wait states"


def attach_chip(document: dict[str, Any], profile: dict[str, Any], chip: Chip) -> dict[str, Any]:
    """The document with what its configurations cost on `chip`, and document["chip"], which says of what.

    Columns, for each precision P: instructions_P of a window, latency_ms_P of one, uj_P from one heart rate
    to the next (None where the chip's file lacks a number, or no law knows the architecture);
    memory_bytes_int8 is the arena of the int8 C, if it has one. document["profile"]["int8"] is what that C
    cost in BPM where it was measured. Raises InputError for laws that don't know their input.
    """
    pipeline = _pipeline(document, profile)
    for arch, data in document["architectures"].items():
        columns, data["counted"] = data["configurations"], {}
        for precision, law in LAWS.items():
            if not law.known(arch):
                for name in ("instructions", "latency_ms", "latency_median_ms", "uj"):
                    columns[f"{name}_{precision}"] = [None] * len(columns["depth"])
                data["counted"][precision] = []
                continue
            counted = _counted(profile, arch, chip.core, precision)
            window = _by_depth(columns, partial(law.per_window, target=chip.core), arch, pipeline)
            for i, shape in enumerate(zip(columns["depth"], columns["width"], strict=True)):
                window[i] = counted.get(shape, window[i])
            estimate = law.per_estimate(window, pipeline, chip.core)
            columns[f"instructions_{precision}"] = [round(float(n)) for n in window]
            ms = [chip.ms(float(n)) for n in window]
            columns[f"latency_ms_{precision}"] = columns[f"latency_median_ms_{precision}"] = ms
            columns[f"uj_{precision}"] = [chip.uj(float(n)) for n in estimate]
            data["counted"][precision] = sorted(f"{d}x{w}" for d, w in counted)
        if instructions8.has_arena(arch):
            arena = _by_depth(columns, instructions8.arena_bytes, arch, pipeline)
            columns["memory_bytes_int8"] = [int(n) for n in arena]
        data["int8_costs"] = {f"{d}x{w}": cost for (d, w), cost in _int8_costs(profile, arch).items()}
    document["profile"] |= {"device": chip.name, "devices": [*document["profile"]["devices"], chip.name]}
    document["profile"]["int8"] = _int8(profile)
    document["chip"] = {
        "name": chip.name,
        "core": chip.core,
        "clock_mhz": chip.clock_mhz,
        "instructions_per_cycle": chip.instructions_per_cycle,
        "active_mw": chip.active_mw,
        "nj_per_instruction": chip.nj_per_instruction,
        "sources": dict(chip.sources),
        "instructions_per_sample": {
            precision: round(law.per_sample(pipeline, chip.core)) for precision, law in LAWS.items()
        },
        "samples_per_estimate": pipeline.stride,
        "sensor_channels": pipeline.inputs,
        "law": instructions.ABOUT,
        "about": ABOUT,
    }
    return document


def chip_cost(document: dict[str, Any], student: dict[str, Any], row: int, precision: str) -> dict[str, Any]:
    """What a student costs on the document's chip, each figure with what it is.

    int8_costs_bpm: what integers cost it on the test windows, where that was measured.
    """
    data, chip = document["architectures"][student["arch"]], document["chip"]
    columns, shape = data["configurations"], f"{student['depth']}x{student['width']}"
    counted = shape in data["counted"][precision]
    cost: dict[str, Any] = {
        "instructions": columns[f"instructions_{precision}"][row],
        "instructions_are": f"{COUNTED if counted else COMPUTED}, {C_OF[precision]}",
    }
    if precision == "int8":
        if instructions8.has_arena(student["arch"]):
            cost["memory_is"] = "the arena of the int8 C, computed"
        if (bpm := data["int8_costs"].get(shape)) is not None:
            cost["int8_costs_bpm"] = round(bpm, 4)
    if (ms := columns[f"latency_ms_{precision}"][row]) is not None:
        cost |= {
            "latency_ms": ms,
            "latency_is": f"computed: instructions at {chip['clock_mhz']:g} MHz and "
            f"{chip['instructions_per_cycle']:g} instructions a cycle",
        }
    if (uj := columns[f"uj_{precision}"][row]) is not None:
        each = (
            f"{chip['nj_per_instruction']:g} nJ an instruction"
            if chip["nj_per_instruction"] is not None
            else f"{chip['active_mw']:g} mW while it computes"
        )
        cost |= {
            "uj": uj,
            "uj_is": f"computed: {each}; a window and the samples it waits for, sleep not counted",
        }
    return cost


def refuse_unknown(document: dict[str, Any], limit: str) -> None:
    """InputError when a limit can't be asked about on the document's chip, or there is none."""
    flag = f"--{limit.replace('_', '-')}"
    chip = document.get("chip")
    if chip is None:
        raise InputError(f"{flag}: name a microcontroller, for example --device m4, --device m4@64MHz")
    if limit == "max_uj" and chip["nj_per_instruction"] is not None:
        return
    time = ("clock_mhz", "instructions_per_cycle")
    needs = {"max_latency_ms": time, "max_uj": (*time, "active_mw")}.get(limit, ())
    if missing := [name for name in needs if chip[name] is None]:
        which = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'}"
        raise InputError(
            f"{flag}: of {chip['name']} {which} unknown: write a YAML file of your own and give it as "
            "--device FILE.yaml (docs/firmware.md)"
        )


def _pipeline(document: dict[str, Any], profile: dict[str, Any]) -> instructions.Pipeline:
    """What stands round the network, of laws that say so; the sensor's channels as counted, else 1."""
    if "input" not in document:
        raise InputError(
            f"laws.json of {document['sweep']} was written by an earlier version and has no input: run "
            f"`kdsweep fit {quoted(document['sweep'])}` again"
        )
    given = document["input"]
    mean = given["channels_are"] == "mean"
    counted = [
        record["inputs"]
        for point in profile["points"].values()
        for name in RECORDS.values()
        for record in (point.get(name) or {}).values()
        if "inputs" in record
    ]
    axes = given.get("axes", 0)
    if axes >= given["channels"]:  # these students see the PPG alone
        axes = 0
    return instructions.Pipeline(
        samples=given["samples"],
        channels=given["channels"],
        axes=axes,
        inputs=max(counted, default=1) if mean else given["channels"] - axes,
        classes=given["classes"],
        sections=given["sections"],
        stride=given["stride_s"] * given["fs"],
        zscore=given["normalise"] == "zscore",
        mean=mean,
    )


def _by_depth(columns: dict[str, Any], law: Callable[..., Any], arch: str, pipeline: Any) -> Any:
    """law(arch, depth, widths, pipeline) of every configuration (n,), a depth at a time."""
    depths, widths = np.array(columns["depth"]), np.array(columns["width"])
    found = np.zeros(len(depths))
    for depth in np.unique(depths):
        here = depths == depth
        found[here] = law(arch, int(depth), widths[here], pipeline)
    return found


def _counted(profile: dict[str, Any], arch: str, target: str, precision: str) -> dict[tuple[int, int], float]:
    """Shape -> the mean of what was counted on a target."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for point in profile["points"].values():
        record = (point.get(RECORDS[precision]) or {}).get(target)
        if point["arch"] == arch and record:
            found[point["depth"], point["width"]].append(record["instructions"])
    return {shape: sum(values) / len(values) for shape, values in found.items()}


def _tests(profile: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Points, and what their int8 C was measured to cost, the same on every target."""
    for point in profile["points"].values():
        tests = [r["test"] for r in (point.get(RECORDS["int8"]) or {}).values() if "test" in r]
        if tests:
            yield point, tests[-1]


def _int8_costs(profile: dict[str, Any], arch: str) -> dict[tuple[int, int], float]:
    """Shape -> what its int8 C costs on the test windows in BPM, the mean of its points."""
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for point, test in _tests(profile):
        if point["arch"] == arch:
            found[point["depth"], point["width"]].append(test["costs_bpm"])
    return {shape: sum(values) / len(values) for shape, values in found.items()}


def _int8(profile: dict[str, Any]) -> dict[str, Any] | None:
    """The same of all points, as `latency.attach` says it of the int8 ONNX files; None if of none."""
    tests = [test for _, test in _tests(profile)]
    if not tests:
        return None
    change, drift = [t["costs_bpm"] for t in tests], [t["drift_bpm"]["mean"] for t in tests]
    return {
        "points": len(tests),
        "mae_change_mean_bpm": round(sum(change) / len(change), 4),
        "mae_change_most_bpm": round(max(change), 4),
        "drift_mean_bpm": round(sum(drift) / len(drift), 4),
    }
