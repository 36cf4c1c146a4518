"""The tracker in C says what the one in Python says, in less than 2 kB."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from kd.edge.c_tracker import HEADER, NUMBERS, check, count, made_up, write_tracker
from kd.edge.emulate import PACKAGES
from kd.errors import InputError
from kd.shipped.tracker import Tracker
from kd.training.tracking import changes

TRACKER = {
    "level": 0.9,
    "temperature": 0.6,
    "weight": 0.5,
    "belief_temperature": 2.0,
    "unsure_above_bpm": 6.0,
    "change": changes(np.random.default_rng(0).normal(0, 2, 500)),
    "jump": 1e-4,
}
CONFIG = {"tracker": TRACKER, "class_centres_bpm": list(range(30, 210))}
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


class Estimate(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_float) for name in ("bpm", "low", "high", "expected_error")),
        ("unsure", ctypes.c_int),
    )


@needs_cc
@pytest.mark.parametrize("weight", [0.2, 1.0])
def test_c_follows_python_through_many_windows(tmp_path, weight):
    config = {**CONFIG, "tracker": TRACKER | {"weight": weight}}
    made = write_tracker(config, tmp_path)
    assert made["checked"] is True
    assert made["state_bytes"] < 2048
    source = '#include "kdsweep_tracker.h"\nstatic kds_tracker t;\n'
    source += "kds_estimate update(const float *logits) { return kds_tracker_update(&t, logits); }\n"
    source += "void reset(void) { kds_tracker_reset(&t); }\nint bytes(void) { return sizeof t; }\n"
    (tmp_path / "all.c").write_text(source)
    subprocess.run(
        ["cc", "-std=c99", "-O2", "-shared", "-fPIC", "-o", "t.so", "all.c", "-lm"], cwd=tmp_path, check=True
    )
    c = ctypes.CDLL(str(tmp_path / "t.so"))
    c.update.restype = Estimate
    assert c.bytes() == made["state_bytes"]
    python = Tracker(config["tracker"], 30, 180)
    for seed in range(20):  # 320 windows, with steps and windows that say little
        if seed == 10:
            c.reset()
            python.reset()
        for row in made_up(180, seed):
            mine = c.update(row.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
            theirs = python.update(row)
            assert mine.bpm == pytest.approx(theirs.bpm, abs=0.01)
            assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)
            assert mine.expected_error == pytest.approx(theirs.expected_error_bpm, abs=0.01)
            if abs(theirs.expected_error_bpm - TRACKER["unsure_above_bpm"]) > 0.01:
                assert bool(mine.unsure) == theirs.unsure


@pytest.mark.skipif(any(shutil.which(t) is None for t in PACKAGES), reason="no emulated processor")
def test_counted_on_an_emulated_processor_it_says_the_same():
    found = count(CONFIG, "m4")
    assert found["off_bpm"] < 0.01
    assert 50_000 < found["instructions"] < 200_000


@needs_cc
def test_other_numbers_are_told(tmp_path):
    write_tracker(CONFIG, tmp_path)
    header = (tmp_path / HEADER).read_text()
    (tmp_path / HEADER).write_text(
        header.replace("0.5f);\n\n    /* overlapping", "0.45f);\n\n    /* overlapping")
    )
    with pytest.raises(InputError, match=r"FAILED: 16 windows, off by"):
        check(tmp_path)
    assert "tracker_said" in (tmp_path / NUMBERS).read_text()
