"""The accelerometer on its way into windows: cut beside the PPG, scaled by training, left out, turned."""

import dataclasses

import numpy as np
import pytest

from kd.errors import InputError
from kd.recordings import ACC, Recording, Signal
from kd.signals import motion, synthetic
from kd.signals.augment import Augment, augmented, stretch, turn
from kd.signals.baselines import fft_peak
from kd.signals.pool import Part
from kd.signals.prepare import DataConfig, fingerprint, prepare
from kd.signals.preprocess import Preprocess
from kd.signals.splits import Split
from kd.signals.windows import MISSING, NOT_COVERED, make_windows

WRIST = DataConfig(
    options={"subjects": 6, "minutes": 1.5}, preprocess=Preprocess(acc="xyz"), split=Split(test=("*/s000",))
)


def sine(hz: float, fs: float, seconds: float = 60.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * fs)) / fs).astype(np.float32)


def recording(acc: np.ndarray | None, acc_fs: float = 50.0, fs: float = 64.0, name: str = "r") -> Recording:
    sensors = {} if acc is None else {ACC: Signal(acc, acc_fs)}
    return Recording(
        name, "made", name, sine(1.5, fs)[None], fs, np.full(27, 90, np.float32), sensors=sensors
    )


def test_the_accelerometer_has_its_own_rate_and_lies_at_the_same_times():
    acc = np.stack([sine(2.0, 50.0), 5 * sine(3.0, 50.0), 1 + 0 * sine(1.0, 50.0)])
    windows, _ = make_windows([recording(acc)], Preprocess(acc="xyz"))
    assert windows.x.shape == (27, 4, 200)
    alone, _ = make_windows([recording(None)], Preprocess())
    np.testing.assert_array_equal(windows.x[:, :1], alone.x)
    middle = windows.x[10]
    t = 20.0 + np.arange(200) / 25.0
    np.testing.assert_allclose(middle[1], np.sin(2 * np.pi * 2 * t), atol=0.02)
    np.testing.assert_allclose(middle[2], 5 * np.sin(2 * np.pi * 3 * t), atol=0.2)  # amplitudes are kept
    np.testing.assert_allclose(middle[3], 0, atol=1e-3)  # gravity is gone


def test_the_magnitude_is_the_same_however_the_device_is_turned():
    rng = np.random.default_rng(0)
    acc = np.array([[0.2], [-0.3], [0.9]]) + 0.2 * np.stack([sine(f, 50.0) for f in (1.0, 2.0, 2.7)])
    turned = np.linalg.qr(rng.standard_normal((3, 3)))[0] @ acc
    one, other = (
        make_windows([recording(a.astype(np.float32))], Preprocess(acc="magnitude"))[0].x
        for a in (acc, turned)
    )
    assert one.shape == (27, 2, 200)
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert one[:, 1].std() > 0.05


def test_its_band_is_its_own():
    acc = np.stack([sine(5.0, 50.0)] * 3)
    narrow, wide = (
        make_windows([recording(acc)], Preprocess(acc="xyz", acc_band_hz=band))[0].x
        for band in (None, (1, 8))
    )
    assert narrow[:, 1].std() < 0.3 < 0.6 < wide[:, 1].std()
    np.testing.assert_array_equal(narrow[:, 0], wide[:, 0])


def test_windows_with_a_gap_in_it_or_beyond_its_end_are_dropped():
    acc = np.stack([sine(2.0, 50.0)] * 3)
    acc[1, 1000:1010] = np.nan  # 20 s
    _, dropped = make_windows([recording(acc[:, :2900])], Preprocess(acc="xyz"))
    assert dropped.by_reason == {MISSING: 4, NOT_COVERED: 1}
    windows, dropped = make_windows([recording(acc[:, :2900])], Preprocess())
    assert (len(windows), dropped.total) == (27, 0)  # nobody asked for it


def test_without_one_it_is_refused_by_name_or_zeros():
    some = [
        recording(np.ones((3, 3000), np.float32), name="a"),
        *(recording(None, name=n) for n in "bcdefgh"),
    ]
    with pytest.raises(InputError, match="made/b, made/c, made/d, made/e, made/f and 2 more have no acc"):
        make_windows(some, Preprocess(acc="xyz"))
    windows, _ = make_windows(some, Preprocess(acc="xyz", acc_dropout=0.3))
    assert not windows.x[27:, 1:].any()


@pytest.fixture(scope="module")
def wrist(tmp_path_factory):
    return prepare(WRIST, tmp_path_factory.mktemp("wrist"))


def test_it_is_scaled_by_what_is_trained_on_alone(wrist, tmp_path):
    assert wrist.axes == 3
    assert np.sqrt(np.square(wrist.train.x[:, 1:], dtype=float).mean()) == pytest.approx(1, abs=1e-5)
    raw, _ = make_windows(
        synthetic.recordings(synthetic.Synthetic(subjects=6, minutes=1.5)), WRIST.preprocess
    )
    test = raw.take(raw.subject == "synthetic/s000")
    np.testing.assert_allclose(wrist.test.x[:, 1:] * wrist.acc_scale, test.x[:, 1:], rtol=1e-5, atol=1e-6)
    other = prepare(dataclasses.replace(WRIST, split=Split(test=("*/s001",), seed=3)), tmp_path)
    assert other.acc_scale != wrist.acc_scale


def test_data_sets_in_other_units_and_none_at_all_are_refused():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 4, 50)).astype(np.float32)

    def part(name: str, factor: float) -> tuple[Part, np.ndarray, np.ndarray]:
        return Part(f"{name}/s", name, 20, 0, False), factor * x, np.zeros(20)

    assert motion.scale_of([part("a", 1), part("b", 0)], 3) == pytest.approx(1, abs=0.05)
    with pytest.raises(InputError, match=r"RMS is 9.* in g and 0.009.* in counts: .* different units"):
        motion.scale_of([part("g", 9.8), part("counts", 0.01)], 3)
    with pytest.raises(InputError, match="no training window has accelerometer"):
        motion.scale_of([part("a", 0)], 3)


def test_dropout_leaves_it_out_of_training_windows_only_and_always_of_the_same(wrist, tmp_path):
    config = dataclasses.replace(
        WRIST, preprocess=Preprocess(acc="xyz", acc_dropout=0.4), augment=Augment(copies=1)
    )
    data, again = prepare(config, tmp_path / "a"), prepare(config, tmp_path / "b")
    without = ~data.train.x[:, 1:].any(axis=(1, 2))
    assert 0.3 < without.mean() < 0.5
    np.testing.assert_array_equal(data.train.x, again.train.x)
    np.testing.assert_array_equal(data.test.x, wrist.test.x)
    np.testing.assert_array_equal(
        data.train.x[: len(wrist.train), 0].shape[1:], wrist.train.x[:, 0].shape[1:]
    )
    assert data.val.x[:, 1:].any(axis=(1, 2)).all()


def test_a_model_sees_the_sensors_it_names(wrist):
    assert wrist.seen_by("") is wrist
    ppg, acc = wrist.seen_by("ppg"), wrist.seen_by("acc")
    np.testing.assert_array_equal(ppg.test.x, wrist.test.x[:, :1])
    np.testing.assert_array_equal(acc.taught_x, wrist.train.x[:, 1:])
    assert (ppg.axes, acc.axes) == (0, 3)
    assert ppg.seen_by("ppg") is ppg
    with pytest.raises(InputError, match="windows have no accelerometer"):
        ppg.seen_by("acc")


def test_stretching_plays_both_faster():
    acc = np.stack([sine(2.0, 50.0)] * 3)
    windows, _ = make_windows([stretch(recording(acc), 1.25)], Preprocess(acc="xyz"))
    bpm = fft_peak(windows.x[:, :1], 25.0), fft_peak(windows.x[:, 1:2], 25.0)
    np.testing.assert_allclose(bpm[0], 1.25 * 90, atol=2)
    np.testing.assert_allclose(bpm[1], 1.25 * 120, atol=2)


def test_copies_are_turned_and_their_ppg_is_what_it_was():
    one = synthetic.recordings(synthetic.Synthetic(subjects=1, minutes=1))[0]
    settings = Augment(copies=6)
    turned = augmented([one], settings, Preprocess(acc="xyz"))
    plain = augmented([one], settings, Preprocess())
    kept = augmented([one], dataclasses.replace(settings, turn=False), Preprocess(acc="xyz"))
    for a, b, c in zip(turned, plain, kept, strict=True):
        np.testing.assert_array_equal(a.ppg, b.ppg)
        assert (a.fs, a.sensors[ACC].fs) == (b.fs, b.fs)
        np.testing.assert_array_equal(c.sensors[ACC].values, one.sensors[ACC].values)
    values = [a.sensors[ACC].values for a in turned]
    assert len({v.tobytes() for v in values}) > 3
    for v in values:  # the same axes, in another order and with other signs
        np.testing.assert_array_equal(
            np.sort(np.abs(v[:, 100])), np.sort(np.abs(one.sensors[ACC].values[:, 100]))
        )
    assert turn(dataclasses.replace(one, sensors={}), np.random.default_rng(0)).sensors == {}


def test_the_accelerometer_moves_as_what_disturbs_the_ppg_does():
    """Within 20 s, the motion in the PPG has the accelerometer's lines, and not those of a minute later."""
    quiet = synthetic.Synthetic(subjects=4, minutes=8, motion=0, noise=0)
    moving = dataclasses.replace(quiet, motion=1.0)
    same, later = [], []
    for still, moved in zip(synthetic.recordings(quiet), synthetic.recordings(moving), strict=True):
        disturbed = (moved.ppg[0] - still.ppg[0])[3000:9000].reshape(-1, 500)  # exercise
        acc = moved.sensors[ACC].values[:, 3000:9000]
        assert np.ptp(still.sensors[ACC].values, axis=1).max() < 1.0 < np.ptp(acc, axis=1).max()
        taper = np.hanning(500)
        ppg = np.abs(np.fft.rfft(disturbed * taper))[:, 10:80]
        motions = np.abs(np.fft.rfft(acc.reshape(3, -1, 500) * taper)).sum(0)[:, 10:80]
        active = np.flatnonzero(ppg.max(1) > 20)
        for i in active:
            same.append(np.corrcoef(ppg[i], motions[i])[0, 1])
            later.append(np.corrcoef(ppg[i], motions[(i + 3) % len(motions)])[0, 1])
    assert len(same) > 20
    assert np.mean(same) > 0.7 > np.mean(later) + 0.2


def test_without_the_accelerometer_nothing_is_new():
    assert fingerprint(DataConfig(options={"subjects": 4, "minutes": 1})) == fingerprint(
        DataConfig(options={"subjects": 4, "minutes": 1}, preprocess=Preprocess(acc="none"))
    )
    for wrong in ({"acc": "gyro"}, {"acc_dropout": 0.5}, {"acc": "xyz", "acc_band_hz": (1.0, 20.0)}):
        with pytest.raises(InputError, match="acc"):
            Preprocess(**wrong)
