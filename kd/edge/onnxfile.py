"""A model as one ONNX file, float32 or int8. Needs the extra [edge]; knows torch and ONNX, no sweep.

The input "window" is (batch, channels, samples), the output "logits" (batch, classes); decode by expectation
(`kd.training.metrics`): int8 logits tie, and the first of many equal classes would be the wrong one.
"""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kd.errors import InputError
from kd.training.teacher import as_tensor, outputs

WINDOW, LOGITS = "window", "logits"
MOST_BYTES = 2**29  # of a file that is opened; ours have a few MB
CALIBRATION_WINDOWS = 256  # ours; the ranges of the activations move little beyond
BATCH = 256
# Not batch norm: onnxruntime 1.32 takes its scales for channels of a convolution and writes a broken graph.
QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Slice", "Reshape", "Flatten", "Unsqueeze"]
# A file of each architecture, float32 and int8, answers there to the bit as with 1.32; 1.16 refuses the
# operator set. Tried by hand: raise it, or try again, when the exporter's operator set changes.
OLDEST_RUNTIME, OPSET, IR = "1.17.0", 20, 9
OLDEST_IR = 4  # before, weights had to be inputs, too
TOLERANCE = 1e-4  # of the largest logit, between torch and ONNX: float32 sums in another order
Windows = npt.NDArray[np.float32]


def require_extra() -> tuple[ModuleType, ModuleType]:
    """The modules onnx and onnxruntime; InputError that says how to install them."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise InputError(
            f"{error.name} is missing, and ONNX files need it: pip install -c constraints.txt -e '.[edge]'"
        ) from None
    return onnx, onnxruntime


def write_onnx(model: nn.Module, path: Path, channels: int, samples: int) -> None:
    """Write a model of `kd.models` as a float32 ONNX file, with everything inside and no source paths."""
    onnx, _ = require_extra()
    example = torch.zeros(2, channels, samples)  # two, so that the exporter doesn't take the batch for 1
    with _quiet():
        program = torch.onnx.export(
            LogitsOnly(model).eval(),
            (example,),
            dynamo=True,
            input_names=[WINDOW],
            output_names=[LOGITS],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    _save(onnx, program.model_proto, path)


def write_int8(source: Path, path: Path, windows: Windows) -> None:
    """Quantise a float32 ONNX file to int8: static, QDQ, signed activations and weights, per channel.

    windows: (N, C, S) of training subjects, to calibrate on. Batch norms that no convolution takes in stay
    float32, and so does the class layer: int8 logits tie, and the error of one is an error in BPM. So does
    what a logarithm is taken of: powers span more than 8 bits can tell apart. Unsigned
    activations would saturate on AVX2 without VNNI, signed ones don't.
    """
    onnx, _ = require_extra()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        folded, quantised = Path(folder) / "folded.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(source, folded, skip_symbolic_shape=True)  # folds batch norms into convolutions
        graph = onnx.load(folded).graph
        quantize_static(
            folded,
            quantised,
            _Calibration(windows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=QUANTISED,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*_class_layer(graph), *_under_log(graph)],
        )
        _save(onnx, onnx.load(quantised), path)


def run_onnx(path: Path, windows: Windows) -> Tensor:
    """Logits (N, K) of windows (N, C, S), by onnxruntime on one thread."""
    run = session(path)
    parts = [
        run.run(None, {WINDOW: np.ascontiguousarray(windows[i : i + BATCH])})[0]
        for i in range(0, len(windows), BATCH)
    ]
    return torch.from_numpy(np.concatenate(parts))


def session(path: Path) -> Any:
    """An onnxruntime session on one CPU thread. Raises InputError as `check_whole` does, or if damaged."""
    _, onnxruntime = require_extra()
    check_whole(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for every reason
        raise _unreadable(path, error) from None


def check_whole(path: Path) -> None:
    """Raise InputError for a file that is no ONNX model, is too large, or has weights in other files.

    A model may name any path to read its weights from; nothing but the file itself is opened here.
    """
    onnx, _ = require_extra()
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: no file of at most {MOST_BYTES >> 20} MiB: give another model")
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's parsers raise each their own
        raise _unreadable(path, error) from None
    # Tensors also stand in graphs inside nodes, in functions and in lists: whichever messages there are.
    todo = [proto]
    while todo:
        message = todo.pop()
        if isinstance(message, onnx.TensorProto):
            if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
                raise InputError(f"{path}: has weights in other files: save it with all weights inside")
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                todo.extend(value if isinstance(value, Sequence) or hasattr(value, "add") else [value])


def _unreadable(path: Path, error: Exception) -> InputError:
    why = " ".join(str(error).split())[:200]
    return InputError(f"{path}: not a readable ONNX model ({why}): export it again")


def verify(path: Path, model: nn.Module, windows: Windows) -> float:
    """Largest difference between the file's logits and torch's, relative to the largest logit.

    AssertionError when it is more than rounding: exporters have written wrong graphs before.
    """
    wanted = outputs(model, as_tensor(windows))[0]
    got = run_onnx(path, windows)
    error = float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
    if not error <= TOLERANCE:
        raise AssertionError(
            f"{path.name} answers otherwise than the model it was made of: logits differ by {error:.2g}"
        )
    return error


class LogitsOnly(nn.Module):
    """A model of `kd.models.architectures` without its features."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, window: Tensor) -> Tensor:
        logits: Tensor = self.model(window)[0]
        return logits


class _Calibration:
    """Hands the quantiser its windows, a batch at a time (onnxruntime's CalibrationDataReader)."""

    def __init__(self, windows: Windows) -> None:
        self._batches = iter([windows[i : i + BATCH] for i in range(0, len(windows), BATCH)])

    def get_next(self) -> dict[str, Windows] | None:
        batch = next(self._batches, None)
        return None if batch is None else {WINDOW: np.ascontiguousarray(batch)}


def _class_layer(graph: Any) -> list[str]:
    """Names of the nodes that make the logits, the last first."""
    maker = {output: node for node in graph.node for output in node.output}
    found = [maker[LOGITS]]
    while found[-1].op_type not in ("Gemm", "MatMul"):  # a bias of its own, perhaps
        found.append(next(maker[i] for i in found[-1].input if i in maker))
    return [str(node.name) for node in found]


def _under_log(graph: Any) -> list[str]:
    """Names of the nodes that lead to a logarithm, and of what stands beside it."""
    maker = {output: node for node in graph.node for output in node.output}
    todo, found = [node for node in graph.node if node.op_type == "Log"], []
    while todo:
        node = todo.pop()
        found.append(str(node.name))
        todo += [maker[i] for i in node.input if i in maker]
    return found


def _save(onnx: ModuleType, proto: Any, path: Path) -> None:
    """One file with its weights inside, without the exporter's notes: those hold this machine's paths."""
    del proto.metadata_props[:]
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
        part.doc_string = ""
    proto.doc_string = ""
    _shorten_names(graph)
    _declare_least(onnx, proto)
    onnx.checker.check_model(proto)
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in graph.initializer):
        raise AssertionError("the exporter left weights outside the file")
    path.write_bytes(proto.SerializeToString())


def _declare_least(onnx: ModuleType, proto: Any) -> None:
    """Import only the operator sets that nodes are of, and state the oldest IR version that holds them.

    A runtime refuses a file that declares more than it knows, used or not.
    """
    used = {node.domain or "" for node in proto.graph.node}
    kept = [opset for opset in proto.opset_import if (opset.domain.removeprefix("ai.onnx") or "") in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    proto.ir_version = max(onnx.helper.find_min_ir_version_for(proto.opset_import), OLDEST_IR)


def _shorten_names(graph: Any) -> None:
    """Name inner values t0, t1, ... and nodes n0, n1, ...: of a small model, names are half the file."""
    kept = {"": "", **{value.name: value.name for value in (*graph.input, *graph.output)}}

    def short(name: str) -> str:
        return kept.setdefault(name, f"t{len(kept)}")

    for i, node in enumerate(graph.node):
        node.name = f"n{i}"
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    del graph.value_info[:]  # shapes of inner values: runtimes infer them


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes on torchvision, opsets and shapes, which nobody can act on."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            open(os.devnull, "w", encoding="utf-8") as null,
            contextlib.redirect_stdout(null),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
