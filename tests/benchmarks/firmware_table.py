"""What students cost on every emulated Cortex-M, beside tflite-micro's arena and another compiler's C.

    python tests/benchmarks/firmware_table.py --students resnet1d-4x4 resnet1d-8x16

Needs Debian's gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm; of the others those that are
given: --onnx2c PROGRAM (github.com/kraiskil/onnx2c), --mcu-env FOLDER (as `kdsweep profile --mcu` makes it),
--cmsis-nn FOLDER. Random weights, one channel of 200 samples, 180 classes. Every row's answers are checked.
"""

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kd.edge import calibrate, emulate
from kd.edge.c.source import VECTORS, rehearsed, write_c
from kd.edge.int8.quantise import quantise
from kd.edge.onnxfile import write_onnx
from kd.models import weights
from kd.models.sizes import size
from kd.signals.preprocess import Preprocess
from orchestrator.edge import device_table

MHZ = 64
HEAD = "| student | C by | in | target | flash, bytes | RAM, bytes | instructions a MAC | ms at 64 MHz |"
WRAPPER = """#define kds_logits own_logits
#include "own.c"
#undef kds_logits
#include "onnx.c"
const float *kds_logits(const float *window);
const float *kds_logits(const float *window) {
    static float logits[1][KDS_CLASSES];
    entry((const float(*)[KDS_CHANNELS][KDS_SAMPLES])window, logits);
    return logits[0];
}
"""
Student = tuple[Any, str, dict[str, Any], int]  # as `emulate.measure` takes it, in float32


def student_of(name: str) -> tuple[Student, Any, int]:
    """A student by its name, itself in 8 bits, and its multiply-adds."""
    arch, _, shape = name.rpartition("-")
    depth, width = map(int, shape.split("x"))
    model, config, inputs = calibrate.student((arch, depth, width, Preprocess(), 1))
    windows = np.random.default_rng(0).standard_normal((64, *config["input"]["shape"][1:]))
    macs = size(arch, depth, width, samples=config["input"]["shape"][2]).macs
    return (model, arch, config, inputs), quantise(model, arch, windows.astype(np.float32)), macs


def ours(student: Student, whole: Any, target: str, precision: str, cmsis_nn: Path | None) -> dict[str, Any]:
    """A row of kdsweep's own C."""
    model = student[0] if precision == "fp32" else whole
    return emulate.measure(model, *student[1:], target, cmsis_nn)


def their_c(student: Student, onnx2c: str) -> bytes:
    """What onnx2c makes of a student."""
    _, channels, samples = student[2]["input"]["shape"]
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.onnx"
        write_onnx(student[0], file, channels, samples)
        _pool_globally(file)
        command = [onnx2c, "-d", "batch:1", str(file)]
        return subprocess.run(command, check=True, capture_output=True).stdout


def theirs(student: Student, target: str, code: bytes) -> dict[str, Any]:
    """A row of onnx2c's C, compiled with the same flags: network alone, counted as our `kds_logits`."""
    model, arch, config, inputs = student
    chosen = emulate.TARGETS[target]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_c(model, arch, config, inputs, "A student", folder)
        (folder / "kdsweep_student.c").rename(folder / "own.c")
        (folder / "kdsweep_student.c").write_text(WRAPPER)
        (folder / "onnx.c").write_bytes(code)
        build = [emulate.GCC, *chosen.build.split(), *emulate.FLAGS, "-c", str(folder / "onnx.c")]
        subprocess.run([*build, "-o", str(folder / "alone")], check=True, capture_output=True)
        sizes = subprocess.run(
            [emulate.SIZE, str(folder / "alone")], check=True, capture_output=True, text=True
        ).stdout.splitlines()[1]
        text, data, bss = map(int, sizes.split()[:3])
        emulate.compile_student(folder, chosen, "-w")
        lines = emulate.run(emulate.link(folder, chosen, "count.c"), chosen)
    wanted = np.array(rehearsed(model, config, inputs)[1].logits)
    logits = lines["logits"].view(np.float32).reshape(VECTORS, -1)
    off = float(np.max(np.abs(logits - wanted).max(1) / np.abs(wanted).max(1)))
    assert off < 1e-4, f"onnx2c's answers are off by {off:.2g} of the largest logit"
    return {"flash": text + data, "ram": data + bss, **emulate.instructions(lines, chosen)}


def _pool_globally(file: Path) -> None:
    """ReduceMean over time as the pooling and flattening that onnx2c takes."""
    import onnx

    model = onnx.load(file)
    for i, node in enumerate(model.graph.node):
        if node.op_type == "ReduceMean":
            pool = onnx.helper.make_node("GlobalAveragePool", [node.input[0]], ["pooled"])
            flatten = onnx.helper.make_node("Flatten", ["pooled"], node.output)
            model.graph.node.remove(node)
            model.graph.node.insert(i, pool)
            model.graph.node.insert(i + 1, flatten)
            break
    onnx.save(model, file)


def arenas(student: Student, python: Path) -> dict[str, dict[str, int]]:
    """Bytes of tflite-micro's arena and of the .tflite, for fp32 and int8."""
    model, arch, config, _ = student
    depth, width = len(model.blocks), model.stem.out_channels
    windows = np.random.default_rng(0).standard_normal((64, *config["input"]["shape"][1:]))
    windows = windows.astype(np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        files = [str(Path(temporary) / name) for name in ("model.safetensors", "windows.npz", "")]
        weights.save(model.state_dict(), Path(files[0]), arch, depth, width)
        np.savez(files[1], calibration=windows, held_out=windows[:4])
        path = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        command = [str(python), "-m", "kd.edge.mcu", *files]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=path)
    found: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(name: str, given: argparse.Namespace) -> Iterator[str]:
    """The table's rows of one student."""
    student, whole, macs = student_of(name)
    ways = [("fp32", None), ("int8", None), *([("int8", given.cmsis_nn)] if given.cmsis_nn else [])]
    chip = device_table.find(f"m4@{MHZ}MHz", [])
    assert chip is not None
    code = their_c(student, given.onnx2c) if given.onnx2c else b""  # not in a thread: torch's export can't
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        own = {(t, w): pool.submit(ours, student, whole, t, *w) for w in ways for t in given.targets}
        other = {t: pool.submit(theirs, student, t, code) for t in given.targets if code}
        for (target, (precision, library)), future in own.items():
            r = future.result()
            ram = f"{r['arena_bytes']:,} + {r['static_bytes'] - r['arena_bytes']:,} + {r['stack_bytes']:,}"
            ms = f"{chip.ms(r['instructions']):.1f}" if (target, precision) == ("m4", "fp32") else "–"
            by = "kdsweep" if library is None else "kdsweep and CMSIS-NN"
            per_mac = f"{r['instructions_network'] / macs:.2f}"
            yield _row(name, by, precision, r["cpu"], f"{r['flash_bytes_c']:,}", ram, per_mac, ms)
        for target, future in other.items():
            r, cpu, by = future.result(), emulate.TARGETS[target].cpu, "onnx2c, network alone"
            ms = f"{chip.ms(r['instructions_network']):.1f}" if target == "m4" else "–"
            per_mac = f"{r['instructions_network'] / macs:.2f}"
            yield _row(name, by, "fp32", cpu, f"{r['flash']:,}", f"{r['ram']:,}", per_mac, ms)
    if given.mcu_env:
        for precision, r in arenas(student, given.mcu_env / "bin" / "python").items():
            flash, by = f"{r['flash_bytes']:,}, the .tflite alone", "tflite-micro, arena alone"
            yield _row(name, by, precision, "any", flash, f"{r['arena_bytes']:,}", "–", "–")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--students", nargs="+", default=["resnet1d-4x4", "resnet1d-8x16"])
    parser.add_argument("--targets", nargs="+", choices=list(emulate.TARGETS), default=list(emulate.TARGETS))
    parser.add_argument("--onnx2c")
    parser.add_argument("--mcu-env", type=Path)
    parser.add_argument("--cmsis-nn", type=Path)
    given = parser.parse_args()
    emulate.TOLERANCE = 1e-4  # random weights in deep models round further than trained ones
    print(f"{HEAD}\n|{'---|' * 8}", flush=True)
    for name in given.students:
        began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        for row in rows(name, given):
            print(row, flush=True)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        print(
            f"<!-- {name}: {time.monotonic() - began:.0f} s, {cpu:.0f} CPU s of compilers and QEMU -->",
            flush=True,
        )


if __name__ == "__main__":
    main()
