"""What students cost on a microcontroller of the device table: columns of laws.json's document. numpy only.

Instructions are counted where `kdsweep profile --target` did, else computed from the shape
(`kd.edge.c.instructions`); milliseconds and microjoules are computed from them and the chip's numbers.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from kd.edge.c import instructions as law
from kd.errors import InputError
from orchestrator.edge.device_table import Chip
from orchestrator.words import quoted

PRECISION = "fp32"  # the law is of the float32 C
INSTRUCTIONS, UJ = f"instructions_{PRECISION}", f"uj_{PRECISION}"
COUNTED, COMPUTED = "counted in QEMU", "computed from the shape"
ABOUT = "QEMU counts instructions, not cycles or wait states"


def attach_chip(document: dict[str, Any], profile: dict[str, Any], chip: Chip) -> dict[str, Any]:
    """The document with what its configurations cost on `chip`, and document["chip"], which says of what.

    Columns: instructions_fp32 of a window, latency_ms_fp32 of one, uj_fp32 from one heart rate to the next
    (None where the chip's file lacks a number). Raises InputError for laws that don't know their input.
    """
    pipeline = _pipeline(document, profile)
    for arch, data in document["architectures"].items():
        columns = data["configurations"]
        counted = _counted(profile, arch, chip.core)
        window = _computed(arch, columns, pipeline, chip.core)
        for i, shape in enumerate(zip(columns["depth"], columns["width"], strict=True)):
            window[i] = counted.get(shape, window[i])
        estimate = law.per_estimate(window, pipeline, chip.core)
        columns[INSTRUCTIONS] = [round(float(n)) for n in window]
        ms = [chip.ms(float(n)) for n in window]
        columns[f"latency_ms_{PRECISION}"] = columns[f"latency_median_ms_{PRECISION}"] = ms
        columns["latency_ms_int8"] = columns["latency_median_ms_int8"] = [None] * len(ms)
        columns[UJ] = [chip.uj(float(n)) for n in estimate]
        data["counted"] = sorted(f"{d}x{w}" for d, w in counted)
    sample = law.per_sample(pipeline, chip.core)
    document["profile"] |= {"device": chip.name, "devices": [*document["profile"]["devices"], chip.name]}
    document["chip"] = {
        "name": chip.name,
        "core": chip.core,
        "clock_mhz": chip.clock_mhz,
        "instructions_per_cycle": chip.instructions_per_cycle,
        "active_mw": chip.active_mw,
        "nj_per_instruction": chip.nj_per_instruction,
        "sources": dict(chip.sources),
        "instructions_per_sample": round(sample),
        "samples_per_estimate": pipeline.stride,
        "sensor_channels": pipeline.inputs,
        "law": law.ABOUT,
        "about": ABOUT,
    }
    return document


def chip_cost(document: dict[str, Any], student: dict[str, Any], row: int) -> dict[str, Any]:
    """What a student costs on the document's chip, each figure with what it is."""
    data, chip = document["architectures"][student["arch"]], document["chip"]
    columns = data["configurations"]
    counted = f"{student['depth']}x{student['width']}" in data["counted"]
    cost: dict[str, Any] = {
        "instructions": columns[INSTRUCTIONS][row],
        "instructions_are": f"{COUNTED if counted else COMPUTED}, float32 C",
    }
    if (ms := columns[f"latency_ms_{PRECISION}"][row]) is not None:
        cost |= {
            "latency_ms": ms,
            "latency_is": f"computed: instructions at {chip['clock_mhz']:g} MHz and "
            f"{chip['instructions_per_cycle']:g} instructions a cycle",
        }
    if (uj := columns[UJ][row]) is not None:
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


def refuse_unknown(document: dict[str, Any], limit: str, precision: str) -> None:
    """InputError when a limit can't be asked about on the document's chip, or there is none."""
    flag = f"--{limit.replace('_', '-')}"
    chip = document.get("chip")
    if chip is None:
        raise InputError(f"{flag}: name a microcontroller, for example --device m4, --device m4@64MHz")
    if precision != PRECISION:
        raise InputError(f"{flag}: instructions are known of the float32 C only: leave --precision out")
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


def _pipeline(document: dict[str, Any], profile: dict[str, Any]) -> law.Pipeline:
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
        for record in (point.get("targets") or {}).values()
        if "inputs" in record
    ]
    axes = given.get("axes", 0)
    if axes >= given["channels"]:  # these students see the PPG alone
        axes = 0
    return law.Pipeline(
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


def _computed(arch: str, columns: dict[str, Any], pipeline: law.Pipeline, target: str) -> Any:
    """Instructions of a window of every configuration (n,), a depth at a time."""
    depths, widths = np.array(columns["depth"]), np.array(columns["width"])
    found = np.zeros(len(depths))
    for depth in np.unique(depths):
        here = depths == depth
        found[here] = law.per_window(arch, int(depth), widths[here], pipeline, target)
    return found


def _counted(profile: dict[str, Any], arch: str, target: str) -> dict[tuple[int, int], float]:
    """Shape -> the mean of what was counted on a target."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for point in profile["points"].values():
        record = (point.get("targets") or {}).get(target)
        if point["arch"] == arch and record and record.get("precision", PRECISION) == PRECISION:
            found[point["depth"], point["width"]].append(record["instructions"])
    return {shape: sum(values) / len(values) for shape, values in found.items()}
