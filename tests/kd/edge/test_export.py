"""What is shipped does what the sweep did: the pipeline without scipy, and the stream."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import sosfilt

from kd.edge import export
from kd.errors import InputError
from kd.recordings import ACC, Recording, Signal
from kd.shipped import example, grid, stream
from kd.signals.filters import bandpassed
from kd.signals.prepare import DataConfig, load_recordings, prepare
from kd.signals.preprocess import Preprocess
from kd.signals.splits import Split
from kd.signals.windows import make_windows

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
SPOILED = recording().hr.astype(np.float32)
SPOILED[[3, 11, 12, 25]] = [0, 300, 0, np.inf]
HARD = {
    "plain": {},
    "no readings on another grid": {"hr": SPOILED, "hr_stride_s": 1.5},
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
    one, chosen = recording(**HARD[what]), Preprocess(**preprocess)
    wanted, _ = make_windows([one], chosen)
    windows, bpm, starts = example.labelled_windows(export.as_dict(one), config_of(chosen))
    assert len(bpm) == len(starts) == len(wanted)
    if len(wanted):
        np.testing.assert_array_equal(bpm, wanted.bpm)
        np.testing.assert_allclose(windows, wanted.x, atol=2e-5)


@pytest.mark.parametrize("fs", [24.99, 49.97])
def test_an_hour_at_a_rate_without_a_short_ratio_is_cut_as_the_sweep_cuts_it(fs):
    """By the nominal 25 Hz, the last windows would be 1.4 s off, and of 24.99 Hz one would be missing."""
    t = np.arange(round(3600 * fs)) / fs
    hour = recording(ppg=np.sin(2 * np.pi * t)[None].astype(np.float32), fs=fs, hr=np.full(1797, 70.0))
    wanted, _ = make_windows([hour], Preprocess())
    windows, bpm, _ = example.labelled_windows(export.as_dict(hour), config_of())
    assert len(wanted) == len(bpm) == 1797
    np.testing.assert_allclose(windows, wanted.x, atol=2e-5)
    config = config_of()
    starts, _ = example.heart_rate(Echo(config), hour.ppg, fs)
    np.testing.assert_array_equal(starts, 2.0 * np.arange(1797))
    true = np.sin(2 * np.pi * np.arange(200) / 25)  # every window starts with a whole second
    assert ((windows[:, 0] @ true) / 200 / true.std()).min() > 0.95


@pytest.mark.parametrize("causal", [False, True])
def test_a_stream_of_half_samples_does_not_drift(causal):
    """A stride of 0.5 s is 12.5 samples: 12 each time would put the last window 3.4 s too early."""
    raw, config = pulse(180, 25), config_of(Preprocess(stride_s=0.5))
    said = live(config, raw, 25, 25, causal=causal)
    np.testing.assert_array_equal(list(said), 0.5 * np.arange(345))
    if causal:
        sos, zi = np.array(config["filter"]["sos"]), np.array(config["filter"]["zi"])
        forward, _ = sosfilt(sos, raw[0].astype(float), zi=zi * float(raw[0, 0]))
        first = [round(12.5 * k) for k in range(345)]
        wanted = Echo(config)(example.cut(forward[None], first, config))
        np.testing.assert_allclose(list(said.values()), wanted, atol=1e-3)


class Cuts:
    """In place of a model: keeps the windows that a stream cuts."""

    def __init__(self, config: dict) -> None:
        self.config, self.windows = config, []

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        self.windows.append(windows[0])
        return np.zeros(len(windows))


@settings(deadline=None, max_examples=150)
@given(
    fs=st.sampled_from([20, 24.97, 24.99, 25, 31.7, 49.97, 51.2, 64, 100, 100.3, 125, 700]),
    window=st.sampled_from([1.0, 2.5, 3.3, 8.0]),
    stride=st.sampled_from([0.1, 0.5, 0.7, 1.0, 2.0, 2.5]),
    start=st.sampled_from([-6.0, 0.0, 0.5, 1.7]),
    label=st.sampled_from([(8.0, 2.0), (8.0, 8.0), (5.0, 1.5), (2.5, 0.5)]),
    seconds=st.floats(3, 25),
)
def test_sweep_example_and_stream_cut_the_same_windows(fs, window, stride, start, label, seconds):
    """Their starts, lengths and labels, whatever the rate, the strides and the offset."""
    preprocess = Preprocess(window_s=window, stride_s=stride, normalise="none")
    config = config_of(preprocess)
    hr = RNG(1).uniform(60, 90, int(seconds / label[1]) + 3).astype(np.float32)
    ppg = pulse(seconds, fs)
    times = {"hr_window_s": label[0], "hr_stride_s": label[1], "hr_start_s": start}
    one = recording(ppg=ppg, fs=float(fs), hr=hr, **times)
    wanted, _ = make_windows([one], preprocess)
    windows, bpm, starts = example.labelled_windows(export.as_dict(one), config)
    assert len(wanted) == len(bpm) == len(starts)
    if not len(starts):
        return
    np.testing.assert_array_equal(bpm, wanted.bpm)
    np.testing.assert_allclose(windows, wanted.x, atol=2e-5 * np.abs(wanted.x).max())
    # a stream says the same starts, and its windows are the signal there, forward only
    _, allowed = example.starts_of(export.as_dict(one), config)
    model = Cuts(config)
    live = stream.Stream(model, fs, causal=True, first_s=float(allowed[0]))
    said = [s for i in range(0, ppg.shape[1], 97) for s, _ in live.push(ppg[:, i : i + 97])]
    first = grid.first_sample(allowed, fs, 25)
    end = live.ppg.out_at + live.ppg.out.shape[1]
    inside = allowed[(first >= 0) & (first + config["samples"] <= end)]
    assert said[: len(inside)] == inside.tolist()
    assert end >= grid.resampled(ppg.shape[1], fs, 25) - 13  # 10 periods of the resampler look ahead
    once = stream.Stream(Cuts(config), fs, causal=True, first_s=1e6)  # cuts none: the whole signal stays
    assert not list(once.push(ppg))
    for start_s, cut in zip(said, model.windows, strict=True):
        at = grid.first_sample(start_s, fs, 25)
        np.testing.assert_allclose(cut, once.ppg.out[:, at : at + config["samples"]], atol=1e-3)


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
    wanted = Echo(config)(example.cut(forward[None], grid.first_sample(starts, 25, 25), config))
    np.testing.assert_allclose(list(said.values()), wanted, atol=1e-3)


def test_a_stream_filters_each_window_as_a_recording_that_ends_there():
    raw, config = pulse(30, 25), config_of()
    said = live(config, raw, 25, 10)
    for start, value in said.items():
        until = raw[:, : round((start + 8) * 25)]
        window = example.cut(example.prepared(until, 25, config), [round(start * 25)], config)
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


@pytest.mark.parametrize(("fs", "preprocess"), [(24.99, {}), (49.97, {}), (64.0, {"stride_s": 0.5})])
def test_what_is_shipped_has_the_error_of_the_sweep_at_any_rate_and_stride(fs, preprocess, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra [edge]")
    import torch

    from kd.models.architectures import build
    from kd.training.metrics import class_centres, decode_expectation

    options = {"subjects": 3, "minutes": 4.0 if preprocess else 60.0, "fs": fs}
    split = Split(fractions=(0.34, 0.33, 0.33))
    config = DataConfig(options=options, preprocess=Preprocess(**preprocess), split=split)
    data = prepare(config, tmp_path / "cache")
    torch.manual_seed(0)
    model = build("mlp", 2, 16, channels=1, samples=200).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that another window is another heart rate
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "preprocess.json").write_text(json.dumps(export.preprocess_json(config, 1)))
    export.write_models(model, folder, data, data.train.x[:64], data.test.x[:64])
    with torch.no_grad():
        logits, _ = model(torch.tensor(np.array(data.test.x)))
    predicted = decode_expectation(logits, class_centres(30, 180)).numpy()
    error = np.abs(predicted - data.test.bpm).mean()
    test = export.evaluate(folder, load_recordings(config), data)
    export.same_as_sweep(test, float(error), len(data.test))


MOVING = Preprocess(acc="xyz", acc_band_hz=(0.3, 7.0))


def moving(preprocess: Preprocess = MOVING) -> tuple[Recording, dict]:
    """A recording with an accelerometer of another rate and a gap in it, and what is shipped beside it."""
    t = np.arange(90 * 50) / 50
    acc = np.array([[0.1], [0.2], [9.8]]) + [np.sin(2 * np.pi * f * t) for f in (0.9, 1.7, 5.0)]
    acc[1, 2000:2020] = np.nan
    one = recording(sensors={ACC: Signal(acc.astype(np.float32), 50.0)})
    return one, export.preprocess_json(DataConfig(preprocess=preprocess), 1 + preprocess.axes, 2.5)


@pytest.mark.parametrize("preprocess", [MOVING, Preprocess(acc="magnitude", acc_dropout=0.2)])
def test_windows_with_an_accelerometer_are_those_of_the_sweep(preprocess, tmp_path):
    one, config = moving(preprocess)
    wanted, dropped = make_windows([one], preprocess)
    assert dropped.by_reason["signal missing (NaN)"] == 4
    export.write_recordings(tmp_path / "r.npz", [one], {})
    (raw,) = example.recordings(str(tmp_path / "r.npz"), config)
    for shipped in (raw, export.as_dict(one)):
        windows, bpm, _ = example.labelled_windows(shipped, config)
        np.testing.assert_array_equal(bpm, wanted.bpm)
        np.testing.assert_allclose(windows[:, :1], wanted.x[:, :1], atol=1e-4)
        np.testing.assert_allclose(windows[:, 1:], wanted.x[:, 1:] / 2.5, atol=1e-4)


def test_a_stream_takes_both_sensors_at_their_rates_in_any_pieces():
    one, config = moving()
    acc = np.nan_to_num(one.sensors[ACC].values, nan=0.2)
    ppg, model = one.ppg[:1], Echo(config)

    def heard(ppg_step: int, acc_step: int, causal: bool) -> dict[float, float]:
        live, said = stream.Stream(model, 64, causal=causal, acc_fs=50.0), {}
        for k in range(max(ppg.shape[1] // ppg_step, acc.shape[1] // acc_step) + 1):
            pieces = (row[:, k * step : (k + 1) * step] for row, step in ((ppg, ppg_step), (acc, acc_step)))
            said |= dict(live.push(*pieces))
        return said

    for causal in (True, False):
        said = heard(64, 50, causal)
        assert len(said) == 41  # the last waits for what the resamplers look ahead
        assert heard(1, 7, causal) == pytest.approx(said, abs=1e-6)
        assert heard(997, 50, causal) == pytest.approx(said, abs=1e-6)
    for start in (10.0, 40.0):  # as a recording that ends there
        until = ppg[:, : round((start + 8.4) * 64)], acc[:, : round((start + 8.4) * 50)]
        starts, rates = example.heart_rate(model, until[0], 64, until[1], 50)
        assert said[start] == pytest.approx(rates[starts.tolist().index(start)], rel=0.1, abs=3)


def test_without_an_accelerometer_there_are_zeros_or_an_error():
    one, config = moving()
    with pytest.raises(ValueError, match="give acc"):
        example.heart_rate(Echo(config), one.ppg, 64)
    with pytest.raises(ValueError, match="give acc_fs"):
        stream.Stream(Echo(config), 64, 2)
    _, config = moving(Preprocess(acc="xyz", acc_dropout=0.2))
    alone = config_of()
    _, rates = example.heart_rate(Echo(config), one.ppg, 64)
    np.testing.assert_allclose(rates, example.heart_rate(Echo(alone), one.ppg, 64)[1], atol=1e-3)
    said = dict(stream.Stream(Echo(config), 64, 2).push(one.ppg))
    assert said == pytest.approx(live(alone, one.ppg, 64, 64), abs=1e-3)


def test_another_error_than_the_sweeps_is_refused():
    export.same_as_sweep({"mae_bpm": 5.0004, "windows": 10}, 5.0, 10)
    for test in ({"mae_bpm": 5.002, "windows": 10}, {"mae_bpm": 5.0, "windows": 9}):
        with pytest.raises(InputError, match="recordings changed"):
            export.same_as_sweep(test, 5.0, 10)


def test_preprocess_is_json_with_everything_in_it():
    config = json.loads(json.dumps(config_of(Preprocess(fs=50.0, order=2), channels=3), allow_nan=False))
    assert config["samples"] == 400
    assert config["input"]["shape"] == ["batch", 3, 400]
    assert len(config["filter"]["sos"]) == 2
    assert config["class_centres_bpm"][0] == config["bpm_range"][0] == 30
    assert config["class_centres_bpm"][-1] == config["bpm_range"][1] == 209
