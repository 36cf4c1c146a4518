"""A student in C on an emulated microcontroller: its answers, instructions, stack and flash.

QEMU counts instructions, not cycles: neither a pipeline's stalls nor a flash's wait states are in it.
At 2^SHIFT ns an instruction SysTick moves more than twice for each, so that counts are exact.
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kd.edge.c import instructions as law
from kd.edge.c.network import network
from kd.edge.c.network8 import labels8
from kd.edge.c.source import CMSIS_NN, VECTORS, decoded, ppg_channels, rehearsed, write_c
from kd.edge.int8.student import Student8
from kd.errors import InputError

HERE = Path(__file__).parent / "c"
GCC, SIZE, QEMU = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
PACKAGES = {GCC: "gcc-arm-none-eabi", SIZE: "binutils-arm-none-eabi", QEMU: "qemu-system-arm"}
FLAGS = ("-std=gnu99", "-O2", "-fno-math-errno")
LINK = ("-nostartfiles", "-Wl,--gc-sections", "--specs=nano.specs", "-T", str(HERE / "board.ld"))
SHIFT = 7  # QEMU's -icount: an instruction takes 128 ns of its clock
HANDLER = 5  # instructions of count.c's systick
TOLERANCE = 1e-6  # of the largest logit, as main.c asks
TOLERANCE_BPM = 1e-3
TOLERANCE_INT8_BPM = 0.05  # a sample of the filter's may round to the window's next step
PATIENCE_S = 600.0
ABOUT = "QEMU counts instructions, not cycles or wait states: multiply by your chip's cycles an instruction"


class TooLarge(InputError):
    """A student that the emulated board has no room for."""


@dataclass(frozen=True)
class Target:
    """A Cortex-M: how GCC builds for it, the QEMU board that runs it, and its SysTick's clock in Hz."""

    cpu: str
    build: str
    board: str
    systick_hz: int
    link: tuple[str, ...] = ()
    runs_on: str = ""  # where QEMU's board has another processor


TARGETS = {
    "m0plus": Target(
        "Cortex-M0+", "-mcpu=cortex-m0plus -mthumb", "mps2-an385", 25_000_000, runs_on="Cortex-M3"
    ),
    "m4": Target(
        "Cortex-M4F",
        "-mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard",
        "mps2-an386",
        25_000_000,
    ),
    "m7": Target(
        "Cortex-M7", "-mcpu=cortex-m7 -mthumb -mfpu=fpv5-d16 -mfloat-abi=hard", "mps2-an500", 25_000_000
    ),
    "m33": Target(
        "Cortex-M33",
        "-mcpu=cortex-m33 -mthumb -mfpu=fpv5-sp-d16 -mfloat-abi=hard",
        "mps2-an505",
        20_000_000,
        ("-Wl,--defsym=flash_at=0x10000000", "-Wl,--defsym=ram_at=0x38000000"),  # the secure side
    ),
    "m55": Target("Cortex-M55", "-mcpu=cortex-m55 -mthumb -mfloat-abi=hard", "mps3-an547", 32_000_000),
}


def require_tools() -> None:
    """InputError naming the Debian packages that are missing here."""
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    if not missing and not _newlib():
        missing = ["libnewlib-arm-none-eabi"]
    if missing:
        raise InputError(
            f"--target needs a compiler and an emulator, and {', '.join(missing)} is missing here: "
            f"apt-get install {' '.join(missing)}, or profile without --target"
        )


def _newlib() -> bool:
    """Whether the compiler finds the C library, which is a package of its own."""
    done = subprocess.run(
        [GCC, "-print-file-name=nano.specs"], capture_output=True, text=True, encoding="utf-8", check=False
    )
    return "/" in done.stdout


def versions() -> dict[str, str]:
    """What built and ran it; counts are the same for the same versions."""
    found = {}
    for name, tool in (("compiler", GCC), ("emulator", QEMU)):
        said = subprocess.run(
            [tool, "--version"], capture_output=True, text=True, encoding="utf-8", check=True
        ).stdout
        found[name] = said.splitlines()[0]
    return found


def require_cmsis_nn(folder: Path) -> None:
    """InputError for a folder that isn't a CMSIS-NN with the function that students take of it."""
    if not (folder / CMSIS_NN).is_file():
        raise InputError(
            f"--cmsis-nn {folder}: there is no {CMSIS_NN} in it: give a checkout of CMSIS-NN 5.0 or later "
            "(git clone https://github.com/ARM-software/CMSIS-NN), or leave --cmsis-nn out"
        )


def measure(
    model: nn.Module | Student8,
    arch: str,
    config: Mapping[str, Any],
    inputs: int,
    target: str,
    cmsis_nn: Path | None = None,
) -> dict[str, Any]:
    """A student on one of TARGETS; `config` and `inputs` as `write_c` takes them.

    cmsis_nn: a checkout of CMSIS-NN, which an 8-bit student's products are then made by.

    instructions: of a kds_push that completes a window, all of it: the most of the test windows. Of it
    instructions_network: kds_logits alone, instructions_decode: from logits to a heart rate. layers: of
    kds_logits, on the first test window; of float32. instructions_per_sample: the mean of any other kds_push.
    stack_bytes: the most below a caller of kds_push. static_bytes: arena and stream. flash_bytes_c: the least
    program that hears a heart rate, with interrupt vectors and what it needs of the C library. off, off_bpm:
    how far it is from torch, logits by the largest one. Raises TooLarge where it doesn't
    fit the board, InputError where it answers otherwise.
    """
    require_tools()
    chosen = TARGETS[target]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sizes = write_c(model, arch, config, inputs, "A student", folder)
        options = _compile_cmsis_nn(folder, chosen, cmsis_nn)
        compile_student(folder, chosen, *options)
        lines = run(link(folder, chosen, "count.c"), chosen)
        flash, static = _bytes(link(folder, chosen, "loop.c"))
        layers = _layers(folder, chosen, _names(model, arch, config), options)
    classes = len(config["class_centres_bpm"])
    if config["channels"] != "mean":
        inputs = ppg_channels(config)
    return {
        "target": target,
        "cpu": chosen.cpu,
        "precision": "int8" if isinstance(model, Student8) else "fp32",
        "kernels": "kdsweep" if cmsis_nn is None else "CMSIS-NN",
        **instructions(lines, chosen),
        "layers": layers,
        "inputs": inputs,
        "arena_bytes": sizes["arena_bytes"],
        "static_bytes": static,
        "stack_bytes": int(lines["stack"][0]),
        "flash_bytes_c": flash,
        **_compared(lines, model, config, inputs, classes),
        "vectors": VECTORS,
        "flags": " ".join((*FLAGS, chosen.build)),
        "board": f"{chosen.board}{f' ({chosen.runs_on})' if chosen.runs_on else ''}",
        "measured": "instructions, stack, static and flash bytes, answers",
        "computed": "arena_bytes",
        "about": ABOUT,
        **versions(),
    }


def c_sha256(
    model: nn.Module | Student8,
    arch: str,
    config: Mapping[str, Any],
    inputs: int,
    cmsis_nn: Path | None = None,
) -> str:
    """A hash of all C that `measure` builds of a student, and of how: counts of the same are the same."""
    digest = hashlib.sha256(repr((FLAGS, LINK[:-1], TARGETS)).encode())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_c(model, arch, config, inputs, "A student", folder)
        written = [folder / name for name in ("kdsweep_student.c", "kdsweep_student.h", "vectors.h")]
        kernels = [] if cmsis_nn is None else [cmsis_nn / CMSIS_NN]
        own = (p for p in HERE.iterdir() if p.suffix in (".c", ".h", ".ld") and p.name != "count_tracker.c")
        for file in [*written, *sorted(own), *kernels]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def compile_student(folder: Path, target: Target, *options: str) -> None:
    """`kdsweep_student.o` beside `kdsweep_student.c`."""
    source, out = folder / "kdsweep_student.c", folder / "kdsweep_student.o"
    _run([GCC, *target.build.split(), *FLAGS, *options, "-c", str(source), "-o", str(out)])


def _compile_cmsis_nn(folder: Path, target: Target, cmsis_nn: Path | None) -> tuple[str, ...]:
    """Its object beside the student's; the options that the student is built with."""
    if cmsis_nn is None:
        return ()
    out, include = folder / "cmsis_nn.o", str(cmsis_nn / "Include")
    command = [GCC, *target.build.split(), *FLAGS, "-isystem", include, "-c", str(cmsis_nn / CMSIS_NN)]
    _run([*command, "-o", str(out)])
    return "-DKDSWEEP_CMSIS_NN", "-isystem", include


def link(folder: Path, target: Target, program: str, *options: str) -> Path:
    """An ELF of a program of this package with the student of `folder`."""
    out = folder / f"{program}.elf"
    sources = [str(HERE / "start.c"), str(HERE / program), *map(str, sorted(folder.glob("*.o")))]
    command = [GCC, *target.build.split(), *FLAGS, *options, f"-I{folder}", *sources, *LINK, *target.link]
    _run([*command, "-lm", "-o", str(out)])
    return out


def run(elf: Path, target: Target) -> dict[str, Any]:
    """What count.c says: name -> words, (n,) uint32."""
    board = [QEMU, "-M", target.board, "-display", "none", "-serial", "null", "-monitor", "none"]
    board += ["-icount", f"shift={SHIFT}", "-semihosting-config", "enable=on,target=native"]
    said = _run([*board, "-kernel", str(elf)])
    rows = (line.split() for line in said.splitlines())
    return {name: np.array([int(word, 16) for word in words], np.uint32) for name, *words in rows}


def instructions(lines: Mapping[str, Any], target: Target) -> dict[str, int]:
    """Instructions from ticks; InputError where a loop of a known length isn't counted right."""
    _check_clock(lines, target)
    pushes, completes = _counted(lines, "pushes", target), lines["completes"] > 0
    return {
        "instructions": int(pushes[completes].max()),
        "instructions_network": int(_counted(lines, "network", target).max()),
        "instructions_decode": int(_counted(lines, "decode", target).max()),
        "instructions_per_sample": round(float(pushes[1:][~completes[1:]].mean())),
    }


def _names(model: nn.Module | Student8, arch: str, config: Mapping[str, Any]) -> list[str]:
    """The network's calls in words."""
    if isinstance(model, Student8):
        return labels8(model)
    calls = network(model, arch, *config["input"]["shape"][1:]).calls
    return [law.label(law.numbers(call)) for call in calls]


def _layers(
    folder: Path, target: Target, names: Sequence[str], options: Sequence[str]
) -> list[dict[str, Any]]:
    """What each call of the network takes, in a build that stops between them: layer and instructions."""
    compile_student(folder, target, "-include", str(HERE / "layers.h"), *options)
    lines = run(link(folder, target, "layers.c", f"-DLAYERS={len(names)}"), target)
    _check_clock(lines, target)
    found = _counted(lines, "layers", target)
    return [{"layer": name, "instructions": int(n)} for name, n in zip(names, found, strict=True)]


def counted(lines: Mapping[str, Any], name: str, target: Target) -> Any:
    """Instructions of each COUNT that a program wrote; InputError where QEMU's clock is another."""
    _check_clock(lines, target)
    return _counted(lines, name, target)


def _counted(lines: Mapping[str, Any], name: str, target: Target) -> Any:
    """Instructions of each pair of ticks and turns, less those of counting itself."""
    per_tick = 1e9 / target.systick_hz / 2**SHIFT  # less than half an instruction: rounding finds the number

    def rounded(name: str) -> Any:
        ticks, turns = lines[name].reshape(-1, 2).astype(np.int64).T
        return np.rint(ticks * per_tick).astype(np.int64) - HANDLER * turns

    return rounded(name) - rounded("nothing")


def _check_clock(lines: Mapping[str, Any], target: Target) -> None:
    """InputError where a loop of a known length isn't counted right."""
    found = int(np.diff(_counted(lines, "loop", target))[0])
    wanted = int(np.diff(2 * lines["loops"].astype(np.int64))[0])
    if found != wanted:
        raise InputError(
            f"this QEMU counts {found} instructions in a loop of {wanted}: "
            "its SysTick has another clock; use the qemu-system-arm of Debian 12"
        )


def _compared(
    lines: Mapping[str, Any],
    model: nn.Module | Student8,
    config: Mapping[str, Any],
    inputs: int,
    classes: int,
) -> dict[str, float]:
    """How far the answers are from torch's (an 8-bit student's own, to the bit) and the live stream's.

    InputError beyond the tolerances.
    """
    _, reference = rehearsed(model, config, inputs)
    wanted = np.array(reference.logits)
    logits = lines["logits"].view(np.float32).reshape(VECTORS, classes)
    rates = lines["rates"].view(np.float32).reshape(VECTORS, 2)
    off = float(np.max(np.abs(logits - wanted).max(1) / np.abs(wanted).max(1)))
    off_bpm = float(np.abs(rates - np.stack(decoded(wanted, reference.centres), 1)).max())
    exact = isinstance(model, Student8)
    most, most_bpm = (0.0, TOLERANCE_INT8_BPM) if exact else (TOLERANCE, TOLERANCE_BPM)
    if not (off <= most and off_bpm <= most_bpm and int(lines["heard"][0]) == VECTORS):
        raise InputError(
            f"on the emulated microcontroller the C code differs from the model by {off:.2g} of the largest "
            f"logit and {off_bpm:.2g} BPM: use the gcc-arm-none-eabi and qemu-system-arm of Debian 12"
        )
    return {"off": off, "off_bpm": off_bpm}


def _bytes(elf: Path) -> tuple[int, int]:
    """Bytes of flash (code, constants, what data starts as) and of static RAM, from the ELF's sections."""
    said = _run([SIZE, str(elf)])
    text, data, bss = map(int, said.splitlines()[1].split()[:3])
    return text + data, data + bss


def _run(command: list[str]) -> str:
    """What a command wrote; InputError with its last words if it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{command[0]} takes longer than {PATIENCE_S:.0f} s: profile a smaller student"
        ) from None
    said = done.stdout + done.stderr
    if region := re.search(r"region `(\w+)' overflowed by (\d+) bytes", said):
        raise TooLarge(
            f"the student is too large for the emulated board, by {region[2]} bytes of {region[1]} "
            "(512 KiB): profile a smaller one, or without --target"
        )
    if done.returncode:
        raise InputError(f"{command[0]} fails here: " + "\n".join(said.strip().splitlines()[-8:]))
    return said
