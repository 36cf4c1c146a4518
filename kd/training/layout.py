"""Where every tensor of every member of a stack lies in one flat vector.

Parameters, gradients, optimiser state and running statistics of a stack are vectors of one layout, so that a
step's bookkeeping is a dozen operations whatever the number of layers and members.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGN = 16  # numbers: each tensor starts on a cache line


@dataclass(frozen=True)
class Place:
    """One stacked tensor; `members` says whose slices it holds, in order."""

    start: int
    shape: torch.Size
    stride: tuple[int, ...]
    members: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Numbers it holds."""
        return self.shape.numel()


class Layout:
    """Places for named stacked tensors, in the order given; each holds its members along its first axis."""

    def __init__(self, tensors: Mapping[str, tuple[Tensor, Sequence[int]]], members: int) -> None:
        self.members = members
        self.places: dict[str, Place] = {}
        owners: list[Tensor] = []
        self.size = 0
        for name, (tensor, whose) in tensors.items():
            place = Place(self.size, tensor.shape, _stride(tensor), tuple(whose))
            self.places[name] = place
            each, padding = place.numel // len(whose), -place.numel % ALIGN
            owners += [torch.full((each,), member) for member in whose]
            owners.append(torch.full((padding,), whose[0]))
            self.size += place.numel + padding
        self.owner = torch.cat(
            [torch.zeros(0, dtype=torch.long), *owners]
        )  # (size,), the member each number belongs to
        self._gather = _by_member(self.owner, members) if members > 1 else None

    def to(self, device: torch.device) -> "Layout":
        """Its index tensors on a device."""
        self.owner = self.owner.to(device)
        self._gather = None if self._gather is None else self._gather.to(device)
        return self

    def end_of(self, names: set[str]) -> int:
        """Where the leading tensors, those in `names`, end."""
        starts = [place.start for name, place in self.places.items() if name not in names]
        return min(starts, default=self.size)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The stacked tensors, as views."""
        return {
            name: flat.as_strided(place.shape, place.stride, place.start)
            for name, place in self.places.items()
        }

    def of_member(self, flat: Tensor, member: int) -> dict[str, Tensor]:
        """One member's tensors, as views, shaped as in a plain model."""
        found = {}
        for name, place in self.places.items():
            if member in place.members:
                stacked = flat.as_strided(place.shape, place.stride, place.start)
                each = place.shape[0] // len(place.members)
                found[name] = stacked.narrow(0, place.members.index(member) * each, each)
        return found

    def spread(self, values: Tensor) -> Tensor:
        """A value per member, (M,), as one per number: (size,), or (1,) if there is only one member."""
        return values if self.members == 1 else values[self.owner]

    def sums(self, flat: Tensor) -> Tensor:
        """Sum of each member's numbers, (M,)."""
        if self._gather is None:
            return flat.sum().unsqueeze(0)
        return torch.cat([flat, flat.new_zeros(1)])[self._gather].sum(1)


def _stride(tensor: Tensor) -> tuple[int, ...]:
    """Its own strides if they fill a piece of memory member by member, else those of a contiguous copy."""
    own = tensor.is_contiguous() or (
        tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    return tensor.stride() if own else torch.empty(tensor.shape, device="meta").stride()


def _by_member(owner: Tensor, members: int) -> Tensor:
    """Positions of each member's numbers, (M, most), filled up with `len(owner)`, where `sums` has a zero."""
    order = torch.argsort(owner, stable=True)
    counts = torch.bincount(owner, minlength=members)
    table = torch.full((members, int(counts.max())), len(owner))
    row = owner[order]
    column = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[row]
    table[row, column] = order
    return table
