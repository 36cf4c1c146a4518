"""What computes a teacher's outputs: an ONNX file, a port, or a model of `kd.models`. One call, one batch.

`open_runner` gives a function from windows x (N, C, S) to outputs (N, D) and features (N, F) or None, both
float32. A port is the user's own code and runs as such; ONNX files and weights run none.
"""

import importlib.util
import pickle
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.shipped import grid
from kd.teachers.source import PRECISIONS, Source

BATCH = 64  # windows of a forward pass: always cut alike, so that a killed pass goes on with the same bits
Array = npt.NDArray[Any]
Outputs = tuple[Array, Array | None]
Runner = Callable[[Array], Outputs]


def open_runner(source: Source, device: str = "cpu") -> Runner:
    """The function of a source. Raises InputError for files that aren't what is declared."""
    return RUNNERS[source.kind](source, device)


def run(runner: Runner, source: Source, x: Array) -> Outputs:
    """Outputs (N, D) and features of windows x (N, C, S), in batches; their shapes and numbers checked."""
    parts = [
        _checked(source, runner(x[i : i + BATCH]), len(x[i : i + BATCH])) for i in range(0, len(x), BATCH)
    ]
    widths = {out.shape[1] for out, _ in parts}
    if len(widths) > 1:
        raise _changing(source, widths)
    features = None if parts[0][1] is None else np.concatenate([f for _, f in parts if f is not None])
    return np.concatenate([out for out, _ in parts]), features


def _changing(source: Source, widths: set[int]) -> InputError:
    return InputError(
        f"teacher {source.name}: its outputs change their width, {' and '.join(map(str, sorted(widths)))}: "
        "every window must give as many numbers; pool them over time"
    )


def check_width_is(source: Source, width: int, known: int) -> None:
    """Raise InputError if outputs are not as wide as those before."""
    if width != known:
        raise _changing(source, {width, known})


def _checked(source: Source, outputs: Outputs, n: int) -> Outputs:
    out, features = outputs
    if out.ndim == 1:
        out = out[:, None]
    for what, array in (("outputs", out), ("features", features)):
        if array is None:
            continue
        if array.ndim != 2 or len(array) != n:
            raise InputError(
                f"teacher {source.name}: {n} windows give {what} of shape {array.shape}: it must be "
                f"({n}, numbers of a window)"
            )
        if bad := int((~np.isfinite(array)).any(axis=1).sum()):
            raise InputError(
                f"teacher {source.name}: {what} of {bad} of {n} windows are not finite: check its "
                "weights and its input"
            )
    return out.astype(np.float32, copy=False), None if features is None else features.astype(np.float32)


def _onnx(source: Source, device: str) -> Runner:
    from kd.edge.onnxfile import session

    run = session(Path(source.path))
    (given, *more), outputs = run.get_inputs(), [output.name for output in run.get_outputs()]
    who = f"teacher {source.name}: {source.path}"
    if more:
        raise InputError(f"{who} has {1 + len(more)} inputs: it must have one, (batch, channels, samples)")
    shape, samples = list(given.shape), grid.length(source.window_s, source.fs)
    if len(shape) not in (2, 3):
        raise InputError(f"{who} takes {len(shape)} axes: it must take (batch, channels, samples)")
    if isinstance(shape[-1], int) and shape[-1] != samples:
        raise InputError(
            f"{who} takes {shape[-1]} samples, but input says {source.window_s:g} s at {source.fs:g} Hz, "
            f"which are {samples}: correct input.fs or input.window_s"
        )
    if len(shape) == 3 and isinstance(shape[1], int) and shape[1] != 1 and source.channels != "all":
        raise InputError(
            f"{who} takes {shape[1]} channels, and input.channels: {source.channels} gives 1: use all"
        )
    if source.features is not None and source.features not in outputs:
        raise InputError(f"{who} has no output {source.features!r}: it has {', '.join(outputs)}")
    others = [name for name in outputs if name != source.features]
    if not others:
        raise InputError(f"{who} has no output but {source.features!r}: it needs one for heart rates, too")
    wanted = ["logits" if "logits" in others else others[0]]
    wanted += [source.features] if source.features is not None else []
    fixed = shape[0] if isinstance(shape[0], int) else None

    def forward(x: Array) -> Outputs:
        x = x[:, 0] if len(shape) == 2 else x
        if len(shape) == 3 and isinstance(shape[1], int) and x.shape[1] != shape[1]:
            raise InputError(f"{who} takes {shape[1]} channels, the recordings have {x.shape[1]}")
        parts = []
        for i in range(0, len(x), fixed or len(x)):
            part = np.ascontiguousarray(x[i : i + (fixed or len(x))])
            short = (fixed or len(part)) - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], short, axis=0)]) if short else part
            try:
                found = run.run(wanted, {given.name: filled})
            except Exception as error:  # onnxruntime has a class of its own for every reason
                why = " ".join(str(error).split())[:300]
                raise InputError(f"{who} can't run on windows {x.shape[1:]}: {why}") from None
            parts.append([array[: len(part)] for array in found])
        out, *features = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return out, features[0] if features else None

    return forward


def _port(source: Source, device: str) -> Runner:
    import torch

    port, module = load_port(source)
    low = source.precision != PRECISIONS[0]
    if isinstance(module, torch.nn.Module):
        module.to(device).eval()

    def forward(x: Array) -> Outputs:
        with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=low):
            out = _calling(source, "outputs", port.outputs, torch.from_numpy(x).to(device))
        if not isinstance(out, torch.Tensor):
            raise InputError(
                f"teacher {source.name}: outputs gives a {type(out).__name__}: it must give a tensor"
            )
        array = out.float().cpu().numpy()
        return array, None

    return forward


def load_port(source: Source) -> tuple[Any, Any]:
    """An instance of a port's class, and the module that its `load` gave. Runs the port's code.

    Raises InputError with the port's own line for whatever it raises.
    """
    path = Path(source.path)
    name = f"kdsweep_port_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules[name] = code  # dataclasses of a port look themselves up there
    _calling(source, "its file", spec.loader.exec_module, code)
    port = _calling(source, "its class", getattr(code, str(source.symbol)))
    for method in ("load", "outputs"):
        if not callable(getattr(port, method, None)):
            raise InputError(
                f"{path}: class {source.symbol} has no method {method}: a port has load and outputs"
            )
    return port, _calling(source, "load", port.load, weights_of(source))


def weights_of(source: Source) -> Mapping[str, Any] | None:
    """The state dict in a port's weights, from safetensors or torch's own, never by unpickling code."""
    if source.weights is None:
        return None
    import torch
    from safetensors.torch import load_file

    path = Path(source.weights)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:  # safetensors, zip and pickle have each their own
        why = str(error).strip().partition("\n")[0][:200]
        if isinstance(error, pickle.UnpicklingError):  # torch would have it opened all the same
            why = "a pickle of something else"
        raise InputError(
            f"teacher {source.name}: {path}: not safetensors, nor a file of tensors alone ({why}): a pickle "
            "can run any code and is not opened; save the state dict as safetensors"
        ) from None


def _calling(source: Source, what: str, call: Callable[..., Any], *args: Any) -> Any:
    """The user's code, its error as InputError with the place in the port."""
    try:
        return call(*args)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == source.path]
        at = f" in line {frames[-1].lineno}" if frames else ""
        raise InputError(
            f"teacher {source.name}: {source.path}: {what} raised {type(error).__name__}{at}: {error}"
        ) from error


def _model(source: Source, device: str) -> Runner:
    import torch

    from kd.models import weights

    channels = 1
    state = weights.read(Path(source.path))
    channels = next((t.shape[1] for t in state.values() if t.ndim == 3), 1)  # of the first convolution
    model = weights.load(Path(source.path), int(channels), grid.length(source.window_s, source.fs)).to(device)

    def forward(x: Array) -> Outputs:
        with torch.inference_mode():
            logits, features = model(torch.from_numpy(x).to(device))
        return logits.cpu().numpy(), features.cpu().numpy()

    return forward


RUNNERS: dict[str, Callable[[Source, str], Runner]] = {"onnx": _onnx, "port": _port, "model": _model}
