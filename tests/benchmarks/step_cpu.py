"""CPU milliseconds of a training step, alone or against another checkout, interleaved.

    python tests/benchmarks/step_cpu.py                          this checkout
    python tests/benchmarks/step_cpu.py --against ../before      both, and their ratio
    python tests/benchmarks/step_cpu.py --torch                      this checkout's torch against its engine
    python tests/benchmarks/step_cpu.py --torch --archs tcn dscnn    the same, of these architectures alone
    python tests/benchmarks/step_cpu.py --profile                which operations the time goes to

Each round is a fresh process in the environment of a sweep's workers; the least of all rounds counts.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STUDENTS = [("resnet1d", 2, 4), ("resnet1d", 4, 6), ("resnet1d", 4, 16), ("mlp", 2, 8), ("mlp", 2, 64)]
STUDENTS += [("tcn", 4, 11), ("tcn", 4, 16), ("dscnn", 6, 9), ("dscnn", 6, 16)]
STRATEGIES = ("scratch", "soft", "dkd", "feature", "soft_std", "dist")
BATCH, EPOCHS = 64, 5
TORCH = "KDSWEEP_STEP_TORCH"  # set: torch trains, not the compiled engine


def runs(folder: Path, students: Any, strategies: Any) -> dict[str, Any]:
    """Points about to be trained, by name."""
    from kd.signals.prepare import DataConfig, prepare
    from kd.training.recipe import Recipe, Spec
    from kd.training.train import Run

    data = prepare(DataConfig(source="synthetic", options={"subjects": 9, "minutes": 10.0}), folder / "cache")
    recipe = Recipe(max_epochs=1, batch_size=BATCH)
    teacher = Run(Spec("t", "teacher", "resnet1d", 2, 8, recipe=recipe), data, folder / "t")
    teacher.step()
    teacher.finish()
    made = {}
    engine: dict[str, Any] = {}
    if not os.environ.get(TORCH):
        with contextlib.suppress(ImportError):  # a checkout from before there was one
            from kd.training.compiled import library

            engine["engine"] = library()
    for arch, depth, width in students:
        for strategy in strategies:
            spec = Spec(
                "s",
                "student",
                arch,
                depth,
                width,
                strategy=strategy,
                teacher=None if strategy == "scratch" else "t",
                recipe=Recipe(max_epochs=100, batch_size=BATCH),
            )
            name = f"{arch} {depth}x{width} {strategy}"
            made[name] = Run(spec, data, folder / name, teacher_folder=folder / "t", **engine)
    return made


def epoch(run: Any) -> int:
    """Train an epoch without validation; its steps. Also of checkouts from before there were stacks."""
    if hasattr(run, "stack"):
        run.stack.epoch([0])
        return int(run.stack.steps)
    run._train_epoch()
    return int(run.steps_per_epoch)


def measure(archs: list[str]) -> dict[str, float]:
    """CPU ms a step in this process."""
    import torch

    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        students = [student for student in STUDENTS if student[0] in archs]
        for name, run in runs(Path(folder), students, STRATEGIES).items():
            epoch(run)
            fastest = float("inf")
            for _ in range(EPOCHS):
                start = time.process_time()
                steps = epoch(run)
                fastest = min(fastest, time.process_time() - start)
            found[name] = 1000 * fastest / steps
    return found


def profile() -> None:
    """Where the time of a small ResNet's and a small MLP's step goes."""
    import torch

    os.environ[TORCH] = "yes"  # the compiled engine's time is one call's
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, run in runs(Path(folder), [STUDENTS[1], STUDENTS[3]], ["dkd"]).items():
            epoch(run)
            with torch.profiler.profile() as profiler:
                steps = epoch(run)
            print(f"\n{name}, {steps} steps")
            print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


def in_child(root: Path, torch: bool, archs: list[str]) -> dict[str, float]:
    """`measure` with the code of a checkout, by its engine if it has one, or by torch."""
    sys.path.insert(0, str(ROOT))
    from orchestrator.run.ray_cluster import worker_env

    env = {**os.environ, **worker_env(1), "PYTHONPATH": str(root.resolve()), TORCH: "yes" if torch else ""}
    command = [sys.executable, __file__, "--measure", "--archs", *archs]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--torch", action="store_true", help="torch, of this checkout or the other")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--archs", nargs="+", default=sorted({student[0] for student in STUDENTS}))
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.archs)))
        return
    if options.profile:
        profile()
        return
    roots = {"here": (ROOT, False)}
    if options.against or options.torch:
        roots["before"] = (options.against or ROOT, options.torch)
    least: dict[str, dict[str, float]] = {name: {} for name in roots}
    for _ in range(options.rounds):
        for name, root in roots.items():
            for key, value in in_child(*root, options.archs).items():
                least[name][key] = min(value, least[name].get(key, value))
    for key, value in least["here"].items():
        before = least.get("before", {}).get(key)
        ratio = f"  before {before:7.3f}  {before / value:5.2f} times faster" if before else ""
        print(f"{key:26} {value:7.3f} ms{ratio}", file=sys.stderr)
    if options.json:
        print(json.dumps({"ms": least, "cpu": platform.processor(), "load": os.getloadavg()}, indent=1))


if __name__ == "__main__":
    main()
