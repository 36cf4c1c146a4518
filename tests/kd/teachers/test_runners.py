"""Files of brought teachers: what is computed with them, and the message of each wrong use."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from kd.errors import InputError
from kd.shipped import grid
from kd.signals.augment import Augment
from kd.signals.prepare import DataConfig, load_recordings, prepare
from kd.signals.splits import Split
from kd.signals.whole import rows_of, wholes
from kd.teachers.cache import Pass
from kd.teachers.facts import facts
from kd.teachers.runners import check_width_is, open_runner, run
from kd.teachers.source import Source, contents, port_says, source_of
from kd.teachers.windows import each_played, lead_s, windows

ONNX = {"fs": 25.0, "window_s": 8.0, "band_hz": (0.5, 4.0)}
PORT = """\
import torch

class Port:
    fs = 25
    window_s = 8.0

    def load(self, weights):
        self.weights = weights
        return self

    def outputs(self, x):
        {body}
"""


def onnx_file(path: Path, shape=("batch", 1, 200), outputs: int = 180) -> Path:
    """Flatten and one matrix product, with the input's mean as a second output."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    samples = shape[1] * shape[2]
    weights = np.random.default_rng(0).normal(size=(samples, outputs)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
            helper.make_node("MatMul", ["flat", "v"], ["features"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ("batch", 3)),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", outputs)),
        ],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(weights[:, :3].copy(), "v")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model)
    save(model, path)
    return path


def source_at(path: Path, kind: str = "onnx", **more) -> Source:
    source = Source("mine", kind, str(path), **{**ONNX, **more})
    return dataclasses.replace(source, content=contents(source))


def port_at(folder: Path, body: str, **more) -> Source:
    path = folder / "port.py"
    path.write_text(PORT.format(body=body))
    return source_at(path, "port", symbol="Port", **more)


X = np.random.default_rng(0).normal(size=(70, 1, 200)).astype(np.float32)


@pytest.mark.parametrize("batch", ["batch", 16])
def test_an_onnx_file_gives_its_outputs_and_features_whatever_its_batch(tmp_path: Path, batch):
    source = source_at(onnx_file(tmp_path / "m.onnx", (batch, 1, 200)), features="features")
    out, features = run(open_runner(source), source, X)
    weights = np.random.default_rng(0).normal(size=(200, 180)).astype(np.float32)
    np.testing.assert_allclose(out, X[:, 0] @ weights, atol=1e-3)
    np.testing.assert_allclose(features, X[:, 0] @ weights[:, :3], atol=1e-3)


def test_wrong_rate_and_wrong_window_are_told_by_the_files_own_length(tmp_path: Path):
    path = onnx_file(tmp_path / "m.onnx")
    for wrong in ({"fs": 125.0, "band_hz": (0.5, 12.0)}, {"window_s": 10.0}):
        with pytest.raises(InputError, match=r"m.onnx takes 200 samples, but input says .* correct input.fs"):
            open_runner(source_at(path, **wrong))


def test_wrong_channels_and_an_output_that_is_not_there(tmp_path: Path):
    with pytest.raises(InputError, match=r"takes 3 channels, and input.channels: mean gives 1: use all"):
        open_runner(source_at(onnx_file(tmp_path / "m.onnx", ("batch", 3, 200))))
    with pytest.raises(InputError, match=r"has no output 'z': it has features, logits"):
        open_runner(source_at(onnx_file(tmp_path / "n.onnx"), features="z"))


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("a pickle ran",))


def test_a_pickle_is_opened_nowhere(tmp_path: Path):
    bad = tmp_path / "weights.pt"
    bad.write_bytes(pickle.dumps(Harmful()))
    (tmp_path / "m.onnx").write_bytes(bad.read_bytes())
    with pytest.raises(InputError, match=r"m.onnx: not a readable ONNX model"):
        open_runner(source_at(tmp_path / "m.onnx"))
    source = port_at(tmp_path, "return x[:, 0]", weights=str(bad))
    with pytest.raises(InputError, match=r"weights.pt: .*\(a pickle of something else\): a pickle can run"):
        open_runner(source)


def test_weights_of_a_port_are_safetensors_or_tensors_alone(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        source = port_at(tmp_path, "return x[:, 0] * self.weights['w'][0]", weights=str(tmp_path / name))
        out, _ = run(open_runner(source), source, X)
        assert (out == X[:, 0]).all()


def test_a_port_computes_in_the_precision_that_is_asked_for(tmp_path: Path):
    body = "return torch.nn.functional.linear(x[:, 0], torch.ones(3, 200) / 7)"
    source = port_at(tmp_path, body)
    low = dataclasses.replace(source, precision="bfloat16")
    (exact, _), (rough, _) = (run(open_runner(one), one, X) for one in (source, low))
    assert exact.dtype == rough.dtype == np.float32
    assert (rough == torch.from_numpy(rough).bfloat16().float().numpy()).all()
    assert 0 < np.abs(rough - exact).max() < 0.02 * np.abs(exact).max()


def test_a_port_that_raises_is_told_with_its_own_line(tmp_path: Path):
    source = port_at(tmp_path, "raise ValueError('no such head')")
    with pytest.raises(InputError, match=r"port.py: outputs raised ValueError in line 12: no such head"):
        run(open_runner(source), source, X)
    source = port_at(tmp_path, "raise SystemExit(0)")  # would be the end of a worker
    with pytest.raises(InputError, match=r"port.py: outputs raised SystemExit in line 12: 0"):
        run(open_runner(source), source, X)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return x[:, 0, :3] / 0.0 * 0.0", r"outputs of 64 of 64 windows are not finite"),
        ("return x[:, 0, :len(x)]", r"its outputs change their width, 6 and 64"),
        ("return x", r"64 windows give outputs of shape \(64, 1, 200\)"),
        ("return 3", r"outputs gives a int: it must give a tensor"),
    ],
)
def test_outputs_that_cannot_be_used(tmp_path: Path, body: str, said: str):
    source = port_at(tmp_path, body)
    with pytest.raises(InputError, match=said):
        run(open_runner(source), source, X)


def test_a_width_that_changes_between_recordings():
    with pytest.raises(InputError, match="teacher mine: its outputs change their width, 6 and 7"):
        check_width_is(Source("mine", "port"), 7, 6)


def test_a_port_says_its_rate_and_window_without_being_run(tmp_path: Path):
    path = tmp_path / "p.py"
    path.write_text(
        "raise SystemExit\nclass A:\n    fs: float = 50\n    window_s = 10.0\nclass B:\n    fs = f()\n"
    )
    assert port_says(path, "A") == (50.0, 10.0)
    with pytest.raises(InputError, match="class B has no fs: write it in its body as a number"):
        port_says(path, "B")
    with pytest.raises(InputError, match="no class C: it has A, B"):
        port_says(path, "C")


def test_the_identity_is_content_and_declaration_not_place_and_name(tmp_path: Path):
    one = source_at(onnx_file(tmp_path / "m.onnx"))
    (tmp_path / "n.onnx").write_bytes((tmp_path / "m.onnx").read_bytes())
    two = dataclasses.replace(source_at(tmp_path / "n.onnx"), name="other")
    assert one.identity() == two.identity()
    assert one.identity() != source_at(tmp_path / "m.onnx", normalise="none").identity()
    low = dataclasses.replace(one, precision="bfloat16")
    assert "precision" not in one.identity(), "points of before there was a choice keep their ids"
    assert low.raw_key("pool") != one.raw_key("pool")
    said = low.as_json()
    assert source_of(said) == low
    assert source_of({key: value for key, value in said.items() if key != "precision"}) == one
    assert one.identity() != source_at(onnx_file(tmp_path / "o.onnx", outputs=90)).identity()


CONFIG = DataConfig(options={"subjects": 6, "minutes": 1.5, "fs": 40.0}, augment=Augment(copies=2))


def test_windows_on_the_students_terms_are_the_students_to_the_bit(tmp_path: Path):
    data = prepare(CONFIG, tmp_path)
    known = wholes(CONFIG, tmp_path)
    source = Source("mine", "onnx", **ONNX)
    parts = {}
    for played in each_played(known[0]):
        parts[played.first] = windows(source, played.recording, played.starts_s, CONFIG.preprocess)
    x = np.concatenate([parts[first] for first in sorted(parts)])
    sides, besides = rows_of(known, CONFIG, tmp_path)
    for side, rows in sides.items():
        assert (x[rows] == getattr(data, side).x).all(), side
    assert len(besides) == 0


def test_a_longer_window_ends_with_the_students_and_starts_inside_the_recording(tmp_path: Path):
    source = Source("mine", "port", fs=20.0, window_s=10.0, normalise="none")
    lead = lead_s(source, CONFIG.preprocess)
    assert lead == 2.0
    config = dataclasses.replace(CONFIG, lead_s=lead)
    (recording, *_) = load_recordings(config)
    played = next(each_played(wholes(config, tmp_path)[0]))
    assert played.starts_s[0] >= 2.0
    x = windows(source, recording, played.starts_s, config.preprocess)
    assert x.shape[1:] == (1, 200)
    from scipy.signal import resample_poly

    whole = resample_poly(recording.ppg.astype(np.float64), 1, 2, axis=-1, padtype="line")
    for k, start in enumerate(played.starts_s):
        end = grid.first_sample(start + 8.0, recording.fs, 20.0)
        np.testing.assert_allclose(x[k, 0], whole[0, end - 200 : end], atol=1e-5)
    assert len(prepare(config, tmp_path).dropped.by_reason) == 1
    with pytest.raises(
        InputError, match=r"no window is left: \d+ begin less than 92 s \(data.lead_s, or what a"
    ):
        prepare(dataclasses.replace(config, lead_s=92.0), tmp_path)


def test_a_pass_that_was_killed_goes_on_and_two_processes_share_one(tmp_path: Path):
    (whole,) = wholes(CONFIG, tmp_path)
    source = source_at(onnx_file(tmp_path / "m.onnx"), features="features")

    def passing(folder: str, first: float = 0.0) -> Pass:
        return Pass(source, whole, tmp_path / folder, "cpu", first)

    alone = passing("alone")
    list(alone.steps())
    one, two = passing("shared"), passing("shared", 0.6)
    steps = one.steps()
    next(steps)
    next(steps)
    first = next((tmp_path / "shared").glob("out-*.npy"))
    written = first.stat().st_mtime_ns
    again = two.steps()
    for _ in range(4):
        next(again)
    assert first.stat().st_mtime_ns == written
    list(steps)
    list(again)
    assert (one.raw().out[0] == alone.raw().out[0]).all()
    assert (two.raw().features[0] == alone.raw().features[0]).all()
    assert {p.name for p in (tmp_path / "shared").iterdir()} == {"out.npy", "features.npy"}


def test_facts_are_measured_once_and_sizes_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = source_at(onnx_file(tmp_path / "m.onnx"))
    found = facts(source, CONFIG, tmp_path)
    assert (found.params, found.macs, found.width) == (200 * 183, 200 * 183, 180)
    assert found.pass_s > 0
    monkeypatch.setattr("kd.teachers.facts.open_runner", None)
    assert facts(source, CONFIG, tmp_path) == found
    assert facts(Source("both", "mean", of=(source, source)), CONFIG, tmp_path).params == 2 * found.params
    wide = source_at(onnx_file(tmp_path / "w.onnx", outputs=200))
    monkeypatch.undo()
    with pytest.raises(InputError, match="teacher mine gives 200 outputs"):
        facts(wide, CONFIG, tmp_path)


def test_copies_of_mixed_channels_are_refused_where_a_teacher_takes_all(tmp_path: Path):
    (recording, *_) = load_recordings(CONFIG)
    copy = dataclasses.replace(recording, name="a#1", ppg=recording.ppg[:1])
    with pytest.raises(InputError, match=r"set data.augment.mix_channels to false"):
        windows(Source("mine", "onnx", **ONNX, channels="all"), copy, np.array([2.0]), CONFIG.preprocess)


def test_a_head_sees_training_subjects_only(tmp_path: Path):
    from kd.teachers.bring import Bringing

    config = dataclasses.replace(CONFIG, split=Split(scheme="kfold", folds=3))
    data = prepare(config, tmp_path)
    source = port_at(tmp_path, "return x[:, 0, :20]", output="embedding")

    def model(changed: str) -> bytes:
        sides = {}
        if changed:
            side = getattr(data, changed)
            sides = {changed: dataclasses.replace(side, bpm=np.flip(side.bpm).copy())}
        folder = tmp_path / f"of_{changed}"
        told = dataclasses.replace(data, **sides)
        run = Bringing("a", source, told, config, tmp_path, folder, "cpu")
        while run.step() != [None]:
            pass
        run.finish()
        return (folder / "model.safetensors").read_bytes()

    as_it_is = model("")
    assert model("test") == as_it_is
    assert model("train") != as_it_is
