"""A model on a microcontroller's runtime: its .tflite, flash bytes and tensor arena. Runs in an environment
of its own (the extra [mcu] doesn't go with mlflow), which `orchestrator.edge.mcu` makes and calls.

    python -m kd.edge.mcu MODEL.safetensors WINDOWS.npz OUT

WINDOWS.npz: calibration and held-out windows (N, C, S). OUT gets fp32.tflite, int8.tflite and logits.npz
(torch, fp32 and int8, (N, K), of the held-out windows); the last line printed is JSON: bytes, arenas, and how
input and output are quantised.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd.edge.onnxfile import TOLERANCE, LogitsOnly
from kd.models import weights
from kd.training.teacher import outputs


def main(model_file: str, windows_file: str, out: str) -> None:
    """Convert, quantise, record; see the module."""
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    with np.load(windows_file) as archive:
        calibration, held_out = archive["calibration"], archive["held_out"]
    _, channels, samples = calibration.shape
    model = weights.load(model_file, channels, samples)
    for parameter in model.parameters():  # litert-torch 0.10 reads the values of channels-last weights in
        parameter.data = parameter.data.contiguous()  # the wrong order, and says nothing
    files = {name: Path(out) / f"{name}.tflite" for name in ("fp32", "int8")}
    litert_torch.convert(LogitsOnly(model).eval(), (torch.zeros(1, channels, samples),)).export(
        str(files["fp32"])
    )
    quantised = quantizer.Quantizer(str(files["fp32"]), recipe.static_wi8_ai8())
    key, signature = next(iter(Interpreter(str(files["fp32"])).get_signature_list().items()))
    name = signature["inputs"][0]
    ranges = quantised.calibrate({key: [{name: window[None]} for window in calibration]})
    quantised.quantize(ranges).export_model(str(files["int8"]), overwrite=True)
    logits = {name: run_tflite(file, held_out) for name, file in files.items()}
    logits["torch"] = outputs(model, torch.from_numpy(held_out))[0].numpy()
    error = np.abs(logits["fp32"] - logits["torch"]).max() / max(np.abs(logits["torch"]).max(), 1.0)
    if not error <= TOLERANCE:
        raise AssertionError(f"the .tflite answers otherwise than its model: logits differ by {error:.2g}")
    np.savez(Path(out) / "logits.npz", **logits)
    record: dict[str, dict[str, Any]] = {
        name: {"flash_bytes": file.stat().st_size, **arena(file)} for name, file in files.items()
    }
    record["int8"] |= integer_ends(files["int8"])
    print(json.dumps(record))


def integer_ends(file: Path) -> dict[str, Any]:
    """Scale and zero point of the input and the output of a .tflite of integers only.

    AssertionError if a tensor of it is float: some compilers for microcontrollers take no such file.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    floating = [t["name"] for t in interpreter.get_tensor_details() if np.issubdtype(t["dtype"], np.floating)]
    if floating:
        raise AssertionError(f"{file.name} should be of integers only, but has {', '.join(floating[:5])}")
    ends = {"input": interpreter.get_input_details()[0], "output": interpreter.get_output_details()[0]}
    return {
        name: {
            "dtype": str(np.dtype(details["dtype"])),
            "shape": [int(n) for n in details["shape"]],
            "scale": float(details["quantization"][0]),
            "zero": int(details["quantization"][1]),
        }
        for name, details in ends.items()
    }


def run_tflite(file: Path, windows: Any) -> Any:
    """Logits (N, K), dequantised, of windows (N, C, S)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=1)
    interpreter.allocate_tensors()
    put, get = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for window in windows:
        interpreter.set_tensor(put["index"], _quantised(window[None], put))
        interpreter.invoke()
        rows.append(_real(interpreter.get_tensor(get["index"]), get)[0])
    return np.stack(rows)


def arena(file: Path) -> dict[str, int]:
    """What tflite-micro's recording allocator took of the tensor arena for one inference, bytes.

    arena_bytes: all of it; arena_head_bytes: the part with the activations.
    """
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(file))
    details = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros(details["shape"], details["dtype"]), 0)
    interpreter.invoke()
    said = "\n".join(_printed(interpreter.print_allocations))
    found = dict(re.findall(r"Arena allocation (total|head) (\d+) bytes", said))
    if set(found) != {"total", "head"}:
        raise RuntimeError(f"tflite-micro printed no arena:\n{said}")
    return {"arena_bytes": int(found["total"]), "arena_head_bytes": int(found["head"])}


def _printed(speak: Callable[[], None]) -> Iterator[str]:
    """What C++ code writes to stdout and stderr while `speak` runs."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        try:
            for fd in (1, 2):
                os.dup2(file.fileno(), fd)
            speak()
        finally:
            for fd, old in zip((1, 2), kept, strict=True):
                os.dup2(old, fd)
                os.close(old)
        file.seek(0)
        yield from file.read().splitlines()


def _quantised(values: Any, details: Any) -> Any:
    if details["dtype"] == np.float32:
        return values.astype(np.float32)
    scale, zero = details["quantization"]
    return np.clip(np.round(values / scale) + zero, -128, 127).astype(details["dtype"])


def _real(values: Any, details: Any) -> Any:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * scale


if __name__ == "__main__":
    main(*sys.argv[1:])
