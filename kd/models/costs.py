"""What one inference of a model costs, counted on the model itself. Knows torch, no runtime, no training.

`sizes.py` has the same figures in closed form, from the shape alone; tests hold the two against each other.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode

from kd.models.sizes import BYTES

# Operators whose result lies in the memory of their input. A change of layout is one of them: a runtime has
# one layout from end to end. A strided slice is one too: a strided convolution reads what it needs. So
# are the zeros before a causal convolution, which reads none.
VIEWS = {"unsqueeze", "squeeze", "view", "flatten", "unflatten", "slice", "contiguous", "clone", "reshape"}
VIEWS |= {"alias", "pad", "transpose"}
# Operators that may write their result over an input that nothing needs any more, value by value.
IN_PLACE = {"batch_norm", "relu", "add", "square", "pow", "log"}


@dataclass(frozen=True)
class Cost:
    """Exact costs of one window; the words are those of `kd.models.sizes.Size`."""

    params: int
    macs: int
    weight_bytes: int
    weight_bytes_int8: int
    activation_bytes: int


def cost(model: nn.Module, channels: int, samples: int) -> Cost:
    """Every exact cost of a model whose windows are (1, channels, samples)."""
    x = torch.zeros(1, channels, samples)
    params = sum(p.numel() for p in model.parameters())
    held = BYTES * (params + constants(model))
    return Cost(params, macs(model, x), held, int8_bytes(model), activation_bytes(model, x))


def macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-adds of convolutions and linear layers for windows x (1, C, S)."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(x)
    return int(counter.get_total_flops()) // 2


def constants(model: nn.Module) -> int:
    """Values that a file holds and nothing trains: buffers that are no weights of the state dict."""
    kept = model.state_dict()
    return sum(buffer.numel() for name, buffer in model.named_buffers() if name not in kept)


def int8_bytes(model: nn.Module) -> int:
    """Bytes of the weights with convolutions and hidden linear layers in int8.

    Those have one float32 scale per output channel; batch norms, the class layer `fc` and constants stay
    float32.
    """
    total = BYTES * constants(model)
    for name, module in model.named_modules():
        quantised = isinstance(module, nn.Conv2d | nn.Linear) and name != "fc"
        for parameter in module.parameters(recurse=False):
            whole = quantised and parameter.ndim > 1
            total += parameter.numel() + BYTES * len(parameter) if whole else BYTES * parameter.numel()
    return total


def activation_bytes(model: nn.Module, x: Tensor) -> int:
    """Peak of the live tensors, input included, over the exported graph of windows x (1, C, S), float32.

    An operator needs its inputs and its result at once; a tensor is freed after its last use. A lower bound
    of what a runtime takes: no scratch memory, no fragmentation.
    """
    return BYTES * _peak(torch.export.export(model.eval(), (x,)))


def _peak(program: Any) -> int:
    """The most values alive at once while the exported program runs."""
    inputs = set(program.graph_signature.user_inputs)
    nodes = list(program.graph.nodes)
    last_use = {used: i for i, node in enumerate(nodes) for used in node.all_input_nodes}
    buffer_of: dict[Node, int] = {}  # node -> the buffer its values lie in
    size: list[int] = []  # of each buffer, in values
    until: list[int] = []  # the last node that needs it
    peak = 0
    for i, node in enumerate(nodes):
        if node.op == "output" or (node.op == "placeholder" and node.name not in inputs):
            continue  # weights and batch statistics are counted elsewhere
        kind = node.target.name().split("::")[1].split(".")[0] if node.op == "call_function" else ""
        held = [buffer_of[used] for used in node.all_input_nodes if used in buffer_of]
        if kind in VIEWS and not held:
            continue  # of weights
        values = prod(node.meta["val"].shape)
        free = [b for b in held if until[b] == i and size[b] == values]
        if kind in VIEWS:
            buffer = held[0]
        elif kind in IN_PLACE and free:
            buffer = free[0]
        else:
            buffer = len(size)
            size.append(values)
            until.append(i)
        buffer_of[node] = buffer
        until[buffer] = max(until[buffer], last_use.get(node, i))
        peak = max(peak, sum(n for n, end in zip(size, until, strict=True) if end >= i))
    return peak
