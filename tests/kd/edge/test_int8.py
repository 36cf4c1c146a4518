"""8-bit students: near the float model, and in C to the bit what the reference in numpy says."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import kd.edge.c
from kd.edge import emulate
from kd.edge.c.check import check
from kd.edge.c.network8 import program8
from kd.edge.c.source import CMSIS_NN, TEMPLATES, made_up_signal, rehearsed, write_c
from kd.edge.export import preprocess_json
from kd.edge.int8.layers import Rescale, Window
from kd.edge.int8.quantise import quantise
from kd.edge.int8.ranges import map_scale, rescale, rows_to_int8, window
from kd.errors import InputError
from kd.models.architectures import build
from kd.models.sizes import size
from kd.signals.prepare import DataConfig
from kd.signals.preprocess import Preprocess
from kd.training.teacher import as_tensor, outputs

ARM = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in emulate.PACKAGES),
    reason="needs Debian's gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm",
)
CMSIS_NN_HERE = Path(os.environ.get("KDSWEEP_CMSIS_NN", "nowhere"))
NEEDS_CMSIS_NN = pytest.mark.skipif(
    not (CMSIS_NN_HERE / CMSIS_NN).is_file(), reason="needs KDSWEEP_CMSIS_NN=<a checkout of CMSIS-NN>"
)
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror", "-O2"]
BARE_METAL = Path(kd.edge.c.__file__).parent
# architecture, depth, width, preprocessing, channels of the sensor
STUDENTS = [
    ("resnet1d", 1, 1, Preprocess(), 1),
    ("resnet1d", 4, 3, Preprocess(window_s=5.08, stride_s=0.5, normalise="none"), 3),
    ("resnet1d", 6, 8, Preprocess(fs=31.25, window_s=3.2, stride_s=0.7, channels="all"), 2),
    ("resnet1d", 9, 2, Preprocess(window_s=0.6, order=2, channels="first"), 2),
    ("resnet1d-post", 5, 3, Preprocess(window_s=5.08), 1),
    ("resnet1d-post", 2, 8, Preprocess(channels="all"), 2),
    ("mlp", 1, 1, Preprocess(), 2),
    ("mlp", 3, 17, Preprocess(fs=20.0, window_s=4.05, channels="all"), 2),
    ("resnet1d", 3, 4, Preprocess(window_s=4.0, acc="xyz", acc_band_hz=(0.4, 6.0)), 2),
    ("mlp", 2, 5, Preprocess(window_s=4.0, channels="first", acc="magnitude"), 1),
]
Student = tuple[str, int, int, Preprocess, int]


def name_of(student: Student) -> str:
    return f"{student[0]}-{student[1]}x{student[2]}"


# run in QEMU: both kinds of blocks and an MLP, odd widths and whole vectors
EMULATED = [
    s for s in STUDENTS if name_of(s) in ("resnet1d-6x8", "resnet1d-9x2", "resnet1d-post-5x3", "mlp-3x17")
]


def model_of(student: Student) -> torch.nn.Module:
    """A model with random weights, and norms that are no identity, some of them negative."""
    arch, depth, width, preprocess, inputs = student
    torch.manual_seed(0)
    channels = (inputs if preprocess.channels == "all" else 1) + preprocess.axes
    model = build(arch, depth, width, channels=channels, samples=preprocess.samples)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.7)
            torch.nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def config_of(student: Student) -> dict:
    *_, preprocess, inputs = student
    channels = (inputs if preprocess.channels == "all" else 1) + preprocess.axes
    scale = 0.4 if preprocess.axes else None
    return preprocess_json(DataConfig(preprocess=preprocess), channels, scale)


def windows_of(student: Student, many: int, seed: int = 0) -> np.ndarray:
    shape = config_of(student)["input"]["shape"][1:]
    return np.random.default_rng(seed).standard_normal((many, *shape)).astype(np.float32)


@pytest.fixture(scope="module", params=STUDENTS, ids=name_of)
def written(request, tmp_path_factory):
    """A student, itself in 8 bits, its folder in C, and what was said of its bytes."""
    student, folder = request.param, tmp_path_factory.mktemp("c")
    whole = quantise(model_of(student), student[0], windows_of(student, 64))
    said = write_c(whole, student[0], config_of(student), student[4], "A student", folder)
    return student, whole, folder, said


def test_every_student_in_c_answers_to_the_bit(written):
    student, whole, folder, _ = written
    windows = windows_of(student, 40, seed=1)
    windows[0, :, 3], windows[1, :, 4], windows[2], windows[3] = np.nan, np.inf, -1e30, 1e-30
    windows[4:20] *= 5  # beyond what was calibrated on
    said = check(folder, whole, windows, config_of(student)["class_centres_bpm"])
    assert {p.name for p in folder.iterdir()} == set(TEMPLATES)
    assert said is not None
    assert (said["windows"], said["off"]) == (40, 0.0)


def test_it_is_near_the_float_model(written):
    student, whole, *_ = written
    windows = windows_of(student, 200, seed=2)
    wanted = outputs(model_of(student), as_tensor(windows))[0].numpy()
    off = np.sqrt(np.square(whole.logits(windows) - wanted).mean() / wanted.var())
    assert off < 0.1


def test_its_ram_is_a_quarter_and_its_flash_nearly(written):
    (arch, depth, width, preprocess, inputs), _, folder, said = written
    channels = (inputs if preprocess.channels == "all" else 1) + preprocess.axes
    computed = size(arch, depth, width, channels=channels, samples=preprocess.samples)
    assert f"#define KDS_ARENA_BYTES {said['arena_bytes']} " in (folder / "kdsweep_student.h").read_text()
    assert said["arena_bytes"] <= computed.activation_bytes / 4 + 1024
    assert (
        width < 3 or said["constant_bytes"] < computed.weight_bytes
    )  # scales are floats: two for each class


def test_wider_students_arena_is_exactly_a_quarter():
    for depth, width, wanted in ((4, 8, 4800), (8, 16, 9600)):
        student = ("resnet1d", depth, width, Preprocess(), 1)
        whole = quantise(model_of(student), "resnet1d", windows_of(student, 2))
        assert program8(whole)["arena_bytes"] == wanted == size("resnet1d", depth, width).activation_bytes / 4


@ARM
@pytest.mark.parametrize("target", emulate.TARGETS)
def test_it_builds_without_a_warning_for_microcontrollers(written, target, tmp_path):
    """Every student with each of the three kernels; M7 and M33 have that of M4: one of each kind will do."""
    student, _, folder, _ = written
    one_each = student in EMULATED[1:]
    if target in ("m7", "m33") and not one_each:
        return
    kernels = [[]]
    if one_each and target in ("m4", "m55"):
        kernels.append(["-DKDS_PLAIN"])
    if one_each and (CMSIS_NN_HERE / "Include").is_dir():
        kernels.append(["-DKDSWEEP_CMSIS_NN", "-isystem", str(CMSIS_NN_HERE / "Include")])
    for plain in kernels:
        build_flags = emulate.TARGETS[target].build.split()
        command = ["arm-none-eabi-gcc", *build_flags, *WARNINGS, *plain, "-c", folder / "kdsweep_student.c"]
        done = subprocess.run([*command, "-o", tmp_path / "s.o"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@NEEDS_CMSIS_NN
def test_with_cmsis_nn_it_answers_to_the_bit(written, tmp_path):
    """The library's plain C, by the Makefile as it is shipped."""
    *_, folder, _ = written
    shutil.copytree(folder, tmp_path / "c")
    command = ["make", "-s", "-C", str(tmp_path / "c"), "test", f"CMSIS_NN={CMSIS_NN_HERE}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: 4 of 4 windows, logits off by 0 of" in done.stdout
    assert (tmp_path / "c" / "cmsis_nn.o").is_file()


@ARM
@pytest.mark.parametrize("written", EMULATED, indirect=True, ids=name_of)
@pytest.mark.parametrize(
    ("target", "plain"),
    [
        ("m0plus", []),
        ("m4", []),
        ("m4", ["-DKDS_PLAIN"]),
        ("m55", []),
        *(pytest.param(t, ["-DKDSWEEP_CMSIS_NN"], marks=NEEDS_CMSIS_NN) for t in ("m0plus", "m4", "m55")),
    ],
)
def test_the_vectors_pass_on_an_emulated_microcontroller(written, target, plain, tmp_path):
    """main.c as it is shipped: every kernel, also the one without special instructions, to the bit."""
    *_, folder, _ = written
    chosen = emulate.TARGETS[target]
    sources = [BARE_METAL / "start.c", folder / "main.c", folder / "kdsweep_student.c"]
    if "-DKDSWEEP_CMSIS_NN" in plain:
        plain = [*plain, "-isystem", str(CMSIS_NN_HERE / "Include")]
        sources.append(CMSIS_NN_HERE / CMSIS_NN)
    link = ["-nostartfiles", "-Wl,--gc-sections", "--specs=rdimon.specs", "-lm"]
    link += ["-T", str(BARE_METAL / "board.ld"), "-o", str(tmp_path / "s.elf")]
    command = ["arm-none-eabi-gcc", *chosen.build.split(), *emulate.FLAGS, *plain]
    subprocess.run([*command, *sources, *link], check=True, capture_output=True)
    board = ["qemu-system-arm", "-M", chosen.board, "-nographic", "-serial", "null", "-monitor", "none"]
    board += ["-semihosting-config", "enable=on,target=native", "-kernel", str(tmp_path / "s.elf")]
    done = subprocess.run(board, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: 4 of 4 windows, logits off by 0 of" in done.stdout + done.stderr


@ARM
@pytest.mark.parametrize("shape", [("resnet1d", 2, 8), ("mlp", 2, 16)])
def test_integers_take_no_more_instructions_than_floats(shape, monkeypatch):
    student = (*shape, Preprocess(), 1)
    model = model_of(student)
    before = emulate.measure(model, shape[0], config_of(student), 1, "m4")
    whole = quantise(model, shape[0], windows_of(student, 16))
    for plain in ((), ("-DKDS_PLAIN",)):
        monkeypatch.setattr(emulate, "FLAGS", (*emulate.FLAGS, *plain))
        record = emulate.measure(whole, shape[0], config_of(student), 1, "m4")
        assert (record["precision"], record["off"]) == ("int8", 0.0)
        most = 1.02 if plain and shape[0] == "mlp" else 1.0  # since its layers are compiled once for all
        assert record["instructions_network"] < most * before["instructions_network"]
        assert record["flash_bytes_c"] < before["flash_bytes_c"]
        layers = sum(layer["instructions"] for layer in record["layers"])
        assert 0.6 * record["instructions_network"] < layers < record["instructions_network"]
        assert record["layers"][-1]["layer"] == f"linear {shape[2]} to 180"


def test_a_layer_that_never_speaks_and_a_class_of_zeros_are_no_trouble(tmp_path):
    student = ("resnet1d", 2, 2, Preprocess(), 1)
    model = model_of(student)
    with torch.no_grad():
        model.blocks[0].conv2.weight.zero_()
        model.blocks[0].bn2.bias.fill_(-100)
        model.blocks[1].conv1.weight[0] *= 1e-12
        model.bn.weight.mul_(1e6)
        model.fc.weight[5].zero_()
        model.fc.bias[5] = 3.0
        model.fc.weight[6].zero_()
        model.fc.bias[6] = 0.0
    windows = windows_of(student, 32)
    whole = quantise(model, "resnet1d", windows)
    write_c(whole, "resnet1d", config_of(student), 1, "A student", tmp_path)
    logits = whole.logits(windows)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[:, 5], 3.0, rtol=1e-3)
    assert (logits[:, 6] == 0).all()
    said = check(tmp_path, whole, windows, config_of(student)["class_centres_bpm"])
    assert said is not None
    assert said["off"] == 0


def test_c_that_answers_otherwise_is_refused(tmp_path):
    student = STUDENTS[0]
    whole = quantise(model_of(student), student[0], windows_of(student, 8))
    write_c(whole, student[0], config_of(student), 1, "A student", tmp_path)
    program = tmp_path / "kdsweep_student.c"
    program.write_text(program.read_text().replace("sum >> shift", "(sum + 1) >> shift"))
    with pytest.raises(InputError, match=r"make -s test(.|\n)*FAILED"):
        check(tmp_path, whole, windows_of(student, 2), config_of(student)["class_centres_bpm"])


@pytest.mark.parametrize("factor", [1e-9, 1e-3, 0.3, 1.0, 40.0, 1e6])
@pytest.mark.parametrize("signed", [True, False])
def test_a_sum_of_any_size_becomes_the_nearest_step(factor, signed):
    """Against the same in floats, and that nothing on the way leaves 32 bits."""
    rng = np.random.default_rng(0)
    most = np.array([10_000, 300_000, 60_000.0])
    factors, shift_by, keep = factor * np.array([1, -0.4, 0.01]), np.array([0.1, 0, -3.0]), np.full(3, 0.05)
    to = rescale(factors, shift_by, keep, 0.1, signed, most)
    sums = (rng.uniform(-1, 1, (1, 4000, 3)) * most).astype(np.int64)
    kept = rng.integers(-128, 128, sums.shape)
    between = (
        ((sums << to.left) * to.multiplier) >> 32,
        kept * to.keep,
        np.broadcast_to(to.offset, sums.shape),
    )
    assert np.abs(to.multiplier).max() < 2**31
    assert np.abs(sums << to.left).max() < 2**31
    assert sum(np.abs(part) for part in between).max() < 2**31
    wanted = (factors * sums + keep * kept + shift_by) / to.scale
    low, high = (-128, 127) if signed else (0, 255)
    assert np.abs(to(sums, kept) - np.clip(wanted, low, high)).max() < 0.5 + 2.0**-to.shift * 3 + 1e-3
    assert to.scale >= 0.1


def test_steps_of_windows_weights_and_maps():
    values = np.random.default_rng(0).standard_normal((50, 1, 200)).astype(np.float32)
    w = window(values)
    steps = w(values)
    assert steps.min() >= 0
    assert steps.max() <= 255
    assert np.abs((steps - 128) * w.scale - values)[np.abs(values) < 127 * w.scale].max() <= w.scale * 0.51
    integers, scale = rows_to_int8(np.array([[1.0, -2.0], [0.0, 0.0]]))
    assert integers.tolist() == [[64, -127], [0, 0]]
    assert scale.tolist() == [2 / 127, 1.0]
    assert map_scale(np.zeros(5), True) == 1.0
    assert map_scale(np.array([0.0, 1.0, 255.0]), False) <= 1.0


def test_vectors_of_an_8_bit_student_depend_on_no_filters_rounding(monkeypatch):
    values = np.random.default_rng(0).standard_normal((1, 1, 200)).astype(np.float32)
    w = window(values)
    middles = (np.round(values / w.scale) * w.scale).astype(np.float32)
    assert w.certain(middles)
    low, high = 3.4 * w.scale, 3.6 * w.scale
    for _ in range(30):  # to where one step ends and the next begins
        middle = (low + high) / 2
        low, high = (middle, high) if w(middle) == w(3.4 * w.scale) else (low, middle)
    middles[0, 0, 7] = high
    assert not w.certain(middles)
    student = ("resnet1d", 1, 1, Preprocess(), 1)
    whole = quantise(model_of(student), "resnet1d", windows_of(student, 8))
    _, reference = rehearsed(whole, config_of(student), 1)
    assert whole.window.certain(np.array(reference.windows))
    answers = iter([False, False, True])
    monkeypatch.setattr(Window, "certain", lambda *_: next(answers))
    signal, reference = rehearsed(whole, config_of(student), 1)
    third = made_up_signal(config_of(student), 1, seed=2)
    np.testing.assert_array_equal(signal, third)
    assert len(reference.windows) == 4


def test_a_residual_is_added_to_what_is_kept():
    to = Rescale(np.array([2**30]), np.array([1]), 1, 1, True, 1.0, np.array([2]))
    assert to(np.array([[[4]]]), np.array([[[3]]])).item() == (2 + 6 + 1) >> 1


def test_what_has_no_int8_is_refused():
    student = STUDENTS[0]
    with pytest.raises(InputError, match="architecture 'lstm' has no int8 in C"):
        quantise(model_of(student), "lstm", windows_of(student, 2))
    with pytest.raises(InputError, match="no window to take int8 ranges from"):
        quantise(model_of(student), "resnet1d", windows_of(student, 0))
    wide = build("mlp", 1, 1, channels=1, samples=70_000)
    with pytest.raises(InputError, match="70,000 inputs is too wide for int8"):
        quantise(wide, "mlp", np.zeros((2, 1, 70_000)))
