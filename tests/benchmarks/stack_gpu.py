"""Students per hour on one GPU: one at a time, in several processes, as a stack. Needs torch and numpy only.

    python tests/benchmarks/stack_gpu.py                     on a GPU: the whole table, some 20 minutes
    python tests/benchmarks/stack_gpu.py --quick             on anything: small, to see that it runs

Windows are random numbers: speed doesn't depend on them. A student is EPOCHS epochs of WINDOWS windows.
Prints a table and, with --json, the figures with versions and device.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kd.errors import out_of_gpu_memory
from kd.models import resnet1d, sizes
from kd.models.layers import CONVOLUTIONS
from kd.training import metrics
from kd.training.losses import cross_entropy
from kd.training.objective import Labels
from kd.training.probe import best_choice
from kd.training.recipe import Recipe, Spec
from kd.training.stack import PRECISIONS, Shape, Stack, Start

SAMPLES, CLASSES, BATCH, WINDOWS, EPOCHS = 200, 180, 128, 20_000, 30
# Nearest to 2k, 10k, 50k and 200k parameters.
STUDENTS = [
    ("resnet1d", 2, 6),
    ("resnet1d", 4, 14),
    ("resnet1d", 4, 36),
    ("resnet1d", 8, 32),
    ("mlp", 1, 6),
    ("mlp", 2, 24),
    ("mlp", 2, 104),
    ("mlp", 2, 300),
]
QUICK = [("resnet1d", 2, 6), ("mlp", 2, 24)]
# Peak of the card: bytes/s from memory, FLOP/s in float32 and in TF32 (NVIDIA's data sheets, dense).
ROOF = {
    "H100": (3.35e12, 67e12, 495e12),
    "H200": (4.8e12, 67e12, 495e12),
    "A100": (1.555e12, 19.5e12, 156e12),
}


class Windows:
    """Random training windows on a device."""

    def __init__(self, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(WINDOWS, 1, SAMPLES, generator=generator).to(device)
        self.bpm = (torch.rand(WINDOWS, generator=generator) * 120 + 50).to(device)
        self.labels = Labels(metrics.class_centres(30, CLASSES).to(device), 1.5)
        self.device = torch.device(device)

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def spec_of(student: tuple[str, int, int], seed: int, steps: int) -> Spec:
    """A student trained from scratch for `steps` steps an epoch."""
    arch, depth, width = student
    recipe = Recipe(max_epochs=EPOCHS, batch_size=BATCH, windows_per_epoch=steps * BATCH)
    return Spec(id="s", role="student", arch=arch, depth=depth, width=width, seed=seed, recipe=recipe)


def stack_of(
    student: tuple[str, int, int], members: int, windows: Windows, steps: int, precision: str, way: str
) -> Stack:
    """A stack of `members` such students."""
    shape = Shape(*student, 1, SAMPLES, CLASSES)
    specs = [spec_of(student, seed, steps) for seed in range(members)]
    starts = [Start(shape.build().state_dict(), {}) for _ in specs]
    return Stack(
        specs,
        shape,
        starts,
        [None] * members,
        windows.x,
        windows.bpm,
        windows.labels,
        precision=precision,
        convolution=way,
    )


def eager(student: tuple[str, int, int], windows: Windows, steps: int) -> Callable[[], None]:
    """An epoch as commonly written: a module, AdamW, loss.item() at each step; data already on the device."""
    model = Shape(*student, 1, SAMPLES, CLASSES).build().to(windows.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps * EPOCHS)

    def epoch() -> None:
        model.train()
        order = torch.randperm(WINDOWS).to(windows.device)
        total = 0.0
        for i in range(steps):
            index = order[i * BATCH : (i + 1) * BATCH]
            logits, _ = model(windows.x[index])
            loss = cross_entropy(logits, windows.labels.target(windows.bpm[index])).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()

    return epoch


def time_of(epoch: Callable[[], object], windows: Windows, repeats: int) -> float:
    """Seconds of the fastest of `repeats` epochs, after one that doesn't count."""
    epoch()
    fastest = float("inf")
    for _ in range(repeats):
        windows.wait()
        start = time.perf_counter()
        epoch()
        windows.wait()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def students_per_hour(seconds_per_step: float, members: int = 1) -> float:
    """Whole trainings an hour."""
    return 3600 * members / (seconds_per_step * EPOCHS * (WINDOWS // BATCH))


def stack_rate(
    student: tuple[str, int, int], members: int, windows: Windows, steps: int, precision: str, repeats: int
) -> float:
    """Students an hour of a stack, with whichever way to compute its convolutions is faster."""
    rates = []
    for way in CONVOLUTIONS if members > 1 and student[0] == "resnet1d" else CONVOLUTIONS[:1]:
        stack = stack_of(student, members, windows, steps, precision, way)
        seconds = time_of(lambda stack=stack: stack.epoch([0] * members), windows, repeats)  # type: ignore[misc]
        rates.append(students_per_hour(seconds / steps, members))
    return max(rates)


def processes_rate(
    student: tuple[str, int, int], processes: int, device: str, steps: int, repeats: int
) -> float:
    """Students an hour of several processes that share the device, each training eagerly."""
    command = [sys.executable, __file__, "--device", device, "--steps", str(steps), "--repeats", str(repeats)]
    command += ["--worker", *map(str, student)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a worker did not start")
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        seconds = [float(process.communicate(timeout=600)[0]) for process in running]
    finally:
        for process in running:
            process.kill()
    return sum(students_per_hour(s / steps) for s in seconds)


def worker(student: tuple[str, int, int], windows: Windows, steps: int, repeats: int) -> None:
    """One of several processes: ready, wait for the others, train, say how long an epoch took on average."""
    epoch = eager(student, windows, steps)
    epoch()
    windows.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    for _ in range(repeats):
        epoch()
    windows.wait()
    print((time.perf_counter() - start) / repeats, flush=True)


def floor_seconds(student: tuple[str, int, int], roof: tuple[float, float, float]) -> tuple[float, float]:
    """Least seconds of one member's step on a card: by memory, by arithmetic (float32).

    Bytes: every layer's output is written once and read once forward, and its gradient likewise, in float32;
    batch norm reads and writes its map once more each way. Arithmetic: 2 FLOP a MAC, three times (forward,
    gradient of the input, gradient of the weights).
    """
    arch, depth, width = student
    size = sizes.size(arch, depth, width, samples=SAMPLES)
    if arch == "mlp":
        values = SAMPLES + depth * width * 2 + CLASSES
    else:
        n, length, values = resnet1d.filters(depth, width), SAMPLES, width * SAMPLES
        for i in range(depth):
            out = -(-length // resnet1d.stride(i))
            values += n[i] * length + n[i + 1] * out * 3  # two batch norms, two convolutions
            values += n[i + 1] * out if resnet1d.stride(i) != 1 or n[i] != n[i + 1] else 0
            length = out
        values += n[-1] * length + CLASSES
    moved = 4 * (4 * values * BATCH + 16 * size.params)  # AdamW reads and writes 4 vectors twice
    return moved / roof[0], 6 * size.macs * BATCH / roof[1]


def check(windows: Windows, student: tuple[str, int, int], members: int) -> float:
    """Largest relative difference of the losses between a stack and its members alone, after an epoch."""
    steps = 3
    stack = stack_of(student, members, windows, steps, "float32", "grouped")
    shape = stack.shape
    starts = [Start(stack.state(m, 0), {}) for m in range(members)]
    together = stack.epoch([0] * members).cpu()
    alone = []
    for m in range(members):
        one = [spec_of(student, m, steps)]
        single = Stack(one, shape, [starts[m]], [None], windows.x, windows.bpm, windows.labels)
        alone.append(single.epoch([0]).cpu())
    return float(((together - torch.cat(alone)) / together).abs().max())


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All of it."""
    windows = Windows(options.device)
    cuda = windows.device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    roof = next((r for key, r in ROOF.items() if key in name), None)
    rows: list[dict[str, object]] = []
    for student in QUICK if options.quick else STUDENTS:
        size = sizes.size(*student, samples=SAMPLES)
        row: dict[str, object] = {"student": "{} {}x{}".format(*student), "params": size.params}
        row["stack_differs_by"] = check(windows, student, 3)
        row["eager"] = students_per_hour(
            time_of(eager(student, windows, options.steps), windows, options.repeats) / options.steps
        )
        rate = {
            p: stack_rate(student, 1, windows, options.steps, p, options.repeats) for p in options.precision
        }
        row["graph_k1"] = rate[options.precision[0]]
        row["processes"] = {
            str(p): processes_rate(student, p, options.device, options.steps, options.repeats)
            for p in options.processes
        }
        curves: dict[str, dict[str, float]] = {}
        for precision in options.precision:
            curve = curves[precision] = {"1": rate[precision]}
            for members in options.members:
                try:
                    curve[str(members)] = stack_rate(
                        student, members, windows, options.steps, precision, options.repeats
                    )
                except RuntimeError as error:
                    if not out_of_gpu_memory(error):
                        raise
                    break
        row["curve"] = curves
        best = max(curves[options.precision[0]].values())
        row["stack"] = best
        row["stack_over_eager"] = best / float(row["eager"])  # type: ignore[arg-type]
        row["stack_over_processes"] = best / max(row["processes"].values(), default=np.nan)  # type: ignore[attr-defined]
        spec = spec_of(student, 0, options.steps)
        shape = Shape(*student, 1, SAMPLES, CLASSES)
        chose = best_choice(spec, shape, windows.x, windows.bpm, windows.labels, max(options.members))
        row["probe_chose"] = f"{chose.members} {chose.convolution}"
        if roof:
            by_memory, by_flops = floor_seconds(student, roof)
            row["roofline"] = best / students_per_hour(max(by_memory, by_flops))
            row["bound_by"] = "memory" if by_memory > by_flops else "arithmetic"
        rows.append(row)
        print_row(row)
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "load": os.getloadavg(),
        "steps": options.steps,
        "students": rows,
    }


def print_row(row: dict[str, object]) -> None:
    """One student as a line."""
    processes = max(row["processes"].values(), default=float("nan"))  # type: ignore[attr-defined]
    roof = f"{100 * float(row['roofline']):.0f} % of {row['bound_by']}" if "roofline" in row else "-"  # type: ignore[arg-type]
    print(
        f"{row['student']:>14} {row['params']:>8,} params  eager {row['eager']:>9.1f}/h  "
        f"graph {row['graph_k1']:>9.1f}/h  processes {processes:>9.1f}/h  stack {row['stack']:>10.1f}/h  "
        f"{row['stack_over_eager']:>6.1f}x eager {row['stack_over_processes']:>6.1f}x processes  "
        f"roofline {roof}  differs by {row['stack_differs_by']:.1e}  probe: K={row['probe_chose']}",
        file=sys.stderr,
        flush=True,
    )
    for precision, curve in row["curve"].items():  # type: ignore[attr-defined]
        print(
            f"{'':14} {precision}: " + ", ".join(f"K={k} {v:.1f}/h" for k, v in curve.items()),
            file=sys.stderr,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="two students, K up to 4")
    parser.add_argument("--json", action="store_true", help="figures on stdout")
    parser.add_argument("--members", type=int, nargs="+", help="K of the curve")
    parser.add_argument("--processes", type=int, nargs="*", help="numbers of processes that share the device")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS)
    parser.add_argument("--steps", type=int, help="steps of a timed epoch")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    small = options.quick or options.device == "cpu"
    options.members = options.members or ([2, 4] if small else [4, 16, 64, 128, 256, 512])
    options.processes = ([2] if small else [2, 4, 8, 16]) if options.processes is None else options.processes
    options.precision = options.precision or (["float32"] if small else list(PRECISIONS))
    options.steps = options.steps or (5 if small else 50)
    options.repeats = options.repeats or (2 if small else 3)
    if options.worker:
        arch, depth, width = options.worker
        worker((arch, int(depth), int(width)), Windows(options.device), options.steps, options.repeats)
        return
    figures = measure(options)
    if options.json:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
