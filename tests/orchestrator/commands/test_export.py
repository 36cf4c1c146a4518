"""`kdsweep export`: a folder that works on its own, the sweep's error, and MLflow's registry."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kd import shipped
from kd.errors import InputError
from orchestrator.commands.export import export
from orchestrator.edge.export import chosen_by, point_of
from orchestrator.store.store import Store

pytest.importorskip("onnxscript", reason="needs the extra [edge]")
FILES = {
    *("model.onnx", "model.int8.onnx", "model.safetensors", "preprocess.json", "README.md"),
    *("example.py", "stream.py", "tracker.py", "grid.py", "kdsweep_model.h", "test_recordings.npz"),
}
# what example.py may import: anything else of the project's would not be there on the device
ONLY = "import sys; sys.modules.update(dict.fromkeys(('torch', 'scipy', 'kd', 'orchestrator', 'mlflow')));"


def invoke(*arguments: str):
    return CliRunner().invoke(export, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def exported(tiny_sweep, tmp_path_factory):
    """The sweep, the id of a ResNet, and its exported folder, registered in MLflow."""
    sweep = tmp_path_factory.mktemp("sweeps") / "tiny"
    shutil.copytree(tiny_sweep, sweep)
    result = next(r for r in Store(sweep).results() if r["arch"] == "resnet1d")
    out = sweep.parent / "shipped"
    elsewhere = sweep.parent / "elsewhere"
    elsewhere.mkdir()
    register = ("--register", "--name", "watch", "--json")
    with contextlib.chdir(elsewhere):
        said = invoke(str(sweep), result["id"][:8], "-o", str(out), "--c", *register)
    assert not list(elsewhere.iterdir())  # MLflow's artifacts stay with the sweep
    assert said.exit_code == 0
    return sweep, result, out, json.loads(said.stdout)


def run_example(out, *arguments: str):
    code = ONLY + f"sys.argv[0] = 'example.py'; sys.path.insert(0, {str(out)!r}); import example;"
    command = [sys.executable, "-c", code + "sys.exit(example.main())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=out.parent)


def test_the_folder_is_complete_and_says_nothing_of_this_machine(exported):
    _, result, out, said = exported
    assert {p.name for p in out.iterdir()} == FILES | {"c"}
    assert {p.name for p in (out / "c").iterdir()} >= {
        "kdsweep_tracker.h",
        "tracker_test.c",
        "tracker_vectors.h",
    }
    assert said["mae_bpm_tracked"] == pytest.approx(result["mae_bpm_tracked"], abs=1e-3)
    assert "With a memory, and how sure it is" in (out / "README.md").read_text(encoding="utf-8")
    for path in (p for p in out.rglob("*") if p.is_file()):
        assert str(out.parent).encode() not in path.read_bytes(), path.name
    assert said["mae_bpm"] == pytest.approx(result["mae_bpm"], abs=1e-3)


def test_example_reproduces_the_sweeps_error_without_torch_scipy_and_kd(exported):
    _, result, out, _ = exported
    for options in ([], ["--int8"]):
        done = run_example(out, str(out / "test_recordings.npz"), *options)
        assert done.returncode == 0, done.stderr
        assert "the same" in done.stdout
    mae = float(re.search(r"all: MAE ([\d.]+)", run_example(out, str(out / "test_recordings.npz")).stdout)[1])
    assert mae == pytest.approx(result["mae_bpm"], abs=1e-3)


def test_a_live_signal_is_cut_by_the_clock_from_the_folder_alone(exported):
    _, _, out, _ = exported
    code = ONLY + (
        f"sys.path.insert(0, {str(out)!r}); import numpy as np, stream, grid;"
        "from example import Model, heart_rate; model = Model(); model.config['stride_s'] = 0.5;"
        "raw = np.random.default_rng(0).standard_normal((1, 3000));"
        "live = [start for start, _ in stream.Stream(model, 49.97).push(raw)];"
        "print(len(live), live[-1], live == heart_rate(model, raw, 49.97)[0][:len(live)].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    # 60.04 s hold windows until 52.0 s; the resampler still waits for the end of the last one
    assert done.stdout.split() == ["104", "51.5", "True"]
    for name in ("grid.py", "example.py", "stream.py"):
        assert (out / name).read_bytes() == (Path(shipped.__file__).parent / name).read_bytes()


def test_example_notices_another_error(exported, tmp_path):
    _, _, out, _ = exported
    other = tmp_path / "other"
    shutil.copytree(out, other)
    config = json.loads((other / "preprocess.json").read_text())
    config["test"]["mae_bpm"] += 0.01
    (other / "preprocess.json").write_text(json.dumps(config))
    done = run_example(other, str(other / "test_recordings.npz"))
    assert done.returncode == 1
    assert "NOT the same" in done.stdout


def test_the_card_says_what_matters(exported):
    _, result, out, said = exported
    card = (out / "README.md").read_text()
    for text in (
        "Not a medical device",
        "synthetic",
        result["id"],
        f"{result['params']:,} parameters",
        f"{said['mae_bpm_streaming']:.3f}",
        f"{said['costs_bpm_causal']:+.3f} BPM",
        *(f"| {subject} | {mae:.2f} |" for subject, mae in result["mae_by_subject"].items()),
        "Latency is not measured",
    ):
        assert text in card, text


def test_the_c_passes_its_test_from_its_folder_alone(exported, tmp_path):
    _, result, out, _ = exported
    alone = shutil.copytree(out / "c", tmp_path / "c")
    done = subprocess.run(["make", "test"], cwd=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: 4 of 4 windows" in done.stdout
    assert result["id"] in (alone / "kdsweep_student.h").read_text()
    card = (out / "README.md").read_text()
    assert "Built and run at export: `make test` passed" in card
    assert f"| arena (`KDS_ARENA_BYTES`) | {result['activation_bytes']:,} |" in card


def test_the_registered_model_answers_as_the_file(exported):
    mlflow = pytest.importorskip("mlflow")
    sweep, result, out, said = exported
    from kd.edge.onnxfile import run_onnx

    mlflow.set_tracking_uri(f"sqlite:///{sweep / 'mlflow.db'}")
    version = mlflow.MlflowClient().get_model_version("watch", said["version"])
    model = mlflow.pyfunc.load_model(f"models:/watch/{version.version}")
    assert model.metadata.metadata["point"] == result["id"]
    run = mlflow.get_run(version.run_id)
    assert run.data.tags["kdsweep.point"] == result["id"]
    assert run.info.status == "FINISHED"
    assert [i.name for i in model.metadata.signature.inputs] == ["window"]
    windows = np.random.default_rng(0).standard_normal((5, 1, 200)).astype(np.float32)
    got = model.predict({"window": windows})["logits"]
    np.testing.assert_allclose(got, run_onnx(out / "model.onnx", windows).numpy(), atol=1e-5)


def test_exporting_again_replaces_an_export_and_nothing_else(exported, tmp_path):
    sweep, result, _, _ = exported
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty and not an earlier export"):
        invoke(str(sweep), result["id"], "-o", str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_a_changed_model_is_not_shipped(exported, tmp_path):
    sweep, result, _, _ = exported
    changed = tmp_path / "tiny"
    shutil.copytree(sweep, changed)
    store = Store(changed)
    store.write_result(result["id"], result | {"mae_bpm": result["mae_bpm"] + 1})
    with pytest.raises(InputError, match="recordings changed since the sweep"):
        invoke(str(changed), result["id"], "-o", str(tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("tiny", ".cache")] == []


def test_what_to_export_must_be_said(exported, tmp_path):
    sweep, result, _, _ = exported
    assert result["id"] in invoke(str(sweep), result["id"], "-o", str(tmp_path), "--dry-run").stdout
    with pytest.raises(InputError, match="name a POINT"):
        invoke(str(sweep), "-o", str(tmp_path))
    with pytest.raises(InputError, match="no point 'zzz'"):
        point_of(Store(sweep), "zzz")
    with pytest.raises(InputError, match="6 points start with"):
        point_of(Store(sweep), "")


def test_a_budgets_answer_is_exported_only_if_it_is_trained(exported):
    sweep, result, _, _ = exported
    store = Store(sweep)
    best = {"trained": True, "point": result["id"]}
    assert chosen_by({"verdict": "ok", "best": best}, store)["id"] == result["id"]
    untrained = {"trained": False, "arch": "mlp", "depth": 2, "width": 9, "strategy": "soft"}
    with pytest.raises(InputError, match="not trained yet: mlp depth 2 width 9"):
        chosen_by({"verdict": "ok", "best": untrained}, store)
    with pytest.raises(InputError, match="no student to export: too few sizes"):
        chosen_by({"verdict": "refuse", "why": "too few sizes"}, store)
