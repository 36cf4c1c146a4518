"""The loaders of published data sets, each on small files of its own layout, and on files that are not.

Every signal is a pulse whose rate rises steadily, so that a label under the wrong window shows as an error.
"""

import pickle

import numpy as np
import pytest
from scipy.io import savemat

from kd import datasets
from kd.datasets import ecg
from kd.datasets.galaxyppg import mean_within, on_grid
from kd.errors import InputError
from kd.recordings import ACC
from kd.signals.baselines import fft_peak
from kd.signals.prepare import windows_of
from kd.signals.preprocess import Preprocess

LOW, SLOPE = 60.0, 0.25  # BPM at the start, BPM a second: 0.5 BPM from one window to the next


def rate(t):
    return LOW + SLOPE * np.asarray(t)


def phase(t):
    return (LOW * t + SLOPE * t**2 / 2) / 60


def pulse(seconds, fs, start_s=0.0):
    """The pulse at fs Hz, (samples,), as seen from start_s on."""
    t = start_s + np.arange(round(seconds * fs)) / fs
    return np.sin(2 * np.pi * phase(t)) + 0.3 * np.sin(4 * np.pi * phase(t))


def labels(seconds, start_s=0.0):
    """Heart rate of each 8 s window, every 2 s."""
    return rate(start_s + 2.0 * np.arange(int((seconds - 8) / 2 + 1e-9) + 1) + 4)


def beats(seconds):
    """Times at which the pulse has gone through a whole number of cycles."""
    n = np.arange(1, int(phase(seconds)))
    return (-LOW + np.sqrt(LOW**2 + 120 * SLOPE * n)) / SLOPE


def heart(seconds, fs=128.0, inverted=False):
    """An ECG with those beats: narrow QRS complexes, T waves, wander and noise."""
    t = np.arange(round(seconds * fs)) / fs
    signal = 0.3 * np.sin(2 * np.pi * 0.2 * t) + np.random.default_rng(0).normal(0, 0.03, len(t))
    for b in beats(seconds):
        signal += np.exp(-0.5 * ((t - b) / 0.012) ** 2) + 0.25 * np.exp(-0.5 * ((t - b - 0.25) / 0.04) ** 2)
    return -signal if inverted else signal


def check_alignment(path, name=None, tolerance=0.3, **options):
    """Load, cut, and compare each window's rate with its label."""
    found, recordings = datasets.load(path, options=options)
    windows, dropped = windows_of(path, options=options)
    assert name in (None, found)
    error = fft_peak(windows.x, 25.0) - windows.bpm
    assert np.abs(error.mean()) < tolerance, "labels belong to other windows"
    assert np.abs(error).max() < 4.0
    return recordings, windows, dropped


def moving(seconds, fs, start_s=0.0):
    """An accelerometer that moves with the pulse, (3, samples), so that it shows which window it is in."""
    wave = pulse(seconds, fs, start_s)
    return np.stack([9.8 + 0 * wave, wave, -2 * wave])


def check_accelerometer(path, fs, seconds=60.0, **options):
    """Load, cut with its axes, and compare their rate with the label."""
    _, recordings = datasets.load(path, options=options)
    for r in recordings:
        acc = r.sensors[ACC]
        assert acc.fs == fs
        assert acc.values.shape == (3, pytest.approx(seconds * fs, abs=1))
        assert acc.values.dtype == np.float32
    windows, _ = windows_of(path, options=options, preprocess=Preprocess(acc="xyz"))
    assert windows.x.shape[1] == 4
    for axis in (2, 3):
        assert np.abs(fft_peak(windows.x[:, axis : axis + 1], 25.0) - windows.bpm).max() < 4.0
    swing = windows.x.std(axis=(0, 2))
    assert swing[3] / swing[2] == pytest.approx(2, rel=0.01)
    assert swing[1] < 0.1 * swing[2]
    return recordings, windows


def refused(path, says, **options):
    with pytest.raises(InputError, match=says) as error:
        datasets.load(path, **options)
    assert str(path) in str(error.value)


# ---- IEEE SPC 2015


def write_spc(folder, number, rows=6, seconds=60.0, signal="DATA_{:02d}_TYPE02", reference="{}_BPMtrace"):
    folder.mkdir(parents=True, exist_ok=True)
    name = signal.format(number)
    ppg = pulse(seconds, 125.0) * 40 + number
    sig = np.stack(
        [np.random.default_rng(number).normal(size=len(ppg))] * (rows - 5)
        + [ppg, 2 * ppg, *moving(seconds, 125.0)]
    )
    savemat(folder / f"{name}.mat", {"sig": sig})
    bpm = labels(seconds)[:, None]
    savemat(folder / f"{reference.format(name)}.mat", {"BPM0": bpm})


def test_spc(tmp_path):
    write_spc(tmp_path / "Training_data", 1)
    write_spc(tmp_path / "Training_data", 2, rows=5)
    recordings, windows, dropped = check_alignment(tmp_path, "spc")
    assert [(r.name, r.dataset, r.subject) for r in recordings] == [
        ("DATA_01_TYPE02", "SPC-train", "01"),
        ("DATA_02_TYPE02", "SPC-train", "02"),
    ]
    for number, r in enumerate(recordings, start=1):
        assert (r.fs, r.ppg.shape, len(r.hr)) == (125.0, (2, 7500), (7500 - 1000) // 250 + 1)
        np.testing.assert_allclose(r.ppg[0], pulse(60, 125.0) * 40 + number, atol=1e-4)
        np.testing.assert_allclose(r.ppg[1], 2 * r.ppg[0], rtol=1e-5)
    assert len(windows) == 54
    assert dropped.total == 0


def test_spc_has_an_accelerometer(tmp_path):
    write_spc(tmp_path, 1)
    write_spc(tmp_path, 2, rows=5)
    check_accelerometer(tmp_path, 125.0)


def test_spc_test_and_extra_parts_share_their_subjects(tmp_path):
    write_spc(tmp_path / "TestData", 1, signal="TEST_S04_T{:02d}", reference="True_S04_T01", rows=5)
    write_spc(tmp_path / "Extra", 1, signal="DATA_S04_T{:02d}", reference="BPM_S04_T01", rows=5)
    (tmp_path / "TrueBPM").mkdir()
    (tmp_path / "TestData/True_S04_T01.mat").rename(tmp_path / "TrueBPM/True_S04_T01.mat")
    recordings, _, _ = check_alignment(tmp_path, "spc")
    assert [(r.dataset, r.subject) for r in recordings] == [("SPC-test", "S04")] * 2


def test_spc_a_single_file_is_enough(tmp_path):
    write_spc(tmp_path, 1)
    path = tmp_path / "DATA_01_TYPE02.mat"
    assert len(datasets.load(path)[1]) == 1
    assert datasets.fingerprint(path, "spc") != datasets.fingerprint(tmp_path, "spc")


def test_spc_refusals(tmp_path):
    write_spc(tmp_path, 1)
    (tmp_path / "DATA_01_TYPE02_BPMtrace.mat").unlink()
    refused(tmp_path, "reference heart rate DATA_01_TYPE02_BPMtrace.mat is missing")
    savemat(tmp_path / "DATA_01_TYPE02_BPMtrace.mat", {"BPM": np.zeros(3)})
    refused(tmp_path, "no variable BPM0")
    savemat(tmp_path / "DATA_01_TYPE02.mat", {"sig": np.zeros((4, 2000))})
    refused(tmp_path, r"sig has shape \(4, 2000\)")
    (tmp_path / "DATA_01_TYPE02.mat").write_bytes(b"MATLAB 5.0 MAT-file, or not")
    refused(tmp_path, "not a readable MATLAB file")
    (tmp_path / "DATA_01_TYPE02.mat").write_bytes(
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" * 100
    )
    refused(tmp_path, "MATLAB 7.3")


# ---- BAMI


def write_bami(path, seconds=60.0, lacking=0, **variables):
    ppg = np.uint16(30000 + 500 * np.stack([pulse(seconds, 50.0)] * 3))
    hr = labels(seconds)
    hr = hr[lacking:] if lacking >= 0 else np.concatenate([np.full(-lacking, 200.0), hr])
    content = {"rawPPG": ppg, "rawAcc": moving(seconds, 50.0), "bpm_ecg": hr[None], "bpm_proposed": hr}
    savemat(path, {key: value for key, value in (content | variables).items() if value is not None})


@pytest.mark.parametrize("lacking", [0, 1, -1])
def test_bami_labels_and_signal_end_together(tmp_path, lacking):
    write_bami(tmp_path / "BAMI1_3.mat", lacking=lacking)
    (recording,), windows, dropped = check_alignment(tmp_path, "bami")
    assert (recording.dataset, recording.subject, recording.fs) == ("BAMI-1", "BAMI1_3", 50.0)
    assert recording.ppg.shape == (3, 3000)
    assert recording.ppg.max() > 30000
    assert len(windows) == 27 - max(lacking, 0)
    assert dropped.total == 0


def test_bami_has_an_accelerometer_or_not(tmp_path):
    write_bami(tmp_path / "BAMI1_3.mat", lacking=1)
    check_accelerometer(tmp_path, 50.0)
    write_bami(tmp_path / "BAMI1_4.mat", rawAcc=None)
    with_acc, without = datasets.load(tmp_path)[1]
    assert (list(with_acc.sensors), list(without.sensors)) == ([ACC], [])
    with pytest.raises(InputError, match="BAMI-1/BAMI1_4 have no accelerometer"):
        windows_of(tmp_path, preprocess=Preprocess(acc="xyz"))
    write_bami(tmp_path / "BAMI1_4.mat", rawAcc=moving(40, 50.0))
    refused(tmp_path, r"rawAcc: 2000 samples at 50 Hz last 40 s, .* 60 s: the rates contradict")


def test_bami_2_is_another_set(tmp_path):
    write_bami(tmp_path / "BAMI2_01.mat")
    write_bami(tmp_path / "BAMI1_1.mat")
    assert [r.dataset for r in datasets.load(tmp_path)[1]] == ["BAMI-1", "BAMI-2"]


def test_bami_refusals(tmp_path):
    path = tmp_path / "BAMI1_1.mat"
    write_bami(path, bpm_ecg=np.zeros((1, 20)))
    refused(tmp_path, "20 labels for 27 windows")
    write_bami(path, rawPPG=np.zeros((2, 3000)))
    refused(tmp_path, r"rawPPG has shape \(2, 3000\), not \(3, 'n'\)")
    write_bami(path, bpm_ecg="fast")
    refused(tmp_path, "bpm_ecg doesn't hold numbers")


# ---- BIDMC


def write_bidmc(folder, number=1, seconds=120, lag=6, hr=None):
    folder.mkdir(parents=True, exist_ok=True)
    t, ppg = np.arange(seconds * 125) / 125, pulse(seconds, 125.0)
    with (folder / f"bidmc_{number:02d}_Signals.csv").open("w") as file:
        file.write("Time [s], RESP, PLETH, V, AVR, II\n")
        file.writelines(f"{a:.3f},0.5,{0.5 + 0.1 * b:.5f},0.1,0.2,0.3\n" for a, b in zip(t, ppg, strict=True))
    shown = rate(np.arange(seconds + 1) - lag) if hr is None else hr
    with (folder / f"bidmc_{number:02d}_Numerics.csv").open("w") as file:
        file.write("Time [s], HR, PULSE, RESP, SpO2\n")
        file.writelines(f"{k},{'' if np.isnan(h) else f'{h:.2f}'},70,15,97\n" for k, h in enumerate(shown))


def test_bidmc_labels_are_moved_back_by_the_monitors_lag(tmp_path):
    write_bidmc(tmp_path / "bidmc_csv")
    (recording,), windows, dropped = check_alignment(tmp_path, "bidmc", tolerance=0.5)
    assert (recording.dataset, recording.subject, recording.fs) == ("BIDMC", "bidmc_01", 125.0)
    assert recording.ppg.shape == (1, 15000)
    assert recording.hr_start_s == -6.0
    assert dropped.by_reason == {"window reaches outside the recording": 3}
    assert len(windows) == 57 - 3
    unmoved, _ = windows_of(tmp_path, options={"lag_s": 0.0})
    assert np.mean(fft_peak(unmoved.x, 25.0) - unmoved.bpm) == pytest.approx(6 * SLOPE, abs=0.5)


def test_bidmc_a_second_without_a_rate_costs_the_windows_it_is_in(tmp_path):
    shown = rate(np.arange(121.0))
    shown[50] = np.nan
    write_bidmc(tmp_path, hr=shown)
    (recording,) = datasets.load(tmp_path, options={"lag_s": 0})[1]
    assert np.flatnonzero(np.isnan(recording.hr)).tolist() == [22, 23, 24, 25]
    np.testing.assert_allclose(
        recording.hr[:22], [shown[2 * k : 2 * k + 8].mean() for k in range(22)], rtol=1e-4
    )


def test_bidmc_a_second_without_a_reading_is_missing_before_the_mean(tmp_path):
    shown = rate(np.arange(121.0))
    shown[50], shown[90] = 0, 300
    write_bidmc(tmp_path, hr=shown)
    (recording,) = datasets.load(tmp_path, options={"lag_s": 0})[1]
    assert np.flatnonzero(np.isnan(recording.hr)).tolist() == [22, 23, 24, 25, 42, 43, 44, 45]
    assert recording.readings_left_out == 2
    (narrow,) = datasets.load(tmp_path, options={"lag_s": 0}, bpm_range=(30, 301))[1]
    assert narrow.readings_left_out == 1
    windows, _ = windows_of(tmp_path, options={"lag_s": 0}, min_bpm=30, classes=272)
    assert windows.bpm.max() > rate(90.0) + 10  # 300 was said to be a heart rate


def test_bidmc_refusals(tmp_path):
    write_bidmc(tmp_path, seconds=20)
    (tmp_path / "bidmc_01_Numerics.csv").unlink()
    with pytest.raises(InputError, match=r"bidmc_01_Numerics\.csv: no such file"):
        datasets.load(tmp_path)
    write_bidmc(tmp_path, seconds=20)
    signals = tmp_path / "bidmc_01_Signals.csv"
    signals.write_text("Time [s], RESP, II\n0,1,2\n")
    refused(tmp_path, "no column PLETH; it has Time")
    signals.write_text("Time [s], RESP, PLETH\n0,1,2\n")
    refused(tmp_path, "1 samples, too few")
    signals.write_text("Time [s], RESP, PLETH\n0,1,2\n0.008,1,abc\n")
    refused(tmp_path, "a cell isn't a number")


# ---- PPG-DaLiA


def write_dalia(path, content=None, seconds=60.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        wrist = {"BVP": pulse(seconds, 64.0)[:, None] * 30, "ACC": moving(seconds, 32.0).T}
        content = {
            "signal": {"wrist": wrist, "chest": {"ECG": np.zeros((42000, 1))}},
            "label": labels(seconds),
            "activity": np.zeros((240, 1)),
            "rpeaks": np.arange(3),
            "questionnaire": {"AGE": 30, "Gender": " m"},
            "subject": path.stem,
        }
    path.write_bytes(pickle.dumps(content, protocol=2))


def test_ppg_dalia(tmp_path):
    write_dalia(tmp_path / "PPG_FieldStudy/S1/S1.pkl")
    write_dalia(tmp_path / "PPG_FieldStudy/S12/S12.pkl", seconds=90.0)
    (tmp_path / "PPG_FieldStudy/S1/S1_quest.csv").touch()
    recordings, windows, dropped = check_alignment(tmp_path, "ppg_dalia")
    assert [(r.dataset, r.subject, r.fs) for r in recordings] == [
        ("PPG-DaLiA", "S1", 64.0),
        ("PPG-DaLiA", "S12", 64.0),
    ]
    assert recordings[0].ppg.shape == (1, 3840)
    assert type(recordings[0].ppg) is type(recordings[0].hr) is np.ndarray
    # label j belongs to BVP[128 j : 128 j + 512]
    assert [len(r.hr) for r in recordings] == [(3840 - 512) // 128 + 1, (5760 - 512) // 128 + 1]
    assert len(windows) == 27 + 42
    assert dropped.total == 0


def test_ppg_dalia_has_an_accelerometer(tmp_path):
    write_dalia(tmp_path / "S1.pkl")
    check_accelerometer(tmp_path, 32.0)


def test_ppg_dalia_refusals(tmp_path):
    path = tmp_path / "S1.pkl"
    write_dalia(path, {"signal": {"wrist": {"ACC": np.zeros(3)}}, "label": np.zeros(3)})
    refused(tmp_path, "no signal/wrist/BVP or no label")
    write_dalia(path, {"signal": {"wrist": {"BVP": np.zeros(300)}}})  # WESAD's
    refused(tmp_path, "WESAD")
    write_dalia(path, {"signal": {"wrist": {"BVP": np.zeros((300, 2))}}, "label": np.zeros(3)})
    refused(tmp_path, r"BVP has shape \(300, 2\)")
    write_dalia(path, [1, 2])
    refused(tmp_path, "use PPG-DaLiA's original file")
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    refused(tmp_path, "refused to open this pickle")


# ---- WildPPG


def write_participant(folder, name, seconds=120.0, **sensors):
    fs = 128.0
    ppg = pulse(seconds, fs)
    wrist = {"ppg_g": {"v": ppg[:, None], "fs": fs}, "ppg_ir": {"v": 3 * ppg[:, None], "fs": fs}} | sensors
    content = {
        "id": name,
        "notes": "",
        "sternum": {"ecg": {"v": heart(seconds)[:, None], "fs": fs}, "ppg_g": {"v": ppg, "fs": fs}},
        "head": {"ppg_g": {"v": ppg[::2], "fs": fs / 2}},
        "wrist": wrist,
        "ankle": {"ppg_g": {"v": ppg, "fs": fs}},
    }
    savemat(folder / f"WildPPG_Part_{name}.mat", content)


def test_wildppg_participants_get_their_heart_rate_from_the_ecg(tmp_path):
    write_participant(tmp_path, "an0")
    write_participant(tmp_path, "e61")
    (tmp_path / "WildPPG.mat").touch()  # made from the participants: not read twice
    recordings, windows, _ = check_alignment(tmp_path, "wildppg")
    assert [(r.dataset, r.subject, r.fs) for r in recordings] == [
        ("WildPPG", "an0", 128.0),
        ("WildPPG", "e61", 128.0),
    ]
    assert recordings[0].ppg.shape == (1, 15360)
    np.testing.assert_allclose(recordings[0].hr, labels(120), atol=1.0)
    assert len(windows) == 2 * 57
    head, _, _ = check_alignment(tmp_path, location="head")
    assert head[0].fs == 64.0
    both, _, _ = check_alignment(tmp_path, sensors=["ppg_g", "ppg_ir"])
    assert both[0].ppg.shape == (2, 15360)


def test_wildppg_has_an_accelerometer_at_each_place(tmp_path):
    axes = {f"acc_{name}": {"v": row, "fs": 64.0} for name, row in zip("xyz", moving(120, 64.0), strict=True)}
    write_participant(tmp_path, "an0", **axes)
    check_accelerometer(tmp_path, 64.0, seconds=120)
    assert datasets.load(tmp_path, options={"location": "head"})[1][0].sensors == {}
    write_participant(tmp_path, "an0", **axes | {"acc_y": {"v": np.zeros(7680), "fs": 32.0}})
    refused(tmp_path, "wrist.acc_x, wrist.acc_y, wrist.acc_z differ in rate or length")


def test_wildppg_stretches_that_the_authors_exclude_are_excluded(tmp_path, monkeypatch):
    from kd.datasets import wildppg

    assert wildppg.EXCLUDED["l38", "wrist"] == slice(4337572, 4545543)
    monkeypatch.setitem(wildppg.EXCLUDED, ("an0", "wrist"), slice(6400, 7680))  # 50 s .. 60 s
    write_participant(tmp_path, "an0")
    _, windows, dropped = check_alignment(tmp_path)
    assert dropped.by_reason == {"signal missing (NaN)": 8}  # those that start at 44, 46, ... 58 s
    assert len(windows) == 57 - 8
    assert windows_of(tmp_path, options={"location": "ankle"})[1].total == 0


def cells(arrays):
    out = np.empty((len(arrays), 1), dtype=object)
    for k, array in enumerate(arrays):
        out[k, 0] = array
    return out


def write_whole(folder, name="data_ppg_wrist", **more):
    rows = [pulse(80, 25.0).reshape(-1, 200), pulse(120, 25.0).reshape(-1, 200)]
    hr = [rate(8.0 * np.arange(len(r)) + 4)[:, None] for r in rows]
    hr[0][3] = 0  # no valid ECG
    content = {name: cells(rows), "data_bpm_values": cells(hr), "data_altitude_values": cells(hr)}
    savemat(folder / "WildPPG.mat", content | more)


@pytest.mark.parametrize("name", ["data_ppg_wrist", "data_ppg_g_wrist"])
def test_wildppg_rows_follow_one_another(tmp_path, name):
    write_whole(tmp_path, name)
    (first, second), windows, _ = check_alignment(tmp_path, "wildppg")
    assert (first.subject, first.fs, first.hr_stride_s) == ("p01", 25.0, 8.0)
    assert first.ppg.shape == (1, 2000)
    assert np.flatnonzero(np.isnan(first.hr)).tolist() == [3]
    assert len(second.hr) == 15
    np.testing.assert_allclose(second.hr, rate(8.0 * np.arange(15) + 4))
    assert (windows.bpm > 0).all()


def test_wildppg_refusals(tmp_path):
    write_participant(tmp_path, "an0", ppg_ir={"v": np.zeros(5), "fs": 128.0})
    with pytest.raises(InputError, match="location is 'foot': use one of sternum, head, wrist, ankle"):
        datasets.load(tmp_path, options={"location": "foot"})
    refused(tmp_path, "differ in rate or length", options={"sensors": ["ppg_g", "ppg_ir"]})
    refused(tmp_path, "no variable wrist.ppg_r.v", options={"sensors": "ppg_r"})
    (tmp_path / "WildPPG_Part_an0.mat").unlink()
    write_whole(tmp_path)
    refused(tmp_path, "no variable data_ppg_g_head", options={"location": "head"})
    write_whole(tmp_path, data_bpm_values=cells([np.zeros(10)] * 3))
    refused(tmp_path, "2 participants and data_bpm_values 3")
    write_whole(tmp_path, data_bpm_values=cells([np.zeros(3), np.zeros(15)]))
    refused(tmp_path, "participant 1 has 10 rows of signal and 3 labels")


@pytest.mark.parametrize("inverted", [False, True])
def test_r_peaks_are_where_the_beats_are(inverted):
    found = ecg.r_peaks(heart(120, inverted=inverted), 128.0) / 128
    true = beats(120)
    nearest = np.abs(found[:, None] - true).min(axis=1)
    assert nearest.max() < 0.02
    assert len(found) == pytest.approx(len(true), abs=1)


def test_heart_rate_of_an_ecg_that_falls_off_is_not_made_up():
    signal = heart(120)
    signal[5120:7680] = np.random.default_rng(1).normal(0, 0.02, 2560)  # 40 s .. 60 s: off
    hr = ecg.heart_rate(signal, 128.0)
    true = labels(120)
    assert len(hr) == len(true)
    assert np.isnan(hr[20:27]).all(), "windows without a beat have no heart rate"
    known = np.isfinite(hr)
    assert known.sum() >= len(true) - 14
    np.testing.assert_allclose(hr[known], true[known], atol=2.0)
    assert len(ecg.heart_rate(signal[:100], 128.0)) == 0
    assert np.isnan(ecg.heart_rate(np.zeros(2000), 128.0)).all()


def test_intervals_that_disagree_with_their_neighbours_are_left_out():
    peaks = np.cumsum([0, 100, 100, 100, 100, 100, 50, 50, 100, 100, 100, 100, 100])
    rr, middle = ecg.good_intervals(peaks, 100.0)
    np.testing.assert_allclose(rr, 1.0)
    assert len(rr) == len(middle) == 10
    assert ((middle < 5) | (middle > 6)).all()


# ---- GalaxyPPG

WATCH_CLOCK = 1.7e9  # seconds


def write_galaxy(folder, seconds=120.0, e4=True, exit_s=110.5, events=None, acc=False):
    for name in ("GalaxyWatch", "PolarH10", "E4"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    start = WATCH_CLOCK

    def table(name, header, *columns):
        rows = zip(*columns, strict=True)
        lines = [",".join(header), *(",".join(str(cell) for cell in row) for row in rows)]
        (folder / name).write_text("\n".join(lines) + "\n")

    # Uneven times, as watches have them
    t = np.arange(round(seconds * 25)) / 25 + np.random.default_rng(0).uniform(0, 0.005, round(seconds * 25))
    wave = np.sin(2 * np.pi * phase(t))
    table("GalaxyWatch/PPG.csv", ["timestamp", "ppg"], ((start + t) * 1e3).astype(np.int64), wave * 1e5)
    if e4:
        t = np.arange(round(seconds * 64)) / 64
        micro = ((start + t) * 1e6).astype(np.int64)
        table("E4/BVP.csv", ["value", "timestamp"], np.sin(2 * np.pi * phase(t)), micro)
        table("E4/HR.csv", ["value", "timestamp"], [0], [0])
    for name, fs, clock in (("GalaxyWatch", 25, 1e3), ("E4", 32, 1e6)) if acc else ():
        t = np.arange(round((seconds - 10) * fs)) / fs + 5  # begins late, ends early
        at = ((start + t) * clock).astype(np.int64)
        table(f"{name}/ACC.csv", ["timestamp", "x", "y", "z"], at, *moving(seconds - 10, fs, 5.0))
    s = np.arange(int(seconds))
    korean = ((start + s + 32_400) * 1e3).astype(np.int64)
    table("PolarH10/HR.csv", ["phoneTimestamp", "hr"], korean, rate(s + 0.5).round(2))
    events = events or [(10.0, "baseline", "ENTER"), (exit_s, "baseline", "EXIT")]
    table(
        "Event.csv",
        ["timestamp", "session", "status"],
        [int((start + at) * 1e3) for at, _, _ in events],
        [session for _, session, _ in events],
        [status for _, _, status in events],
    )


@pytest.mark.parametrize(("device", "fs"), [("watch", 25.0), ("e4", 64.0)])
def test_galaxyppg_clocks_meet(tmp_path, device, fs):
    write_galaxy(tmp_path / "P02")
    write_galaxy(tmp_path / "P10", e4=False)
    # One rate a second: a window that starts just after one takes its label up to half a second late.
    recordings, windows, dropped = check_alignment(tmp_path, "galaxyppg", tolerance=0.4, device=device)
    worn = ["P02", "P10"] if device == "watch" else ["P02"]
    assert [(r.dataset, r.subject, r.fs) for r in recordings] == [("GalaxyPPG", p, fs) for p in worn]
    inside = [k for k in range(57) if 2 * k >= 10 and 2 * k + 8 <= 110.5]
    assert np.flatnonzero(np.isfinite(recordings[0].hr)).tolist() == inside
    assert len(windows) == len(inside) * len(worn)
    assert set(dropped.by_reason) == {"no label (NaN)"}


@pytest.mark.parametrize(("device", "fs"), [("watch", 25.0), ("e4", 32.0)])
def test_galaxyppg_has_an_accelerometer_that_counts_when_asked_for(tmp_path, device, fs):
    write_galaxy(tmp_path / "P02")
    plain, asked = (datasets.fingerprint(tmp_path, "galaxyppg", sensors=s) for s in (False, True))
    assert plain == asked
    write_galaxy(tmp_path / "P02", acc=True)
    assert datasets.fingerprint(tmp_path, "galaxyppg") == plain
    assert datasets.fingerprint(tmp_path, "galaxyppg", sensors=True) != plain
    (recording,), _ = check_accelerometer(tmp_path, fs, seconds=120, device=device)
    missing = np.isnan(recording.sensors[ACC].values[0])
    assert missing[: round(4.9 * fs)].all()
    assert missing[-round(4.9 * fs) :].all()
    assert not missing[round(5.1 * fs) : -round(5.1 * fs)].any()


def test_galaxyppg_what_the_strap_cannot_have_read_is_in_no_mean(tmp_path):
    write_galaxy(tmp_path / "P02")
    strap = tmp_path / "P02/PolarH10/HR.csv"
    lines = strap.read_text(encoding="utf-8").splitlines()
    for second, shown in [(40, 0), (60, 300), (61, 12)]:
        lines[1 + second] = f"{lines[1 + second].split(',')[0]},{shown}"
    strap.write_text("\n".join(lines), encoding="utf-8")
    (recording,), _, _ = check_alignment(tmp_path, "galaxyppg", tolerance=0.4)
    assert recording.readings_left_out == 2  # 0 is the strap's own word for no reading


def test_galaxyppg_only_the_files_it_reads_are_in_the_fingerprint(tmp_path):
    write_galaxy(tmp_path / "P02")
    before = datasets.fingerprint(tmp_path, "galaxyppg")
    (tmp_path / "P02/E4/HR.csv").write_text("value,timestamp\n1,1\n")
    (tmp_path / "HR.csv").write_text("")
    assert datasets.fingerprint(tmp_path, "galaxyppg") == before
    write_galaxy(tmp_path / "P02", exit_s=100.0)
    assert datasets.fingerprint(tmp_path, "galaxyppg") != before


def test_galaxyppg_refusals(tmp_path):
    folder = tmp_path / "P02"
    write_galaxy(folder, e4=False)
    with pytest.raises(InputError, match="device is 'ring': use one of watch, e4"):
        datasets.load(tmp_path, options={"device": "ring"})
    refused(tmp_path, "no participant has E4/BVP.csv", options={"device": "e4"})
    strap = (folder / "PolarH10/HR.csv").read_text()
    (folder / "PolarH10/HR.csv").write_text(strap.partition("\n")[0] + "\n")
    refused(tmp_path, r"HR\.csv: no heart rate in it")
    (folder / "PolarH10/HR.csv").write_text(strap)
    (folder / "GalaxyWatch/PPG.csv").rename(folder / "kept")
    (folder / "GalaxyWatch/PPG.csv").write_text((folder / "kept").read_text() + "1700000000000000,1\n")
    refused(tmp_path, r"PPG\.csv: its timestamps span .* days")
    (folder / "kept").rename(folder / "GalaxyWatch/PPG.csv")
    (folder / "Event.csv").write_bytes(b"\xff\xfet\x00")
    refused(tmp_path, r"Event\.csv: not a text file in UTF-8")
    (folder / "Event.csv").write_text("timestamp,session\n1,a\n")
    refused(tmp_path, "needs the columns timestamp, session and status")
    (folder / "Event.csv").unlink()
    refused(tmp_path, r"Event\.csv: no such file")
    (folder / "PolarH10/HR.csv").unlink()
    refused(tmp_path, r"HR\.csv: no such file")
    (folder / "GalaxyWatch/PPG.csv").write_text("timestamp,ppg\n1000,1\n2000,2\n")
    refused(tmp_path, "shorter than one window")


def test_uneven_samples_are_put_on_a_grid_and_silence_is_missing():
    time = np.array([0.0, 0.04, 0.09, 0.12, 3.0, 3.04, 3.04, np.nan, 3.08])
    start, even = on_grid(time + 5, np.concatenate([2 * time[:4], [6.0, 6.08, 99, 1, 6.16]]), 25.0)
    assert start == 5.0
    grid = np.arange(len(even)) / 25
    assert np.isnan(even[(grid > 0.13) & (grid < 2.99)]).all()
    known = np.isfinite(even)
    np.testing.assert_allclose(even[known], 2 * grid[known], atol=1e-9)
    assert known.sum() == 5  # 0, 0.04, 0.08, 3, 3.04; the sample before a silence is given up
    assert len(on_grid(np.zeros(1), np.zeros(1), 25.0)[1]) == 0


def test_mean_within_leaves_out_zeros_and_sparse_windows():
    time = np.arange(20.0)
    value = np.where(time < 10, 60.0, 80.0)
    value[[2, 3]] = 0.0
    value[14:] = np.nan
    np.testing.assert_allclose(mean_within(time, value, np.array([0.0, 6.0, 12.0]), 8.0), [60, 70, np.nan])
