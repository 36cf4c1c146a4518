"""What is shipped does what the sweep did: the pipeline without scipy, the stream, the C tables."""

import dataclasses
import json
import shutil
import subprocess

import numpy as np
import pytest
from scipy.signal import sosfilt

from kd.edge import export
from kd.errors import InputError
from kd.recordings import Recording
from kd.shipped import example, stream
from kd.signals.prepare import DataConfig
from kd.signals.windows import Preprocess, bandpassed, make_windows

RNG = np.random.default_rng


def config_of(preprocess: Preprocess | None = None, channels: int = 1) -> dict:
    return export.preprocess_json(DataConfig(preprocess=preprocess or Preprocess()), channels)


def pulse(seconds: float, fs: float, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A wandering pulse with noise and a large offset, (channels, samples)."""
    rng, t = RNG(seed), np.arange(int(seconds * fs)) / fs
    phase = 2 * np.pi * (1.3 * t + 0.5 * np.sin(t / 7))
    rows = [np.sin(phase + k) + 0.4 * np.sin(2 * phase + k) for k in range(channels)]
    drift = np.cumsum(rng.standard_normal((channels, len(t))), axis=1) / 20
    return (200 + 5 * np.array(rows) + drift + 0.3 * rng.standard_normal((channels, len(t)))).astype(
        np.float32
    )


def recording(**changes) -> Recording:
    one = Recording(
        name="r1",
        dataset="D",
        subject="s1",
        ppg=pulse(90, 64, 2),
        fs=64.0,
        hr=RNG(1).uniform(70, 80, 40).astype(np.float32),
    )
    return dataclasses.replace(one, **changes)


class Echo:
    """In place of a model: says a number that depends on every sample of a window."""

    def __init__(self, config: dict) -> None:
        self.config = config

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        weight = np.linspace(1, 2, windows.shape[2])
        return np.asarray(windows, float).sum(1) @ weight


@pytest.mark.parametrize("fs", [25, 20, 31.25, 64, 100, 125, 256, 700])
def test_the_filter_without_scipy_is_scipys(fs):
    raw, preprocess = pulse(40.2, fs, channels=2), Preprocess(channels="all")
    wanted = bandpassed(raw, fs, preprocess)
    got = example.prepared(raw, fs, config_of(preprocess, 2))
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-9 * np.abs(wanted).max())


GAP = recording().ppg.copy()
GAP[0, 1000:1100] = np.nan
GAP[:, 3000:3050] = np.nan
FLAT = recording().ppg.copy()
FLAT[:, 2000:3500] = 17.0
LABELS = recording().hr.astype(np.float32)
LABELS[[3, 4, 20]] = np.nan
LABELS[8:10] = [250, 20]
HARD = {
    "plain": {},
    "gaps": {"ppg": GAP},
    "flat": {"ppg": FLAT},
    "labels": {"hr": LABELS},
    "labels late": {"hr_start_s": -6.0},
    "labels on another grid": {"hr_window_s": 5.0, "hr_stride_s": 1.5, "hr_start_s": 0.7},
    "longer than labels": {"hr": LABELS[:12]},
    "shorter than labels": {"ppg": recording().ppg[:, : 64 * 30]},
    "one channel": {"ppg": recording().ppg[:1]},
    "too short": {"ppg": recording().ppg[:, :100]},
    "no labels": {"hr": np.zeros(0, np.float32)},
}


@pytest.mark.parametrize("what", HARD)
@pytest.mark.parametrize("preprocess", [{}, {"channels": "first", "normalise": "none", "window_s": 6.0}])
def test_windows_are_those_of_the_sweep(what, preprocess):
    one, settings = recording(**HARD[what]), Preprocess(**preprocess)
    wanted, _ = make_windows([one], settings)
    windows, bpm, starts = example.labelled_windows(export.as_dict(one), config_of(settings))
    assert len(bpm) == len(starts) == len(wanted)
    if len(wanted):
        np.testing.assert_array_equal(bpm, wanted.bpm)
        np.testing.assert_allclose(windows, wanted.x, atol=2e-5)


def test_recordings_written_are_read_by_both(tmp_path):
    from kd.datasets import load

    late = recording(dataset="BIDMC", hr_start_s=-6.0, name="a/b")
    config = config_of()
    export.write_recordings(tmp_path / "r.npz", [recording(), late], config["label_lag_s"])
    _, ours = load(tmp_path / "r.npz")
    theirs = example.recordings(str(tmp_path / "r.npz"), config)
    for original, one, other in zip([recording(), late], ours, theirs, strict=True):
        assert one.hr_start_s == other["hr_start_s"] == original.hr_start_s
        np.testing.assert_array_equal(one.ppg, original.ppg)
        np.testing.assert_array_equal(other["ppg"], original.ppg)
        assert (one.dataset, one.subject) == (original.dataset, original.subject)


def live(config: dict, raw: np.ndarray, fs: float, step: int, **options) -> dict[float, float]:
    said = stream.Stream(Echo(config), fs, channels=len(raw), **options)
    return {s: v for i in range(0, raw.shape[1], step) for s, v in said.push(raw[:, i : i + step])}


@pytest.mark.parametrize("fs", [25, 64])
@pytest.mark.parametrize("causal", [False, True])
def test_a_stream_does_not_care_how_it_is_cut(fs, causal):
    raw, config = pulse(30, fs, channels=2), config_of()
    whole = live(config, raw, fs, raw.shape[1], causal=causal)
    assert list(whole)[:3] == [0.0, 2.0, 4.0]
    assert len(whole) in (11, 12)  # the resampler looks ahead, so the last one may not be there yet
    for step in (1, 7, 333):
        cut = live(config, raw, fs, step, causal=causal)
        assert list(cut) == list(whole)
        np.testing.assert_allclose(list(cut.values()), list(whole.values()), atol=1e-6)


def test_a_causal_stream_is_one_pass_of_the_filter():
    raw, config = pulse(30, 25), config_of()
    sos, zi = np.array(config["filter"]["sos"]), np.array(config["filter"]["zi"])
    forward, _ = sosfilt(sos, raw[0].astype(float), zi=zi * float(raw[0, 0]))
    said = live(config, raw, 25, 25, causal=True)
    starts = np.array(list(said))
    wanted = Echo(config)(example.cut(forward[None], starts, config))
    np.testing.assert_allclose(list(said.values()), wanted, atol=1e-3)


def test_a_stream_filters_each_window_as_a_recording_that_ends_there():
    raw, config = pulse(30, 25), config_of()
    said = live(config, raw, 25, 10)
    for start, value in said.items():
        until = raw[:, : round((start + 8) * 25)]
        window = example.cut(example.prepared(until, 25, config), [start], config)
        assert value == pytest.approx(Echo(config)(window)[0], abs=1e-3)


def test_a_stream_holds_the_last_value_over_a_gap():
    raw = pulse(20, 25)
    held = raw.copy()
    raw[0, 100:120], held[0, 100:120] = np.nan, raw[0, 99]
    config = config_of()
    assert live(config, raw, 25, 10) == live(config, held, 25, 10)


def test_streamed_windows_are_matched_to_the_labels_grid():
    config = config_of()
    one = recording(hr_start_s=1.0)
    _, _, starts = example.labelled_windows(export.as_dict(one), config)
    said = export.streamed(Echo(config), export.as_dict(one), starts, causal=True)
    direct = live(config, one.ppg, 64, 64, causal=True, first_s=1.0)
    assert np.isfinite(said).sum() >= len(starts) - 1
    np.testing.assert_allclose(said[:5], [direct[s] for s in starts[:5]])


def test_the_interval_grows_with_the_spread_between_subjects():
    alike = export.interval([np.full(50, 4.0), np.full(80, 4.0), np.full(30, 4.0)])
    apart = export.interval([np.full(50, 1.0), np.full(50, 4.0), np.full(50, 10.0)])
    assert alike == pytest.approx([4.0, 4.0])
    assert apart is not None
    assert apart[0] < 3 < 7 < apart[1]
    assert export.interval([np.ones(5), np.ones(5)]) is None


def test_another_error_than_the_sweeps_is_refused():
    export.same_as_sweep({"mae_bpm": 5.0004, "windows": 10}, 5.0, 10)
    for test in ({"mae_bpm": 5.002, "windows": 10}, {"mae_bpm": 5.0, "windows": 9}):
        with pytest.raises(InputError, match="recordings changed"):
            export.same_as_sweep(test, 5.0, 10)


PROGRAM = """
#include <stdio.h>
#include "kdsweep_model.h"
int main(void) {
    float x[KDS_SAMPLES], logits[KDS_CLASSES];
    kds_filter f;
    for (int i = 0; i < KDS_SAMPLES; i++) if (scanf("%f", &x[i]) != 1) return 1;
    kds_filter_start(&f, x[0]);
    for (int i = 0; i < KDS_SAMPLES; i++) x[i] = kds_filter_step(&f, x[i]);
    for (int i = 0; i < KDS_SAMPLES; i++) printf("%.7g\\n", (double)x[i]);
    kds_normalise(x, KDS_SAMPLES);
    for (int i = 0; i < KDS_SAMPLES; i++) printf("%.7g\\n", (double)x[i]);
    for (int k = 0; k < KDS_CLASSES; k++) logits[k] = -0.5f * (k - 50.25f) * (k - 50.25f);
    printf("%.7g %d %g %d\\n", (double)kds_bpm(logits), KDS_STRIDE, (double)KDS_FS, KDS_NORMALISE);
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_c_header_compiles_and_computes_the_same(tmp_path):
    config = config_of()
    (tmp_path / "kdsweep_model.h").write_text(export.c_header(config, "p"))
    (tmp_path / "main.c").write_text(PROGRAM)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1"]
    subprocess.run(["cc", *flags, "main.c", "-lm", "-o", "main"], cwd=tmp_path, check=True)
    raw = pulse(8, 25)[0, :200]
    said = subprocess.run(
        [tmp_path / "main"], input="\n".join(map(str, raw)), capture_output=True, text=True, check=True
    ).stdout.split()
    numbers = np.array(said, float)
    zi = np.array(config["filter"]["zi"]) * float(raw[0])
    wanted, _ = example.filtered(raw, config["filter"]["sos"], zi)
    np.testing.assert_allclose(numbers[:200], wanted, atol=2e-3 * np.abs(wanted).max())
    np.testing.assert_allclose(
        numbers[200:400], example.normalised(numbers[None, :200], config)[0], atol=1e-4
    )
    assert numbers[400] == pytest.approx(80.25, abs=1e-3)
    assert list(numbers[401:]) == [50, 25, 1]


def test_preprocess_is_json_with_everything_in_it():
    config = json.loads(json.dumps(config_of(Preprocess(fs=50.0, order=2), channels=3), allow_nan=False))
    assert config["samples"] == 400
    assert config["input"]["shape"] == ["batch", 3, 400]
    assert len(config["filter"]["sos"]) == 2
    assert config["class_centres_bpm"][0] == config["bpm_range"][0] == 30
    assert config["class_centres_bpm"][-1] == config["bpm_range"][1] == 209
