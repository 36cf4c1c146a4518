"""Every student the swept architectures can build, with exact sizes: not only those of the grid."""

from collections.abc import Iterable
from typing import Any

from kd.models.sizes import size
from orchestrator.laws.refuse import REFUSE_FACTOR

SIZES = ("params", "macs", "weight_bytes", "weight_bytes_int8", "activation_bytes", "layers")
COLUMNS = ("depth", "width", *SIZES)
BEYOND = 1.5 * REFUSE_FACTOR  # a little more than may be answered, to notice budgets that extrapolate too far
MOST_CHANNELS = 64


def enumerate_configurations(
    arch: str, depths: Iterable[int], smallest: float, largest: float, **shape: int
) -> dict[str, list[int]]:
    """All widths for each depth with params within reach of [smallest, largest]; sorted columns.

    shape: channels, samples, classes, as `kd.models.sizes.size` takes them.
    """
    rows = []
    for depth in depths:
        width = _first_width(arch, depth, smallest / REFUSE_FACTOR, shape)
        while (s := size(arch, depth, width, **shape)).params <= largest * BEYOND:
            rows.append((depth, width, *(getattr(s, name) for name in SIZES)))
            width += 1
    rows.sort(key=lambda row: (row[2], row[3], row[0], row[1]))
    return {name: [row[j] for row in rows] for j, name in enumerate(COLUMNS)}


def _first_width(arch: str, depth: int, params: float, shape: dict[str, int]) -> int:
    """The smallest width with at least so many parameters."""
    high = 1
    while size(arch, depth, high, **shape).params < params:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size(arch, depth, middle, **shape).params >= params else (middle, high)
    return high


def with_channels(shape: dict[str, int], runs: list[dict[str, Any]]) -> dict[str, int]:
    """`shape` with the channels that explain the recorded parameter counts; unchanged if none do."""
    shapes = {(r["arch"], r["depth"], r["width"]): r["params"] for r in runs}
    for channels in range(1, MOST_CHANNELS + 1):
        wider = shape | {"channels": channels}
        if all(size(*key, **wider).params == params for key, params in shapes.items()):
            return wider
    return shape
