"""The tracker behind a student as C99 with math.h, and a program with vectors. Knows preprocess.json alone.

The same arithmetic as `kd.shipped.tracker`, in float: see there what it computes.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd.edge import emulate
from kd.edge.c_header import _float
from kd.errors import InputError
from kd.files import write_text
from kd.shipped.tracker import Tracker

VECTORS = 16
TOLERANCE_BPM = 0.02  # of rates and intervals: where a class is unlikely a rounding moves far
HEADER, PROGRAM, NUMBERS = "kdsweep_tracker.h", "tracker_test.c", "tracker_vectors.h"


def write_tracker(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write header, program and vectors into `folder`; bytes of state and tables, and whether it was checked.

    config: what preprocess.json says. Raises InputError where this machine's compiler gives other rates.
    """
    t, centres = config["tracker"], config["class_centres_bpm"]
    change = [(1 - t["jump"]) * share for share in t["change"]]
    text = C_HEADER.format(
        classes=len(centres),
        lowest=_float(centres[0]),
        reach=len(change) // 2,
        change="{" + ", ".join(map(_float, change)) + "}",
        jump=_float(t["jump"] / len(centres)),
        inverse=_float(1 / t["temperature"]),
        weight=_float(t["weight"]),
        trust=_float(1 / t["belief_temperature"]),
        outside=_float((1 - t["level"]) / 2),
        level=round(100 * t["level"]),
        threshold=_float(t["unsure_above_bpm"]),
        bytes=8 * len(centres) + 4,
    )
    write_text(folder / HEADER, text)
    write_text(folder / NUMBERS, _vectors(t, centres))
    write_text(folder / PROGRAM, C_PROGRAM.format(tolerance=_float(TOLERANCE_BPM)))
    return {
        "state_bytes": 8 * len(centres) + 4,
        "constant_bytes": 4 * len(change),
        "multiplications": len(centres) * len(change),
        "checked": check(folder),
    }


def check(folder: Path) -> bool | None:
    """Whether the program's vectors come out here; None without a compiler. Raises InputError if not."""
    if shutil.which("cc") is None:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        program = str(Path(temporary) / "tracker_test")
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O2"]
        for command in (["cc", *flags, "-o", program, PROGRAM, "-lm"], [program]):
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False
            )
            if done.returncode:
                said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
                raise InputError(f"the tracker in C fails here, at {' '.join(command)}:\n{said}")
    return True


def count(config: Mapping[str, Any], target: str) -> dict[str, Any]:
    """The tracker on one of `emulate.TARGETS`: instructions of an update, the most of the vectors; bytes.

    off_bpm: how far its answers are from Python's. Raises InputError without compiler and emulator, or where
    it answers otherwise.
    """
    emulate.require_tools()
    chosen = emulate.TARGETS[target]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = write_tracker(config, folder)
        for name in ("kdsweep_student.h", "kdsweep_student.c", "vectors.h"):  # what ticks.h and link ask for
            write_text(folder / name, "")
        emulate.compile_student(folder, chosen)
        lines = emulate.run(emulate.link(folder, chosen, "count_tracker.c"), chosen)
    found = lines["said"].view(np.float32).reshape(VECTORS, 5)[:, :4]
    off = float(np.abs(found - said_of(config["tracker"], config["class_centres_bpm"])).max())
    if not off <= TOLERANCE_BPM:
        raise InputError(f"on the emulated microcontroller the tracker is off by {off:.2g} BPM")
    numbers = emulate.counted(lines, "updates", chosen)
    return {**made, "cpu": chosen.cpu, "instructions": int(numbers.max()), "off_bpm": off}


def made_up(classes: int, seed: int = 0) -> Any:
    """Logits (VECTORS, classes) of a rate that wanders and then steps, and of windows that say little."""
    rng = np.random.default_rng(seed)
    rate = classes * 0.3 + rng.normal(0, 1, VECTORS).cumsum()
    rate[VECTORS // 2 :] += classes * 0.25
    sharp = np.where(np.arange(VECTORS) % 5 == 3, 0.2, 4.0)[:, None]
    z = sharp * np.exp(-0.5 * ((np.arange(classes) - rate[:, None]) / 3) ** 2)
    return (z + rng.normal(0, 0.3, z.shape)).astype(np.float32)


def said_of(config: Mapping[str, Any], centres: Any) -> Any:
    """What the tracker in Python says of `made_up` windows, reset before the last two: (VECTORS, 4), BPM."""
    tracker, said = Tracker(dict(config), centres[0], len(centres)), []
    for i, row in enumerate(made_up(len(centres))):
        if i == VECTORS - 2:
            tracker.reset()
        found = tracker.update(row)
        said.append([found.bpm, found.low, found.high, found.expected_error_bpm])
    return np.array(said)


def _vectors(config: Mapping[str, Any], centres: Any) -> str:
    return C_VECTORS.format(
        vectors=VECTORS,
        reset=VECTORS - 2,
        logits=_rows(made_up(len(centres))),
        said=_rows(said_of(config, centres)),
        classes=len(centres),
    )


def _rows(rows: Any) -> str:
    """Rows of numbers as the inside of a C initialiser."""
    return "".join("    {" + ", ".join(_float(float(v)) for v in row) + "},\n" for row in rows)


C_HEADER = """\
/* A tracker behind the heart-rate model: its belief over the classes after all windows so far; generated by
 * kdsweep export. Once: kds_tracker_reset, and again after a window was missed. For each window:
 * kds_tracker_update with the model's logits. State: {bytes} bytes. Not a medical device.
 * Test: cc -std=c99 -O2 -o tracker_test tracker_test.c -lm && ./tracker_test */
#ifndef KDSWEEP_TRACKER_H
#define KDSWEEP_TRACKER_H

#include <math.h>

#define KDS_TRACK_CLASSES {classes}
#define KDS_TRACK_LOWEST {lowest} /* BPM of class 0; each class is 1 BPM wide */
#define KDS_TRACK_REACH {reach} /* classes that a rate may move from one window to the next */
#define KDS_TRACK_UNSURE_ABOVE {threshold} /* BPM of expected error; yours to change */

typedef struct {{
    float belief[KDS_TRACK_CLASSES];
    float work[KDS_TRACK_CLASSES];
    int started;
}} kds_tracker;

/* BPM: the rate, its {level} % interval, the mean error to expect; unsure: better say nothing */
typedef struct {{
    float bpm, low, high, expected_error;
    int unsure;
}} kds_estimate;

/* probability of each change, from the greatest fall to the greatest rise */
static const float kds_track_change[2 * KDS_TRACK_REACH + 1] = {change};

static inline void kds_tracker_reset(kds_tracker *t) {{
    t->started = 0;
}}

static inline void kds_track_scale(float *p) {{
    float total = 0.0f;
    for (int k = 0; k < KDS_TRACK_CLASSES; k++) total += p[k];
    for (int k = 0; k < KDS_TRACK_CLASSES; k++) p[k] /= total;
}}

/* the BPM below which the share q lies, a class being spread evenly over its width */
static inline float kds_track_quantile(const float *p, float q) {{
    float before = 0.0f, inside;
    int k = 0;
    while (k < KDS_TRACK_CLASSES - 1 && before + p[k] < q) before += p[k++];
    inside = (q - before) / (p[k] > 1e-30f ? p[k] : 1e-30f);
    inside = inside < 0.0f ? 0.0f : inside > 1.0f ? 1.0f : inside;
    return KDS_TRACK_LOWEST + (float)k - 0.5f + inside;
}}

static inline kds_estimate kds_tracker_update(kds_tracker *t, const float *logits) {{
    float top = logits[0], total = 0.0f, share;
    kds_estimate said;

    for (int k = 1; k < KDS_TRACK_CLASSES; k++)
        if (logits[k] > top) top = logits[k];
    for (int k = 0; k < KDS_TRACK_CLASSES; k++) total += expf((logits[k] - top) * {inverse});
    total = logf(total);
    for (int k = 0; k < KDS_TRACK_CLASSES; k++) {{ /* what the window says, and what was to be expected */
        float said_k = (logits[k] - top) * {inverse} - total;
        if (said_k < -69.0775528f) said_k = -69.0775528f; /* 1e-30 */
        if (!t->started) {{
            t->work[k] = expf(said_k);
            continue;
        }}
        share = {jump};
        for (int j = -KDS_TRACK_REACH; j <= KDS_TRACK_REACH; j++)
            if (k - j >= 0 && k - j < KDS_TRACK_CLASSES)
                share += t->belief[k - j] * kds_track_change[j + KDS_TRACK_REACH];
        t->work[k] = share * expf(said_k * {weight});
    }}
    t->started = 1;
    kds_track_scale(t->work);
    for (int k = 0; k < KDS_TRACK_CLASSES; k++) t->belief[k] = t->work[k];
    said.bpm = kds_track_quantile(t->belief, 0.5f);

    /* overlapping windows make the belief too sure of itself */
    top = 0.0f;
    for (int k = 0; k < KDS_TRACK_CLASSES; k++)
        if (t->belief[k] > top) top = t->belief[k];
    top = logf(top);
    for (int k = 0; k < KDS_TRACK_CLASSES; k++)
        t->work[k] = expf((logf(t->belief[k] > 1e-30f ? t->belief[k] : 1e-30f) - top) * {trust});
    kds_track_scale(t->work);
    said.low = kds_track_quantile(t->work, {outside});
    said.high = kds_track_quantile(t->work, 1.0f - {outside});
    if (said.low > said.bpm) said.low = said.bpm;
    if (said.high < said.bpm) said.high = said.bpm;
    said.expected_error = 0.0f;
    for (int k = 0; k < KDS_TRACK_CLASSES; k++)
        said.expected_error += t->work[k] * fabsf(KDS_TRACK_LOWEST + (float)k - said.bpm);
    said.unsure = said.expected_error > KDS_TRACK_UNSURE_ABOVE;
    return said;
}}

#endif
"""

C_VECTORS = """\
/* Made-up logits of windows in a row, and what kdsweep's tracker says: BPM, low, high, expected error.
 * It is reset before window TRACKER_RESET. */
#define TRACKER_VECTORS {vectors}
#define TRACKER_RESET {reset}

static const float tracker_logits[TRACKER_VECTORS][{classes}] = {{
{logits}}};

static const float tracker_said[TRACKER_VECTORS][4] = {{
{said}}};
"""

C_PROGRAM = """\
/* Runs the tracker's vectors and says whether this build answers as kdsweep does. */
#include <stdio.h>

#include "kdsweep_tracker.h"
#include "tracker_vectors.h"

int main(void) {{
    static kds_tracker tracker;
    float worst = 0.0f;

    kds_tracker_reset(&tracker);
    for (int v = 0; v < TRACKER_VECTORS; v++) {{
        kds_estimate e;
        float said[4];
        if (v == TRACKER_RESET) kds_tracker_reset(&tracker);
        e = kds_tracker_update(&tracker, tracker_logits[v]);
        said[0] = e.bpm, said[1] = e.low, said[2] = e.high, said[3] = e.expected_error;
        for (int i = 0; i < 4; i++) {{
            float off = fabsf(said[i] - tracker_said[v][i]);
            if (!(off <= worst)) worst = off; /* a NaN is kept, too */
        }}
    }}
    printf("%s: %d windows, off by %.2g BPM at most\\n", worst <= {tolerance} ? "ok" : "FAILED",
           TRACKER_VECTORS, (double)worst);
    return !(worst <= {tolerance});
}}
"""
