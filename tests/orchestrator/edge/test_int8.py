"""`kdsweep export --c --precision int8` and `profile --target m4 --precision int8`: what is written, said."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from kd.edge import emulate
from kd.errors import InputError
from orchestrator.commands.export import export
from orchestrator.commands.profile import profile
from orchestrator.edge import int8
from orchestrator.edge.qat import fine_tuned
from orchestrator.space.resolve import open_space
from orchestrator.store.store import Store

pytest.importorskip("onnxscript", reason="needs the extra [edge]")
NEEDED = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in emulate.PACKAGES),
    reason="needs Debian's gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm",
)


def invoke(command, *arguments: str):
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def sweep(tiny_sweep, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "tiny"
    shutil.copytree(tiny_sweep, folder)
    return folder, next(r for r in Store(folder).results() if r["arch"] == "resnet1d")


def test_export_writes_it_and_says_what_it_costs(sweep):
    folder, result = sweep
    out = folder.parent / "shipped"
    said = invoke(export, str(folder), result["id"], "-o", str(out), "--c", "--precision", "int8")
    assert said.exit_code == 0
    assert "int8_t w_stem" in (out / "c" / "kdsweep_student.c").read_text()
    cost = json.loads((out / "preprocess.json").read_text())["test"]["int8_c"]
    assert abs(cost["costs_bpm"]) <= cost["drift_bpm"]["mean"] < 1
    assert f"int8 in C costs {cost['costs_bpm']:+.3f} BPM on the test windows" in said.stdout
    card = (out / "README.md").read_text()
    assert f"Beside float32 it costs {cost['costs_bpm']:+.3f} BPM" in card
    assert "are those of the reference in numpy to the bit" in card


def test_fine_tuned_integers_are_shipped_and_kept(sweep):
    folder, result = sweep
    out = folder.parent / "aware"
    more = ("--c", "--precision", "int8", "--qat", "1", "--device-fs", "100")
    said = invoke(export, str(folder), result["id"], "-o", str(out), *more)
    assert said.exit_code == 0
    assert "quantisation-aware epoch 1 of 1" in said.stderr
    cost = json.loads((out / "preprocess.json").read_text())["test"]["int8_c"]
    kept = folder / "qat" / cost["qat"]["id"]
    record = json.loads((kept / "result.json").read_text())
    assert {p.name for p in kept.iterdir()} == {"result.json", "model.safetensors", "history.jsonl"}
    assert cost["qat"]["best_epoch"] == record["best_epoch"] in (0, 1)
    assert (record["of_point"], record["of_model_sha256"]) == (result["id"], result["model_sha256"])
    assert record["val_mae_bpm"] <= record["val_mae_bpm_post_training"]
    before = cost["post_training"]
    assert before["mae_bpm"] - before["costs_bpm"] == pytest.approx(cost["mae_bpm"] - cost["costs_bpm"])
    card = (out / "README.md").read_text()
    assert f"| int8 after training | {before['mae_bpm']:.3f} |" in card
    assert f"| int8, fine-tuned: in C | {cost['mae_bpm']:.3f} |" in card
    assert "Samples come at 100 Hz and are resampled to 25 Hz" in card
    assert "#define KDS_FS 100.0f" in (out / "c" / "kdsweep_student.h").read_text()
    again, _ = fine_tuned(open_space(str(folder), [], None), result, 1, pytest.fail)  # nothing is trained
    opened = open_space(str(folder), [], None)
    whole = int8.cost(again, int8.quantised(again, result["arch"], opened.windows), opened.windows)
    assert whole["mae_bpm"] == cost["mae_bpm"]
    (kept / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match=f"delete {kept} and export again"):
        fine_tuned(opened, result, 1, pytest.fail)
    for wrong, why in ((("--c", "--qat"), "--qat fine-tunes"), (("--device-fs", "50"), "--device-fs is the")):
        with pytest.raises(InputError, match=why):
            invoke(export, str(folder), result["id"], "-o", str(out), *wrong)


@NEEDED
def test_profile_counts_it_beside_float32_and_the_card_has_both(sweep):
    folder, result = sweep
    shared = (str(folder), "--points", result["id"], "--runs", "5", "--target", "m4")
    assert invoke(profile, *shared).exit_code == 0
    said = invoke(profile, *shared, "--precision", "int8")
    assert said.exit_code == 0
    point = json.loads((folder / "profile.json").read_text())["points"][result["id"]]
    float32, whole = point["targets"]["m4"], point["targets_int8"]["m4"]
    assert (float32["precision"], whole["precision"], whole["off"]) == ("fp32", "int8", 0.0)
    assert whole["arena_bytes"] <= result["activation_bytes"] / 4 + 1024
    assert whole["model_sha256"] == result["model_sha256"]
    assert set(whole["test"]) == {"mae_bpm", "costs_bpm", "drift_bpm"}
    assert all(f"{r['instructions']:,}" in said.stdout for r in (float32, whole))
    assert "already counted on m4" in invoke(profile, *shared, "--precision", "int8").stderr
    out = folder.parent / "counted"
    assert invoke(export, str(folder), result["id"], "-o", str(out)).exit_code == 0
    both = f"{float32['instructions']:,} | {whole['instructions']:,} |"
    assert f"| instructions on Cortex-M4F, in C, emulated | {both}" in (out / "README.md").read_text()


def test_what_it_costs_is_measured_on_the_test_windows(sweep, monkeypatch):
    folder, result = sweep
    opened = open_space(str(folder), [], None)
    data = opened.of_fold(result.get("fold")).windows

    class Deaf:
        """A student whose class is always the same."""

        def logits(self, windows):
            return np.eye(data.classes, dtype=np.float32)[[40] * len(windows)] * 1000

    from kd.training.train import load_model

    channels, samples = data.test.x.shape[1:]
    shape = {"channels": channels, "samples": samples, "classes": data.classes}
    where = Store(folder).folder(result["id"])
    model = load_model(where, arch=result["arch"], depth=result["depth"], width=result["width"], **shape)
    cost = int8.cost(model, Deaf(), data)
    assert cost["mae_bpm"] == pytest.approx(np.abs(data.test.bpm - data.min_bpm - 40).mean(), abs=1e-3)
    assert cost["mae_bpm"] - cost["costs_bpm"] == pytest.approx(result["mae_bpm"], abs=1e-3)
    dear = {"costs_bpm": 0.2, "drift_bpm": {"mean": 0.3}}
    assert "+0.200 BPM on the test windows, more than 0.1 BPM: try --qat, or prefer float32" in int8.said(
        dear
    )
