"""The synthetic recordings: the same for a seed, exactly labelled, and hard as wrists are hard."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from kd.errors import InputError
from kd.signals import synthetic
from kd.signals.baselines import fft_peak
from kd.signals.preprocess import Preprocess
from kd.signals.synthetic import Synthetic, beat_hr, recordings
from kd.signals.windows import make_windows


def digest(config):
    content = b"".join(r.ppg.tobytes() + r.hr.tobytes() for r in recordings(config))
    return hashlib.sha256(content).hexdigest()


def test_the_same_seed_gives_the_same_bits_in_any_process():
    config = Synthetic(subjects=3, minutes=2, seed=7)
    code = (
        "import hashlib; from kd.signals.synthetic import Synthetic, recordings; "
        "made = recordings(Synthetic(subjects=3, minutes=2, seed=7)); "
        "content = b''.join(r.ppg.tobytes() + r.hr.tobytes() for r in made); "
        "print(hashlib.sha256(content).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(config) == digest(config)
    assert digest(Synthetic(subjects=3, minutes=2, seed=8)) != digest(config)


def test_a_subject_does_not_depend_on_how_many_there_are():
    few, many = (recordings(Synthetic(subjects=n, minutes=1)) for n in (2, 5))
    for a, b in zip(few, many, strict=False):
        assert a.subject == b.subject
        np.testing.assert_array_equal(a.ppg, b.ppg)
        np.testing.assert_array_equal(a.hr, b.hr)
    assert len({r.subject for r in many}) == len({r.ppg.tobytes() for r in many}) == 5
    assert all(r.dataset == "synthetic" for r in many)


def test_labels_are_exact_from_the_beat_times(monkeypatch):
    """Counted the slow way from the very beats the signal was made of."""
    made = []
    original = synthetic._beats

    def keep(*args):
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(synthetic, "_beats", keep)
    for recording in recordings(Synthetic(subjects=3, minutes=3)):
        beats = made.pop(0)
        assert (np.diff(beats) > 0.2).all()
        assert beats[0] < 0.5
        assert beats[-1] > recording.seconds - 0.5
        assert len(recording.hr) == (180 - 8) // 2 + 1
        for k, label in enumerate(recording.hr):
            inside = [b for b in beats if 2 * k <= b <= 2 * k + 8]
            assert label == pytest.approx(60 * (len(inside) - 1) / (inside[-1] - inside[0]), rel=1e-6)


def test_beat_hr_of_a_metronome_and_of_too_few_beats():
    beats = np.arange(0, 20, 0.75)
    np.testing.assert_allclose(beat_hr(beats, np.array([0.0, 3.1, 11.0]), 8.0), 80.0)
    assert np.isnan(beat_hr(np.array([1.0]), np.array([0.0]), 8.0)).all()
    assert np.isnan(beat_hr(np.array([]), np.array([0.0]), 8.0)).all()


def test_signal_and_labels_belong_together():
    """Without motion and noise, the spectrum's peak is the label: a shift of one window would double this."""
    windows, dropped = make_windows(
        recordings(Synthetic(subjects=8, minutes=8, motion=0, noise=0)), Preprocess()
    )
    assert dropped.total == 0
    still = np.abs(fft_peak(windows.x, 25.0) - windows.bpm)
    assert np.median(still) < 1.5


def test_motion_is_what_makes_it_hard_and_crosses_the_heart_rate():
    def errors(motion):
        windows, _ = make_windows(recordings(Synthetic(subjects=8, minutes=8, motion=motion)), Preprocess())
        return np.abs(fft_peak(windows.x, 25.0) - windows.bpm).mean()

    assert errors(0.0) < 6.0
    assert errors(1.0) > 2 * errors(0.0)
    assert errors(1.0) > errors(0.3) > errors(0.0)


def test_a_session_rests_exercises_and_recovers():
    for k in range(10):
        effort, stepping, cadence = synthetic._session(np.random.default_rng(k), 480)
        assert effort[:70].max() <= 0.12, "rest first"
        assert stepping[:70].max() == 0
        assert effort[120:330].max() > 0.15, "then exercise"
        steps = cadence[stepping > 0]
        assert ((steps > 1.4) & (steps < 3.2)).all()
        assert effort.shape == stepping.shape == cadence.shape == (480,)


def test_heart_rates_cover_rest_and_exercise():
    hr = np.concatenate([r.hr for r in recordings(Synthetic())])
    assert np.percentile(hr, 5) < 75
    assert np.percentile(hr, 95) > 140
    assert np.isfinite(hr).all()
    assert ((hr >= 30) & (hr <= 209)).all(), "outside the classes"


def test_the_sensor_clips():
    loudness = [np.abs(r.ppg) for r in recordings(Synthetic(subjects=8))]
    at_limit = [np.isclose(a, a.max()).sum() for a in loudness]
    assert sum(n > 10 for n in at_limit) >= 4


@pytest.mark.parametrize(
    "fields", [{"subjects": 0}, {"minutes": 0.1}, {"motion": -1}, {"noise": -0.1}, {"fs": 8}, {"seed": -1}]
)
def test_settings_that_make_no_sense_are_refused_by_name(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        Synthetic(**fields)
