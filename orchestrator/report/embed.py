"""What the page's budget explorer knows: laws.json's predictions, small enough to mail. See explorer.js.

Draws are kept exactly, as the whole numbers they are in laws.json: second differences along the knots, which
are tiny because laws are smooth, low bytes before high bytes, deflated with the rest.
"""

import base64
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.answers import best, candidates, decide, evidence
from orchestrator.edge.latency import PRECISIONS, SURE
from orchestrator.laws.refuse import REFUSE_FACTOR, WARN_FACTOR
from orchestrator.report.sweep import Sweep

Whole = npt.NDArray[np.int16]
ARM_KEYS = ("key", "arch", "init", "strategy", "strategy_args", "teacher", "verdict", "why", "reach")
COLUMNS = ("depth", "width", "params", "macs", "weight_bytes", "activation_bytes", "position")
COSTS = ("flash_bytes", "memory_bytes", "latency_ms", "latency_median_ms")  # at each precision
PROFILE_KEYS = ("devices", "device", "cpu", "measured", "int8")
SIZE_KEYS = ("smallest", "largest", "runs")
PACKED = ("median", "noise", "draws")


def embed(sweep: Sweep) -> str:
    """Base64 of a deflated block: length of the JSON (uint32, little-endian), JSON, int16 planes."""
    document = sweep.document
    columns = {*COLUMNS, *(f"{cost}_{precision}" for cost in COSTS for precision in PRECISIONS)}
    blocks: list[bytes] = []
    shapes: list[list[int]] = []

    def place(packed: dict[str, Any]) -> int:
        raw = np.frombuffer(base64.b64decode(packed["data"]), dtype=packed["dtype"]).reshape(packed["shape"])
        blocks.append(differences(raw).tobytes())
        shapes.append([*packed["shape"], packed["step"]])
        return len(blocks) - 1

    light = {
        "sweep": document["sweep"],
        "level": document["level"],
        "metric": document.get("metric"),
        "calibration": document["calibration"],
        "memory": candidates.blank(document, {})["memory"],
        "limits": {precision: candidates.limits(document, precision) for precision in PRECISIONS},
        "profile": {key: document["profile"][key] for key in PROFILE_KEYS},
        "constants": {
            "near_bpm": candidates.NEAR_BPM,
            "more": best.MORE,
            "tie": decide.TIE,
            "sure_best": decide.SURE,
            "near_share": decide.NEAR_SHARE,
            "most_regret": decide.MOST_REGRET,
            "named": decide.NAMED,
            "refuse_factor": REFUSE_FACTOR,
            "warn_factor": WARN_FACTOR,
            "sure": SURE,
        },
        "teachers": sweep.teachers,
        "run_noise": place(document["run_noise"]),
        "architectures": {
            arch: {"configurations": {k: v for k, v in data["configurations"].items() if k in columns}}
            for arch, data in document["architectures"].items()
        },
        "arms": [
            {key: arm[key] for key in (*ARM_KEYS, *SIZE_KEYS)}
            | {"label": sweep.label(arm)}
            | {"buildable": _buildable(document, j)}
            | {"reach": candidates.reach_of(arm), "rises": bool(arm.get("rises"))}
            | {"measured": _measured(document, j)}
            | (
                {key: place(arm[key]) for key in PACKED} | _compared(document, j, place)
                if arm["reach"]
                else {}
            )
            for j, arm in enumerate(document["arms"])
        ],
        "arrays": shapes,
    }
    text = json.dumps(light, separators=(",", ":"), allow_nan=False).encode()
    planes = np.frombuffer(b"".join(blocks), dtype=np.uint8)
    binary = planes[0::2].tobytes() + planes[1::2].tobytes()
    whole = struct.pack("<I", len(text)) + text + binary
    return base64.b64encode(zlib.compress(whole, 9)).decode("ascii")


def _compared(document: dict[str, Any], j: int, place: Callable[[Any], int]) -> dict[str, Any]:
    """How an arm's students are ranked and compared, and what is known of new people."""
    arm = document["arms"][j]
    out: dict[str, Any] = {
        "rank": place(evidence.rank_curve(document, j)),
        "spread": candidates.spread_of(arm),
        "people": None,
    }
    if known := arm.get("people"):
        arrays = {key: place(known[key]) for key in ("shift", "low", "high", "p90_wearer")}
        out["people"] = {"n_people": known["n_people"], **arrays}
    return out


def _measured(document: dict[str, Any], j: int) -> list[dict[str, Any]]:
    """The trained students of an arm: what was measured, and how they are ranked."""
    arm, found = document["arms"][j], list(evidence.measured_of(document, j).values())
    rows = np.array([m.row for m in found], dtype=np.intp)
    seen = candidates.evaluate(document, np.full(len(rows), j), rows) if found else None
    normal = document["run_noise"]["shape"][-1]
    return [
        asdict(m)
        | {"score": float(seen.score[k]), "noise": float(seen.noise[k])}
        | ({} if arm["reach"] else {"shift": evidence.shift(j, m.row, normal)})
        for k, m in enumerate(found)
        if seen is not None
    ]


def _buildable(document: dict[str, Any], arm: int) -> list[int] | None:
    """Rows of the configurations an arm can have; None for all of them."""
    rows = candidates.buildable(document, arm)
    return None if rows.all() else np.flatnonzero(rows).tolist()


def differences(values: Whole) -> Whole:
    """Second differences along the last axis, the first two values kept; modulo 2^16, so nothing is lost."""
    out = values.astype("<u2")
    for start in (1, 2):
        if out.shape[-1] > start:
            out[..., start:] = out[..., start:] - out[..., start - 1 : -1]
    return out.view("<i2")
