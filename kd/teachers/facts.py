"""What is known of a brought teacher before its pass: size, MACs, how long a window takes. Also its checks.

Measured on a few windows of the first recording and kept beside the windows, so that it is done once.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd.errors import InputError
from kd.files import read_json, write_json
from kd.signals.prepare import DataConfig
from kd.signals.whole import Whole, wholes
from kd.teachers.decode import check_width
from kd.teachers.ready import name_of, read_outputs
from kd.teachers.runners import BATCH, load_port, open_runner, run
from kd.teachers.source import Source
from kd.teachers.windows import check_input, each_played, windows

FOLDER = "teachers"  # in the cache


@dataclass(frozen=True)
class Facts:
    """params, macs of a window (0: unknown); seconds of a window on one core (0: nothing is computed).

    width: numbers it puts out for a window. windows: all there are, those without labels too.
    """

    params: int
    macs: int
    seconds: float
    width: int
    windows: int

    @property
    def pass_s(self) -> float:
        """Seconds of the whole pass, on one core."""
        return self.seconds * self.windows


def facts(source: Source, config: DataConfig, cache_dir: Path) -> Facts:
    """What is known of a source; runs it on a few windows if nobody has. InputError as of any pass.

    Of a mean: of its members that are not trained in the sweep.
    """
    if source.kind == "mean":
        known = [facts(one, config, cache_dir) for one in source.of if one.kind != "trained"]
        params = [one.params for one in known]
        macs = [one.macs for one in known]
        return Facts(
            sum(params) if all(params) else 0,
            sum(macs) if all(macs) else 0,
            sum(one.seconds for one in known),
            config.classes,
            sum(map(len, wholes(config, cache_dir))),
        )
    known_windows = wholes(config, cache_dir)
    said = json.dumps([source.raw_key(name_of(known_windows)), source.params, source.macs])
    path = Path(cache_dir) / FOLDER / f"facts-{hashlib.sha256(said.encode()).hexdigest()[:16]}.json"
    if path.exists():
        found = Facts(**read_json(path, "delete it"))
    else:
        found = _found(source, known_windows)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(found))
    if source.output != "embedding":
        check_width(source, found.width, config.min_bpm, config.classes)
    return found


def _found(source: Source, known: Sequence[Whole]) -> Facts:
    config, total = known[0].config, sum(map(len, known))
    if source.kind == "outputs":
        out, _ = read_outputs(source, known)
        return Facts(source.params, source.macs, 0.0, out.shape[1], total)
    check_input(source)
    played = next((p for p in each_played(known[0]) if len(p.starts_s)), None)
    if played is None:
        raise InputError("no recording has a window: see `kdsweep data check`")
    x = windows(source, played.recording, played.starts_s[: BATCH // 4], config.preprocess)
    runner = open_runner(source)
    run(runner, source, x[:1])  # the first pass of all allocates
    started = time.perf_counter()
    out, _ = run(runner, source, x)
    seconds = (time.perf_counter() - started) / len(x)
    params, macs = SIZES[source.kind](source, x[:1])
    return Facts(source.params or params, source.macs or macs, seconds, out.shape[1], total)


def _onnx_size(source: Source, x: Any) -> tuple[int, int]:
    """Weights in the file that are floating-point; MACs of convolutions and matrix products, 0 if unknown."""
    import onnx

    model = onnx.load(source.path)
    tensors = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    real = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    params = sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in real)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, x.shape if len(dims) == 3 else x[:, 0].shape, strict=False):
        dim.ClearField("dim_param")
        dim.dim_value = size
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # of its own; the count is only shown
        return params, 0
    shapes = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output, *graph.input)
    } | tensors
    macs = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            if node.op_type in ("LSTM", "GRU", "RNN", "Loop", "Scan", "If", "Attention", "ConvTranspose"):
                return params, 0
            continue
        out, given = shapes.get(node.output[0], ()), shapes.get(node.input[1], ())
        if not out or not given or 0 in out or 0 in given:
            return params, 0
        if node.op_type == "Conv":
            each = int(np.prod(given[1:]))
        elif node.op_type == "Gemm":
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            each = given[1 if turned else 0]
        else:
            each = given[-2] if len(given) > 1 else given[0]
        macs += int(np.prod(out)) * each
    return params, macs


def _port_size(source: Source, x: Any) -> tuple[int, int]:
    """Parameters of a port's module, and half the FLOPs that torch counts of a window."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    port, module = load_port(source)
    if not isinstance(module, torch.nn.Module):
        return 0, 0
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        port.outputs(torch.from_numpy(x))
    return sum(p.numel() for p in module.parameters()), int(counter.get_total_flops()) // 2


def _model_size(source: Source, x: Any) -> tuple[int, int]:
    return source.params, source.macs


SIZES = {"onnx": _onnx_size, "port": _port_size, "model": _model_size}
