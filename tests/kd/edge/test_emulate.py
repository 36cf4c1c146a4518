"""Instructions, stack and flash of a student in C on emulated microcontrollers."""

import functools
import shutil

import numpy as np
import pytest
import torch

from kd.edge import emulate
from kd.edge.c.source import write_c
from kd.edge.export import preprocess_json
from kd.errors import InputError
from kd.models.architectures import build
from kd.models.sizes import size
from kd.signals.prepare import DataConfig

NEEDED = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in emulate.PACKAGES),
    reason="needs Debian's gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm",
)
CONFIG = preprocess_json(DataConfig(), 1)


def model(arch: str, depth: int, width: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(arch, depth, width, channels=1, samples=200).eval()


@functools.cache
def measured(target: str, arch: str = "mlp", depth: int = 1, width: int = 2) -> dict:
    return emulate.measure(model(arch, depth, width), arch, CONFIG, 1, target)


@NEEDED
@pytest.mark.parametrize("target", emulate.TARGETS)
def test_each_target_answers_as_torch_and_is_counted(target):
    record = measured(target)
    macs = size("mlp", 1, 2).macs
    assert record["target"] == target
    assert record["off"] <= 1e-6
    assert macs < record["instructions_network"] < record["instructions"]
    assert 50 < record["instructions_per_sample"] < 20_000
    assert record["arena_bytes"] == size("mlp", 1, 2).activation_bytes
    assert record["arena_bytes"] + 4 * 200 < record["static_bytes"] < record["arena_bytes"] + 4 * 200 + 400
    assert 32 < record["stack_bytes"] < 512
    assert 4 * size("mlp", 1, 2).params < record["flash_bytes_c"] < 30_000
    assert "not cycles" in record["about"]
    assert "12" in record["compiler"] or "gcc" in record["compiler"]


@NEEDED
def test_layers_are_counted_one_by_one_and_are_the_whole():
    record = measured("m4", "resnet1d", 1, 2)
    layers = record["layers"]
    assert [layer["layer"].split(",")[0] for layer in layers] == [
        "convolution 1 to 2",
        "norm and ReLU",
        "convolution 2 to 2",
        "convolution 2 to 2",
        "norm and ReLU",
        "mean over time",
        "linear 2 to 180",
    ]
    apart = sum(layer["instructions"] for layer in layers)
    copied = record["instructions_network"] - apart  # the window into the arena, and the calls
    assert 0 < copied < 3 * 200
    assert layers[2]["instructions"] > layers[0]["instructions"] > layers[1]["instructions"] > 0
    assert apart + record["instructions_decode"] < record["instructions"]


def test_the_hash_of_the_c_changes_with_it(monkeypatch):
    student = (model("mlp", 1, 2), "mlp", CONFIG, 1)
    first = emulate.c_sha256(*student)
    assert emulate.c_sha256(*student) == first
    assert emulate.c_sha256(model("mlp", 1, 3), "mlp", CONFIG, 1) != first
    assert emulate.c_sha256(*student[:3], 2) != first
    monkeypatch.setattr(emulate, "FLAGS", (*emulate.FLAGS, "-Os"))
    assert emulate.c_sha256(*student) != first


@NEEDED
def test_counts_are_the_same_to_the_instruction_and_a_finer_clock_agrees(monkeypatch):
    student = ("m4", "resnet1d", 1, 2)
    first = measured(*student)
    assert measured.__wrapped__(*student) == first
    monkeypatch.setattr(emulate, "SHIFT", 8)  # twice as many ticks an instruction, and twice as many turns
    assert measured.__wrapped__(*student) == first


@NEEDED
def test_a_count_follows_the_work_and_a_processor_without_floats_has_more():
    narrow, wide = (measured("m4", "mlp", 1, width) for width in (8, 16))
    more = size("mlp", 1, 16).macs - size("mlp", 1, 8).macs
    per_mac = (wide["instructions_network"] - narrow["instructions_network"]) / more
    assert 1 < per_mac < 6  # two loads, a multiplication, an addition
    assert wide["flash_bytes_c"] - narrow["flash_bytes_c"] == pytest.approx(4 * more, rel=0.01)
    assert measured("m0plus")["instructions"] > 5 * measured("m7")["instructions"]


def test_a_clock_that_differs_is_refused():
    target = emulate.TARGETS["m4"]
    numbers = {"nothing": [64, 0], "loops": [1, 1001], "loop": [64, 0, 64 + 3200, 0]}  # 1000 more, not 2000
    lines = {name: np.array(words, np.uint32) for name, words in numbers.items()}
    with pytest.raises(InputError, match="counts 1000 instructions in a loop of 2000"):
        emulate.instructions(lines, target)


@NEEDED
def test_c_that_answers_otherwise_is_refused(monkeypatch):
    def wrong(network, *arguments):
        sizes = write_c(network, *arguments)
        program = arguments[-1] / "kdsweep_student.c"
        program.write_text(program.read_text().replace("(a + b) + (c + d)", "(a + b) + c"))
        return sizes

    monkeypatch.setattr(emulate, "write_c", wrong)
    with pytest.raises(InputError, match="differs from the model"):
        measured.__wrapped__("m4")


@NEEDED
def test_a_student_beyond_the_board_is_refused():
    with pytest.raises(emulate.TooLarge, match=r"too large for the emulated board, by \d+ bytes of FLASH"):
        measured("m4", "mlp", 2, 400)


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"gcc-arm-none-eabi, binutils.*qemu-system-arm is missing.*apt-get"):
        emulate.require_tools()
    for tool in emulate.PACKAGES:
        (tmp_path / tool).write_text("#!/bin/sh\necho nano.specs\n")
        (tmp_path / tool).chmod(0o755)
    with pytest.raises(InputError, match="libnewlib-arm-none-eabi is missing"):
        emulate.require_tools()
