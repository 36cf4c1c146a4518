"""Proves on a machine with a GPU what a CPU can't: graphs, equality, the probe. Needs torch and numpy only.

    sh tests/benchmarks/first_gpu_contact.sh                 minutes, then the table of stack_gpu.py, some 20
    sh tests/benchmarks/first_gpu_contact.sh --no-table      without the table
    sh tests/benchmarks/first_gpu_contact.sh --device cpu    the same path, small and without graphs

Prints a line per check, then PASS or FAIL; figures, tolerances and tracebacks go to a JSON file. The
reference is torch on the CPU in float64; what float32 on the CPU differs by stands beside each difference.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kd.errors import out_of_gpu_memory
from kd.models.layers import CONVOLUTIONS, linear
from kd.training import probe, stack
from kd.training.objective import Labels
from kd.training.orders import Orders
from kd.training.recipe import Recipe, Spec
from kd.training.stack import Shape, Stack, Start
from kd.training.strategies import STRATEGIES

SAMPLES, CLASSES, BATCH = 200, 180, 64
# Norms of differences, as a share of each tensor's norm; of weights it is what an epoch changed. A ReLU's
# input at 0 within rounding changes sign in any float32, so gradients may differ by more than rounding in few
# places, and AdamW's first steps make as much of a small gradient as of a large one.
TOLERANCE = {"outputs": 1e-5, "gradients": 3e-2, "losses": 1e-4, "weights": 5e-2}
SAME = (
    1e-3  # losses of three epochs of a captured step against the same uncaptured: cuDNN may add in any order
)
LEFT = 2**27  # bytes that may stay allocated when a stack is gone: cuBLAS keeps a workspace for each stream
MEMORY = 0.95  # the probe's estimate must not be below this share of what a stack allocates
Figures = dict[str, Any]


class Case:
    """Members of one architecture, and everything that they are trained with, for any device and dtype."""

    def __init__(self, arch: tuple[str, int, int], strategies: Sequence[str], windows: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.shape = Shape(*arch, 1, SAMPLES, CLASSES)
        self.x = torch.randn(windows, 1, SAMPLES, generator=generator)
        self.bpm = torch.rand(windows, generator=generator) * 120 + 50
        recipe = Recipe(max_epochs=30, batch_size=BATCH)
        self.specs, self.starts, self._taught = [], [], []
        said = {
            width: (
                torch.randn(windows, CLASSES, generator=generator) * 3,
                torch.randn(windows, width, generator=generator),
            )
            for width in (8, 12)
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            for seed, strategy in enumerate(strategies):
                width = 8 + 4 * (seed % 2)
                model = self.shape.build()
                made = linear(int(model.fc.in_features), width) if strategy == "feature" else None  # type: ignore[union-attr, arg-type]
                self.specs.append(
                    Spec("p", "student", *arch, strategy=strategy, teacher="t", seed=seed, recipe=recipe)
                )
                self.starts.append(Start(model.state_dict(), made.state_dict() if made else {}))
                self._taught.append(None if strategy == "scratch" else width)
        self._said = said

    def stack(self, device: str, dtype: torch.dtype = torch.float32, way: str = "grouped") -> Stack:
        """These members on a device."""
        teachers: dict[int, Any] = {
            width: SimpleNamespace(logits=pair[0].to(device, dtype), features=pair[1].to(device, dtype))
            for width, pair in self._said.items()
        }
        return Stack(
            self.specs,
            self.shape,
            self.starts,
            [teachers.get(width or 0) for width in self._taught],
            self.x.to(device, dtype),
            self.bpm.to(device, dtype),
            Labels(torch.arange(30.0, 30.0 + CLASSES, device=device, dtype=dtype), 1.5),
            dtype=dtype,
            convolution=way,
        )


def found(one: Stack, x: Tensor) -> dict[str, Tensor]:
    """Outputs, a step's gradients, an epoch's losses and its change of the weights, on the CPU in float64."""
    members = range(one.members)

    def weights(m: int) -> Tensor:
        return torch.cat([t.flatten() for t in one.state(m, 1).values() if t.is_floating_point()])

    before = [weights(m) for m in members]
    logits = one.logits(x.to(one.device, one.dtype))
    one._fill((0,) * one.members)
    with mock.patch.object(one.optimiser, "step"), one.precise():
        one._train_step(one._orders[:, 0], one._coefficients[0])
    gradient = one.optimiser.layout
    gradients = [gradient.of_member(one.optimiser.gradient, m) for m in members]
    given = {f"gradients {m} {name}": g.clone() for m in members for name, g in gradients[m].items()}
    one.optimiser.gradient.zero_()
    losses = one.epoch([1] * one.members)
    given |= {"outputs": logits, "losses": losses}
    for m in members:
        given[f"weights {m}"] = weights(m) - before[m]
    return {name: tensor.detach().to("cpu", torch.float64) for name, tensor in given.items()}


def off(mine: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference by kind; of a gradient as a share of at least 3 % of the largest one's norm."""
    worst = dict.fromkeys(TOLERANCE, 0.0)
    largest = max(float(t.norm()) for name, t in reference.items() if name.startswith("gradients"))
    for name, tensor in reference.items():
        kind = name.partition(" ")[0]
        scale = max(float(tensor.norm()), 3e-2 * largest if kind == "gradients" else 0.0)
        difference = float((mine[name] - tensor).norm()) / scale
        worst[kind] = max(worst[kind], difference) if np.isfinite(difference) else np.inf
    return worst


def equality(device: str, case: Case, way: str) -> Figures:
    """Against float64 on the CPU."""
    reference = found(case.stack("cpu", torch.float64, way), case.x)
    here = off(found(case.stack(device, way=way), case.x), reference)
    usual = off(found(case.stack("cpu", way=way), case.x), reference)
    return {"off": here, "cpu_float32_off": usual, "ok": all(here[k] <= TOLERANCE[k] for k in TOLERANCE)}


def capture(device: str, case: Case) -> Figures:
    """Epochs by a replayed graph against the same steps uncaptured; on a CPU only the latter, as an epoch."""
    graph, loop = case.stack(device), case.stack(device)
    worst = 0.0
    for epoch in range(3):
        losses = graph.epoch([epoch] * graph.members)
        loop._fill((epoch,) * loop.members)
        with loop.precise():
            for _ in range(loop.steps):
                loop._step_at_cursor()
        expected = loop._loss / loop.steps
        worst = max(worst, float(((losses - expected) / expected).abs().max()))
    captured = graph._graph is not None
    return {"off": worst, "captured": captured, "ok": worst <= SAME and captured == (device != "cpu")}


def probed(device: str, case: Case, most: int) -> Figures:
    """What the probe chooses, and its estimate of memory against what torch says such a stack took."""
    x, bpm = case.x.to(device), case.bpm.to(device)
    labels = Labels(torch.arange(30.0, 30.0 + CLASSES, device=device), 1.5)
    start = time.perf_counter()
    chosen = probe.best_choice(case.specs[0], case.shape, x, bpm, labels, most)
    figures: Figures = {
        "chose": chosen.__dict__,
        "seconds": time.perf_counter() - start,
        "ok": chosen.rate > 0,
    }
    if device == "cpu":
        return figures
    probe._release(x.device)
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    rate, _ = probe.rate_of(
        case.specs[0], case.shape, x, bpm, labels, chosen.members, convolution=chosen.convolution
    )
    allocated = torch.cuda.max_memory_allocated() - before[0]
    reserved = torch.cuda.max_memory_reserved() - before[1]
    probe._release(x.device)
    left = torch.cuda.memory_allocated() - before[0]
    figures |= {"allocated": allocated, "reserved": reserved, "left": left, "rate_again": rate}
    figures["ok"] &= chosen.taken >= MEMORY * allocated and left <= LEFT
    return figures


def shortage(device: str, case: Case) -> Figures:
    """Want of memory inside a capture is recognised, and a stack can be trained after it."""
    said, recognised = "none", False
    with mock.patch.object(stack, "WARMUP_STEPS", 0):  # so that the capture is the first to allocate
        doomed: Stack | None = case.stack(device)
        probe._release(torch.device(device))  # else what is cached would do
        try:
            if device == "cpu":
                raise RuntimeError("CUDA error: out of memory")  # in place of one
            room = torch.cuda.memory_reserved() + 2**20
            torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
            doomed.epoch([0] * doomed.members)  # type: ignore[union-attr]
        except Exception as error:
            said, recognised = f"{type(error).__name__}: {str(error)[:200]}", out_of_gpu_memory(error)
        finally:
            if device != "cpu":
                torch.cuda.set_per_process_memory_fraction(1.0)
        doomed = None
    probe._release(torch.device(device))
    losses = case.stack(device).epoch([0] * len(case.specs))
    after = bool(torch.isfinite(losses).all())
    return {"error": said, "recognised": recognised, "trains_after": after, "ok": recognised and after}


def orders(device: str, members: int, windows: int) -> Figures:
    """Host seconds that an epoch's order costs: unprepared, and drawn ahead."""
    drawn = windows // BATCH * BATCH
    table = torch.zeros(members, drawn, dtype=torch.int32, device=device)
    made = Orders(range(members), windows, drawn, ahead=True)
    seconds = []
    for epoch in range(3):
        start = time.perf_counter()
        made.to(table, [epoch] * members)
        seconds.append(time.perf_counter() - start)
        made.ahead()
        time.sleep(max(1.5 * seconds[0], 0.01))  # the device trains
    return {
        "unprepared": seconds[0],
        "ahead": min(seconds[1:]),
        "pinned": made._tables[0].is_pinned(),
        "ok": True,
    }


def checks(device: str, tiny: bool) -> dict[str, Callable[[], Figures]]:
    """All of them by name."""
    windows = BATCH if tiny else 20 * BATCH
    sizes = [("resnet1d", 2, 4), ("mlp", 2, 8)] if tiny else [("resnet1d", 4, 6), ("mlp", 2, 16)]
    several = [*STRATEGIES] if tiny else [*STRATEGIES, *STRATEGIES]
    made: dict[str, Callable[[], Figures]] = {}
    for arch in sizes:
        name = "{} {}x{}".format(*arch)
        mixed = Case(arch, several, windows)
        made[f"capture {name} K={len(several)}"] = lambda c=mixed: capture(device, c)  # type: ignore[misc]
        for strategy in STRATEGIES:
            alone = Case(arch, [strategy], windows)
            made[f"equality {name} {strategy} K=1"] = lambda c=alone: equality(device, c, "grouped")  # type: ignore[misc]
        for way in CONVOLUTIONS if arch[0] == "resnet1d" else CONVOLUTIONS[:1]:
            made[f"equality {name} K={len(several)} {way}"] = lambda c=mixed, w=way: equality(device, c, w)  # type: ignore[misc]
        single = Case(arch, ["scratch"], windows)
        made[f"probe {name}"] = lambda c=single: probed(device, c, 2 if tiny else probe.MOST)  # type: ignore[misc]
        made[f"want of memory {name}"] = lambda c=mixed: shortage(device, c)  # type: ignore[misc]
    made["orders"] = lambda: orders(device, *((8, 1000) if tiny else (512, 52_000)))
    return made


def run(made: dict[str, Callable[[], Figures]]) -> dict[str, Figures]:
    """Every check, whatever became of those before it."""
    done: dict[str, Figures] = {}
    for name, check in made.items():
        start = time.perf_counter()
        try:
            figures = check()
        except Exception as error:
            figures = {
                "ok": False,
                "error": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
        figures["wall_s"] = round(time.perf_counter() - start, 2)
        done[name] = figures
        said = {k: v for k, v in figures.items() if k not in ("ok", "traceback", "cpu_float32_off")}
        print("ok  " if figures["ok"] else "FAIL", name, json.dumps(said, default=str), flush=True)
    return done


def table(device: str, out: Path) -> Figures:
    """`stack_gpu.py`'s figures, in a file beside."""
    target = out.with_name("stack_gpu.json")
    command = [sys.executable, str(Path(__file__).with_name("stack_gpu.py")), "--json", "--device", device]
    with target.open("w", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, check=False).returncode
    return {"ok": code == 0, "exit": code, "file": str(target)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--no-table", action="store_true", help="don't run stack_gpu.py")
    parser.add_argument("--out", type=Path, default=Path("first_gpu_contact.json"))
    options = parser.parse_args()
    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        print(f"FAIL torch {torch.__version__} finds no GPU: check nvidia-smi; --device cpu tries it without")
        return 1
    record: Figures = {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "tolerance": {**TOLERANCE, "same": SAME, "memory": MEMORY},
        "checks": run(checks(options.device, tiny=not cuda)),
    }

    def write() -> bool:
        record["pass"] = all(figures["ok"] for figures in record["checks"].values())
        options.out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
        return bool(record["pass"])

    write()  # the table takes long, and may be interrupted
    if cuda and not options.no_table:
        record["checks"]["table"] = table(options.device, options.out)
    passed = write()
    bad = [name for name, figures in record["checks"].items() if not figures["ok"]]
    print(
        f"{'PASS' if passed else 'FAIL'} {record['device']}: {len(record['checks']) - len(bad)} of "
        f"{len(record['checks'])} checks; {options.out}" + "".join(f"; {name}" for name in bad)
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
