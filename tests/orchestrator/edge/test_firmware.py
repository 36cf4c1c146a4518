"""`kdsweep profile --target`: counted once, shown, and on the model card."""

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from kd.edge import emulate
from kd.edge.c.source import CMSIS_NN
from kd.errors import InputError
from orchestrator.commands.export import export
from orchestrator.commands.profile import profile
from orchestrator.edge import firmware
from orchestrator.edge.latency import read_profile
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
def profiled(tiny_sweep, tmp_path_factory):
    """A sweep, a ResNet of it that was counted on two targets, and what was said."""
    folder = tmp_path_factory.mktemp("sweeps") / "tiny"
    shutil.copytree(tiny_sweep, folder)
    result = next(r for r in Store(folder).results() if r["arch"] == "resnet1d")
    targets = ("--target", "m4", "--target", "m55")
    said = invoke(profile, str(folder), "--points", result["id"], "--runs", "5", *targets)
    assert said.exit_code == 0
    return folder, result, said


@NEEDED
def test_instructions_are_recorded_and_shown_with_what_they_are(profiled):
    folder, result, said = profiled
    records = json.loads((folder / "profile.json").read_text())["points"][result["id"]]["targets"]
    assert set(records) == {"m4", "m55"}
    for target, record in records.items():
        assert record["target"] == target
        assert record["model_sha256"] == result["model_sha256"]
        assert record["arena_bytes"] <= result["activation_bytes"]
        assert record["instructions"] > result["macs"]
        assert sum(layer["instructions"] for layer in record["layers"]) < record["instructions"]
        assert len(record["c_sha256"]) == 64
        assert f"{record['instructions']:,}" in said.stdout
        assert f"{record['flash_bytes_c']:,}" in said.stdout
    assert "QEMU counts instructions, not cycles or wait states" in said.stdout
    assert "Cortex-M4F" in said.stdout


@NEEDED
def test_what_was_counted_is_kept_and_one_too_large_is_left_out(profiled, monkeypatch):
    folder, result, _ = profiled
    opened, said = open_space(str(folder), [], None), []
    before = (folder / "profile.json").read_bytes()
    firmware.profile_targets(opened, [result["id"]], ["m4", "m55", "m4"], say=said.append)
    assert [line.split(" ", 4)[-1] for line in said] == ["already counted on m4", "already counted on m55"]

    called = []
    monkeypatch.setattr(emulate, "c_sha256", lambda *_: "of other C")
    monkeypatch.setattr(emulate, "measure", lambda *given: called.append(given) or {**kept, "target": "m4"})
    kept = json.loads(before)["points"][result["id"]]["targets"]["m4"]
    firmware.profile_targets(opened, [result["id"]], ["m4"], say=said.append)
    assert len(called) == 1
    monkeypatch.undo()
    (folder / "profile.json").write_bytes(before)

    def no_room(*_):
        raise emulate.TooLarge("no room")

    monkeypatch.setattr(emulate, "measure", no_room)
    document = firmware.profile_targets(opened, [result["id"]], ["m7"], say=said.append)
    assert "not counted on m7: no room" in said[-1]
    assert set(document["points"][result["id"]]["targets"]) == {"m4", "m55"}
    assert (folder / "profile.json").read_bytes() == before


@NEEDED
def test_the_model_card_has_them(profiled):
    folder, result, _ = profiled
    out = folder.parent / "shipped"
    assert invoke(export, str(folder), result["id"], "-o", str(out)).exit_code == 0
    card = (out / "README.md").read_text()
    count = read_profile(folder)["points"][result["id"]]["targets"]["m4"]["instructions"]
    assert f"| instructions on Cortex-M4F, in C, emulated | {count:,} | – |" in card
    assert "not cycles or wait states" in card


def test_missing_packages_are_named_before_anything_is_timed(tiny_sweep, tmp_path, monkeypatch):
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_sweep, folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="gcc-arm-none-eabi"):
        invoke(profile, str(folder), "--target", "m4")
    assert not (folder / "profile.json").exists()


def test_cmsis_nn_is_asked_for_where_it_is_of_use(tiny_sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(emulate, "require_tools", lambda: None)
    with pytest.raises(InputError, match=r"there is no Source/\S+ in it: give a checkout of CMSIS-NN"):
        invoke(profile, str(tiny_sweep), "--target", "m4", "--cmsis-nn", str(tmp_path))
    kernels = tmp_path / CMSIS_NN
    kernels.parent.mkdir(parents=True)
    kernels.touch()
    with pytest.raises(InputError, match="add --precision int8"):
        invoke(profile, str(tiny_sweep), "--target", "m4", "--cmsis-nn", str(tmp_path))


@NEEDED
@pytest.mark.skipif("KDSWEEP_CMSIS_NN" not in os.environ, reason="needs KDSWEEP_CMSIS_NN=<CMSIS-NN>")
def test_counts_with_cmsis_nn_lie_beside_the_others(profiled):
    folder, result, _ = profiled
    opened, said = open_space(str(folder), [], None), []
    given = {"precision": "int8", "cmsis_nn": Path(os.environ["KDSWEEP_CMSIS_NN"]), "say": said.append}
    document = firmware.profile_targets(opened, [result["id"]], ["m4"], **given)
    record = document["points"][result["id"]]["targets_int8_cmsis_nn"]["m4"]
    assert (record["kernels"], record["off"]) == ("CMSIS-NN", 0.0)
    firmware.profile_targets(opened, [result["id"]], ["m4"], **given)
    assert said[-1].endswith("already counted on m4")


def test_the_command_offers_what_the_emulator_has():
    (choice,) = (p.type.choices for p in profile.params if p.name == "targets")
    assert list(choice) == list(emulate.TARGETS)
