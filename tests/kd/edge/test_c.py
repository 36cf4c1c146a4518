"""A student in C answers as torch and the live stream do, and builds without a warning for every target."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import kd.edge.c
from kd.edge.c.check import check
from kd.edge.c.network import network, require_c
from kd.edge.c.source import TEMPLATES, Reference, write_c
from kd.edge.export import preprocess_json
from kd.errors import InputError
from kd.models.architectures import build
from kd.models.sizes import size
from kd.shipped.stream import Stream
from kd.signals.prepare import DataConfig
from kd.signals.preprocess import Preprocess

TARGETS = {
    "m0plus": "-mcpu=cortex-m0plus -mthumb",
    "m4": "-mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard",
    "m7": "-mcpu=cortex-m7 -mthumb -mfpu=fpv5-d16 -mfloat-abi=hard",
    "m33": "-mcpu=cortex-m33 -mthumb -mfpu=fpv5-sp-d16 -mfloat-abi=hard",
    "m55": "-mcpu=cortex-m55 -mthumb -mfloat-abi=hard",
}
FLAGS = [
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wdouble-promotion",
    "-Werror",
    "-O2",
    "-fno-math-errno",
    "-c",
]
# QEMU's board for it; none has an M0+, but an M3 runs its instructions
BOARDS = {"m0plus": "mps2-an385", "m4": "mps2-an386", "m7": "mps2-an500", "m55": "mps3-an547"}
BARE_METAL = Path(kd.edge.c.__file__).parent
# architecture, depth, width, preprocessing, channels of the sensor
STUDENTS = [
    ("resnet1d", 1, 1, Preprocess(), 1),
    ("resnet1d", 4, 3, Preprocess(window_s=5.08, stride_s=0.5, normalise="none"), 3),
    ("resnet1d", 6, 8, Preprocess(fs=31.25, window_s=3.2, stride_s=0.7, channels="all"), 2),
    ("resnet1d", 9, 2, Preprocess(window_s=0.6, order=2, channels="first"), 2),
    ("resnet1d-post", 5, 3, Preprocess(window_s=5.08, channels="all"), 2),
    ("tcn", 5, 3, Preprocess(window_s=5.08, acc="xyz"), 2),
    ("dscnn", 5, 3, Preprocess(window_s=5.08, channels="all"), 3),
    ("mlp", 1, 1, Preprocess(), 2),
    ("mlp", 3, 17, Preprocess(fs=20.0, window_s=4.05, channels="all"), 2),
    ("resnet1d", 3, 4, Preprocess(window_s=4.0, acc="xyz", acc_band_hz=(0.4, 6.0)), 2),
    ("mlp", 2, 5, Preprocess(window_s=4.0, channels="first", acc="magnitude"), 1),
]
Student = tuple[str, int, int, Preprocess, int]
# all that the object may ask of others: libc, libm, and the compiler's own where stacks are guarded
ALLOWED = {"memcpy", "memset", "sqrtf", "llrint", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}


def model_of(student: Student) -> torch.nn.Module:
    """A model with random weights, and norms that are no identity."""
    arch, depth, width, preprocess, inputs = student
    torch.manual_seed(0)
    channels = (inputs if preprocess.channels == "all" else 1) + preprocess.axes
    model = build(arch, depth, width, channels=channels, samples=preprocess.samples)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def config_of(student: Student) -> dict:
    *_, preprocess, inputs = student
    channels = (inputs if preprocess.channels == "all" else 1) + preprocess.axes
    scale = 0.4 if preprocess.axes else None
    return preprocess_json(DataConfig(preprocess=preprocess), channels, scale)


@pytest.fixture(scope="module", params=STUDENTS, ids=lambda s: f"{s[0]}-{s[1]}x{s[2]}")
def written(request, tmp_path_factory):
    """A student, its folder in C, and what was said of its bytes."""
    student, folder = request.param, tmp_path_factory.mktemp("c")
    said = write_c(model_of(student), student[0], config_of(student), student[4], "A student", folder)
    return student, folder, said


def test_every_student_answers_as_torch_and_the_live_stream(written):
    """What a firmware team does: only the folder, and `make test`; then many windows."""
    student, folder, _ = written
    config = config_of(student)
    windows = np.random.default_rng(1).standard_normal((40, *config["input"]["shape"][1:]))
    before = {p.name for p in folder.iterdir()}
    said = check(folder, model_of(student), windows, config["class_centres_bpm"])
    assert {p.name for p in folder.iterdir()} == before == set(TEMPLATES)
    assert said is not None
    assert said["windows"] == 40
    assert said["off"] <= 1e-6


def test_its_arena_is_no_larger_than_its_activations(written):
    (arch, depth, width, preprocess, inputs), folder, said = written
    channels = (inputs if preprocess.channels == "all" else 1) + preprocess.axes
    computed = size(arch, depth, width, channels=channels, samples=preprocess.samples).activation_bytes
    assert f"#define KDS_ARENA_BYTES {said['arena_bytes']} " in (folder / "kdsweep_student.h").read_text()
    assert said["arena_bytes"] <= computed
    assert arch != "mlp" or said["arena_bytes"] == computed


def test_an_ordinary_students_arena_is_its_activations():
    for depth, width, wanted in ((4, 8, 19200), (8, 16, 38400)):
        student = ("resnet1d", depth, width, Preprocess(), 1)
        arena = 4 * network(model_of(student), "resnet1d", 1, 200).arena
        assert arena == wanted == size("resnet1d", depth, width).activation_bytes


def test_a_post_activation_students_arena_is_two_maps_of_its_three():
    """The second convolution adds to the block's input where it lies."""
    student = ("resnet1d-post", 4, 8, Preprocess(), 1)
    assert 4 * network(model_of(student), "resnet1d-post", 1, 200).arena == 2 * 4 * 8 * 200
    assert size("resnet1d-post", 4, 8).activation_bytes == 3 * 4 * 8 * 200


def test_it_needs_no_malloc_and_little_of_the_c_library(written, tmp_path):
    _, folder, said = written
    program = folder / "kdsweep_student.c"
    subprocess.run(["cc", *FLAGS, program, "-o", tmp_path / "s.o"], check=True)
    asked = subprocess.run(["nm", "-u", tmp_path / "s.o"], capture_output=True, text=True, check=True)
    assert {line.split()[-1] for line in asked.stdout.splitlines()} <= ALLOWED
    sizes = subprocess.run(["size", tmp_path / "s.o"], capture_output=True, text=True, check=True)
    text, data, bss = map(int, sizes.stdout.splitlines()[1].split()[:3])
    assert data == 0
    assert said["arena_bytes"] <= bss <= said["arena_bytes"] + 32  # the linker's alignment
    assert text > said["constant_bytes"]


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="needs Debian's gcc-arm-none-eabi")
@pytest.mark.parametrize("target", TARGETS)
def test_it_builds_without_a_warning_for_microcontrollers(written, target, tmp_path):
    _, folder, _ = written
    command = ["arm-none-eabi-gcc", *TARGETS[target].split(), *FLAGS, folder / "kdsweep_student.c"]
    done = subprocess.run([*command, "-o", tmp_path / "s.o"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("arm-none-eabi-gcc", "qemu-system-arm")),
    reason="needs Debian's gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm",
)
@pytest.mark.parametrize("target", BOARDS)
def test_the_vectors_pass_on_an_emulated_microcontroller(written, target, tmp_path):
    """main.c as it is shipped, with newlib's printf: the same answers by another processor's arithmetic."""
    _, folder, _ = written
    sources = [BARE_METAL / "start.c", folder / "main.c", folder / "kdsweep_student.c"]
    link = ["-nostartfiles", "-Wl,--gc-sections", "--specs=rdimon.specs", "-lm"]
    link += ["-T", str(BARE_METAL / "board.ld")]
    command = ["arm-none-eabi-gcc", *TARGETS[target].split(), "-std=gnu99", "-O2", "-fno-math-errno"]
    subprocess.run([*command, *sources, *link, "-o", tmp_path / "s.elf"], check=True, capture_output=True)
    board = ["qemu-system-arm", "-M", BOARDS[target], "-nographic", "-serial", "null", "-monitor", "none"]
    board += ["-semihosting-config", "enable=on,target=native", "-kernel", str(tmp_path / "s.elf")]
    done = subprocess.run(board, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: 4 of 4 windows" in done.stdout + done.stderr


HOOK = """extern float seen[{n}];
#define KDS_AFTER(layer) if ((layer) == -1) memcpy(seen, arena, sizeof seen);
"""
SEEN = """#include "kdsweep_student.h"
float seen[{n}];
const int stream_bytes = sizeof(kds_stream);
"""


def heard(folder: Path, signal: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows (N, size) and BPM (N,) of a signal (inputs, n) pushed through the C of `folder`."""
    (folder / "hook.h").write_text(HOOK.format(n=size))
    (folder / "seen.c").write_text(SEEN.format(n=size))
    command = ["cc", "-O2", "-fno-math-errno", "-shared", "-fPIC", "-include", "hook.h", "kdsweep_student.c"]
    subprocess.run([*command, "seen.c", "-o", "seen.so", "-lm"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "seen.so"))
    seen = np.ctypeslib.as_array((ctypes.c_float * size).in_dll(library, "seen"))
    state = ctypes.create_string_buffer(ctypes.c_int.in_dll(library, "stream_bytes").value)
    rate, windows, bpm = (ctypes.c_float * 2)(), [], []
    library.kds_start(state)
    for sample in np.ascontiguousarray(signal.T, np.float32):
        if library.kds_push(state, sample.ctypes.data_as(ctypes.c_void_p), rate):
            windows.append(seen.copy())
            bpm.append(rate[0])
    return np.array(windows), np.array(bpm)


@pytest.mark.parametrize(
    ("preprocess", "inputs", "level", "pulse", "most", "fs"),
    [
        (Preprocess(), 1, 2e5, 200, 5e-5, 25),  # an 18-bit sensor
        (Preprocess(), 3, 8e6, 4000, 5e-5, 25),  # a 24-bit one, three channels
        (Preprocess(order=1), 1, 2e5, 200, 5e-5, 25),
        (Preprocess(fs=64.0, order=3), 1, 2e5, 200, 5e-5, 64),
        (Preprocess(fs=200.0), 1, 2e5, 200, 1e-3, 200),
        (Preprocess(stride_s=2.02), 1, 2e5, 200, 1e-4, 64),  # from here on resampled
        (Preprocess(), 2, 8e6, 4000, 1e-4, 100),
        (Preprocess(), 1, 2e5, 200, 1e-4, 25.6),
        (Preprocess(stride_s=1.98), 1, 2e5, 200, 1e-4, 20),  # two samples of one
    ],
)
def test_a_filter_in_single_precision_cuts_the_windows_of_one_in_double(
    preprocess, inputs, level, pulse, most, fs, tmp_path
):
    """A pulse a thousandth of the level or less, on a drift of tens of pulses: windows as z-scores."""
    student = ("mlp", 1, 4, preprocess, inputs)
    config = config_of(student) | {"device_fs": fs}
    write_c(model_of(student), "mlp", config, inputs, "A student", tmp_path)
    rng, t = np.random.default_rng(0), np.arange(int(120 * fs)) / fs
    phase = 2 * np.pi * (1.2 * t + 5 * np.sin(t / 20))
    drift = 30 * pulse * rng.standard_normal((inputs, len(t))).cumsum(1) / np.sqrt(fs * 120)
    signal = level + pulse * (np.sin(phase) + 0.4 * np.sin(2 * phase)) + drift
    signal[:, len(t) // 2] = np.nan
    signal = signal.astype(np.float32)
    windows, bpm = heard(tmp_path, signal, preprocess.samples)
    reference = Reference(model_of(student), config)
    said = [bpm for _, bpm in Stream(reference, fs, inputs, causal=True).push(signal)]
    wanted = np.array([w.ravel() for w in reference.windows])
    assert windows.shape == wanted.shape == (len(said), preprocess.samples)
    assert len(said) >= 56
    assert np.abs(windows - wanted).max() < most
    assert np.abs(bpm - said).max() < 1e-2


@pytest.mark.parametrize(
    ("student", "fs", "lines"),
    [
        (("mlp", 1, 4, Preprocess(), 1), 125, 1),
        (("mlp", 2, 5, Preprocess(window_s=4.0, channels="first", acc="magnitude"), 1), 64, 2),
        (("mlp", 1, 4, Preprocess(window_s=4.0, acc="xyz"), 2), 100, 5),
    ],
)
def test_samples_at_the_devices_rate_are_resampled(student, fs, lines, tmp_path):
    """`make test` with vectors at that rate; all RAM is said, and nothing warns on an M0+."""
    config, inputs = config_of(student) | {"device_fs": fs}, student[4]
    said = write_c(model_of(student), "mlp", config, inputs, "A student", tmp_path)
    windows = np.random.default_rng(1).standard_normal((3, *config["input"]["shape"][1:]))
    assert check(tmp_path, model_of(student), windows, config["class_centres_bpm"]) is not None
    ram = '#include "kdsweep_student.h"\nchar ram[KDS_RAM_BYTES == {} ? 1 : -1];'
    (tmp_path / "ram.c").write_text(ram.format(said["arena_bytes"] + said["state_bytes"]))
    subprocess.run(["cc", "-c", "ram.c"], cwd=tmp_path, check=True)
    without = tmp_path / "without"
    without.mkdir()
    plain = write_c(model_of(student), "mlp", config_of(student), inputs, "A student", without)
    reach = 20 * max(1, fs / 25) + 1  # ten periods of the lower rate to each side
    more = 4 * (lines * (int(reach) + 2) + 4)
    assert said["state_bytes"] - plain["state_bytes"] == pytest.approx(more, abs=8)
    if shutil.which("arm-none-eabi-gcc"):
        command = ["arm-none-eabi-gcc", *TARGETS["m0plus"].split(), *FLAGS, "kdsweep_student.c"]
        subprocess.run(command, cwd=tmp_path, check=True)


def test_a_rate_that_cannot_be_is_refused(tmp_path):
    student = ("mlp", 1, 1, Preprocess(), 1)
    for fs, why in (
        (7, "takes more than 8 Hz"),
        (99.7, "choose a rate in a simpler"),
        (np.nan, "band ends"),
    ):
        with pytest.raises(InputError, match=f"--device-fs {fs:g}.*{why}"):
            write_c(model_of(student), "mlp", config_of(student) | {"device_fs": fs}, 1, "", tmp_path)
    often = ("mlp", 1, 1, Preprocess(stride_s=0.05), 1)
    with pytest.raises(InputError, match=r"a window every 0\.05 s is more than one a sample"):
        write_c(model_of(often), "mlp", config_of(often) | {"device_fs": 20}, 1, "", tmp_path)
    assert not list(tmp_path.iterdir())


def test_c_that_answers_otherwise_is_refused(tmp_path):
    student = STUDENTS[0]
    config = config_of(student)
    write_c(model_of(student), student[0], config, 1, "A student", tmp_path)
    program = tmp_path / "kdsweep_student.c"
    good = program.read_text()
    centres, windows = config["class_centres_bpm"], np.ones((2, 1, 200))
    program.write_text(good.replace("sum / (float)length", "sum"))
    with pytest.raises(InputError, match=r"make -s test(.|\n)*FAILED"):
        check(tmp_path, model_of(student), windows, centres)
    program.write_text(good)
    torch.nn.init.ones_((other := model_of(student)).fc.bias)
    with pytest.raises(InputError, match="differs from the model"):
        check(tmp_path, other, windows, centres)


def test_without_a_compiler_nothing_is_said_to_be_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check(tmp_path, model_of(STUDENTS[0]), np.ones((1, 1, 200)), [30, 31]) is None


def test_what_has_no_c_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'spectra' has no C export: ship its model\.onnx"):
        require_c("spectra")
    with pytest.raises(InputError, match="architecture 'lstm' has no C export"):
        network(model_of(STUDENTS[0]), "lstm", 1, 200)
    student = ("mlp", 1, 1, Preprocess(stride_s=0.03), 1)
    with pytest.raises(InputError, match="no C export; train with a longer"):
        write_c(model_of(student), "mlp", config_of(student), 1, "A student", tmp_path)
    assert not list(tmp_path.iterdir())
