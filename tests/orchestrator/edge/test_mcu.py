"""The .tflite of a student: made, loaded and run. Where the environment of `kdsweep profile --mcu` exists."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kd.edge import onnxfile
from kd.errors import InputError
from orchestrator.commands.export import export
from orchestrator.edge.mcu import READY, default_environment
from orchestrator.space.resolve import open_space
from orchestrator.store.store import Store

pytest.importorskip("onnxscript", reason="needs the extra [edge]")
ENVIRONMENT = default_environment()
RUN = """
import sys, numpy as np
from kd.edge.mcu import run_tflite
np.save(sys.argv[3], run_tflite(sys.argv[1], np.load(sys.argv[2])))
"""


def invoke(*arguments: str):
    return CliRunner().invoke(export, arguments, catch_exceptions=False)


@pytest.mark.skipif(not (ENVIRONMENT / READY).exists(), reason="needs the environment of profile --mcu")
def test_the_tflite_is_shipped_and_answers_as_its_onnx_sibling(tiny_sweep, tmp_path):
    sweep = Path(shutil.copytree(tiny_sweep, tmp_path / "tiny"))
    result = next(r for r in Store(sweep).results() if (r["arch"], r["role"]) == ("resnet1d", "student"))
    out = tmp_path / "shipped"
    said = invoke(str(sweep), result["id"], "-o", str(out), "--tflite")
    assert said.exit_code == 0
    file = out / "model.int8.tflite"
    assert str(tmp_path).encode() not in file.read_bytes()
    windows = np.asarray(open_space(str(sweep), [], None).windows.test.x[:50])
    np.save(tmp_path / "windows.npy", windows)
    command = [
        ENVIRONMENT / "bin" / "python",
        "-c",
        RUN,
        file,
        tmp_path / "windows.npy",
        tmp_path / "logits.npy",
    ]
    subprocess.run(command, check=True, capture_output=True)
    got = np.load(tmp_path / "logits.npy")
    wanted = onnxfile.run_onnx(out / "model.onnx", windows).numpy()
    assert got.shape == wanted.shape
    assert 0 < np.abs(got - wanted).max() < 0.15 * np.abs(wanted).max()
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| `model.int8.tflite` |" in card
    assert "| input | int8 (1, 1, 200) | " in card
    assert "| .tflite, bytes | " in card
    assert f" {file.stat().st_size:,} |" in card


def test_without_the_extra_it_says_so_before_anything_is_written(tiny_sweep, tmp_path):
    mine = tmp_path / "mine"
    (mine / "bin").mkdir(parents=True)
    (mine / "bin" / "python").symlink_to(sys.executable)
    result = next(iter(Store(tiny_sweep).results()))
    to = ("-o", str(tmp_path / "out"), "--tflite", "--mcu-env", str(mine))
    with pytest.raises(InputError, match=r"mine lacks .*litert_torch, .*: install litert-torch"):
        invoke(str(tiny_sweep), result["id"], *to)
    assert not (tmp_path / "out").exists()
