"""One model, one window at a time, in a process of its own: one thread, one pinned core, a clean start.

`time_model` starts `python -m kd.edge.stopwatch` and reads its JSON. The process imports only what its
runtime needs, so that a model's load time isn't another's import.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARMUP, RUNS = 100, 1000  # a convention of edge benchmarks
MOST_S = 20.0  # a slow model is timed for so long, not for all its runs
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def time_model(model: Path, windows: Path, *, runs: int = RUNS) -> dict[str, Any]:
    """load_ms and latency_ms {min, median, p95, runs} of a model on windows (.npy, (N, C, S)), batch 1.

    model: .onnx (onnxruntime) or .safetensors of `kd.models.weights` (torch, eager).
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "kd.edge.stopwatch", str(model), str(windows), str(runs)],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise RuntimeError(f"timing {model.name} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(infer: Callable[[Any], Any], windows: Any, runs: int) -> dict[str, float]:
    """Milliseconds of `infer` on one window after another, after warming up."""
    n = len(windows)
    for i in range(min(WARMUP, runs)):
        infer(windows[i % n : i % n + 1])
    took: list[float] = []
    end = time.perf_counter() + MOST_S
    while len(took) < runs and time.perf_counter() < end:
        window = windows[len(took) % n : len(took) % n + 1]
        start = time.perf_counter()
        infer(window)
        took.append(1000 * (time.perf_counter() - start))
    took.sort()
    return {
        "min": took[0],
        "median": statistics.median(took),
        "p95": took[min(int(0.95 * len(took)), len(took) - 1)],
        "runs": len(took),
    }


def _onnx(model: str, windows: Any) -> Callable[[Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    _loaded(start)
    return lambda window: session.run(None, {"window": window})


def _torch(model: str, windows: Any) -> Callable[[Any], Any]:
    import torch

    from kd.models import weights

    torch.set_num_threads(1)
    start = time.perf_counter()
    _, channels, samples = windows.shape
    module = weights.load(model, channels, samples)
    _loaded(start)

    def infer(window: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(window))

    return infer


LOAD_MS = [0.0]


def _loaded(start: float) -> None:
    LOAD_MS[0] = 1000 * (time.perf_counter() - start)


def main(model: str, windows_file: str, runs: str) -> None:
    """Measure and print one line of JSON."""
    import numpy as np

    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else None
    if core is not None:
        os.sched_setaffinity(0, {core})
    windows = np.load(windows_file)
    infer = (_onnx if model.endswith(".onnx") else _torch)(model, windows)
    latency = {k: round(v, 5) for k, v in measure(infer, windows, int(runs)).items()}
    print(json.dumps({"load_ms": round(LOAD_MS[0], 3), "latency_ms": latency, "pinned_core": core}))


if __name__ == "__main__":
    main(*sys.argv[1:])
