"""Which windows each member of a stack sees in an epoch, and in which order: drawn ahead of time."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class Orders:
    """Each member's own permutation of the windows, decided by its seed and the epoch, whoever is beside it.

    seeds: one per member. windows: there are so many; the first `drawn` of a permutation are used.
    ahead: for a GPU: in pinned memory, and a thread draws the next epoch's while it trains.
    besides: other windows of each member, permuted too, and again when all have been drawn; of the rows
    (steps, batch) that `drawn` and `more` of these make, they are the last columns.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        windows: int,
        drawn: int,
        *,
        ahead: bool,
        steps: int = 1,
        more: int = 0,
        besides: Sequence[Tensor] = (),
    ) -> None:
        self._seeds, self._windows, self._drawn = list(seeds), windows, drawn
        self._steps, self._more, self._besides = steps, more, besides
        pinned = ahead and torch.cuda.is_available()
        # Two, so that one is written while the other is still being copied.
        self._tables = [
            torch.empty(len(seeds), drawn + more, dtype=torch.int32, pin_memory=pinned)
            for _ in range(1 + ahead)
        ]
        self._held = [[-1] * len(seeds) for _ in self._tables]  # the epoch that each row is of
        self._copied: list[torch.cuda.Event | None] = [None] * len(self._tables)
        self._at = 0  # the table of the epoch in training
        self._epochs = (-1,) * len(seeds)
        self._thread = ThreadPoolExecutor(1) if ahead else None
        self._drawing: Future[None] | None = None

    def to(self, device_table: Tensor, epochs: Sequence[int]) -> None:
        """Fill `device_table` (M, ..., drawn in all) for members that have so many epochs behind them."""
        if self._drawing is not None:
            self._drawing.result()
            self._drawing = None
        # Who had as many behind it the last time is over, and will be asked for the same again.
        self._next = [epoch + (epoch != last) for epoch, last in zip(epochs, self._epochs, strict=True)]
        self._epochs = tuple(epochs)
        self._at = (self._at + 1) % len(self._tables)
        self._draw(self._at, self._epochs)  # what wasn't foreseen
        device_table.copy_(self._tables[self._at].view(device_table.shape), non_blocking=True)
        if device_table.is_cuda:
            copied = self._copied[self._at] = torch.cuda.Event()
            copied.record()

    def ahead(self) -> None:
        """Begin to draw the next epoch's, of those that still run, while the device is at work."""
        other = (self._at + 1) % len(self._tables)
        if (copied := self._copied[other]) is not None:
            copied.synchronize()  # not in the thread, which may run while another stack's graph is captured
        if self._thread is not None:
            self._drawing = self._thread.submit(self._draw, other, self._next)

    def _draw(self, at: int, epochs: Sequence[int]) -> None:
        held, table = self._held[at], self._tables[at]
        for m, epoch in enumerate(epochs):
            if held[m] != epoch:
                generator = torch.Generator().manual_seed(self._seeds[m] * 1_000_003 + epoch)
                order = torch.randperm(self._windows, generator=generator, dtype=torch.int32)
                rows = table[m].view(self._steps, -1)
                labelled = self._drawn // self._steps
                rows[:, :labelled] = order[: self._drawn].view(self._steps, labelled)
                if self._more:
                    own = self._besides[m]
                    rounds = -(-self._more // len(own))
                    picked = [torch.randperm(len(own), generator=generator) for _ in range(rounds)]
                    rows[:, labelled:] = own[torch.cat(picked)[: self._more]].view(self._steps, -1)
                held[m] = epoch
