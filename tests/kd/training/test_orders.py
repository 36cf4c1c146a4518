"""The order of each member's windows: its own permutation, drawn once, ahead of time where that pays."""

import pytest
import torch

from kd.training.orders import Orders

SEEDS, WINDOWS = (3, 0, 3, 11), 103
randperm = torch.randperm


def permutation(seed: int, epoch: int, drawn: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return randperm(WINDOWS, generator=generator)[:drawn]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("drawn", [WINDOWS, 96])
def test_each_member_sees_its_own_permutation_whoever_has_ended(ahead: bool, drawn: int, monkeypatch) -> None:
    """Members that ended keep their number of epochs; what they would see is not drawn again and again."""
    draws: list[object] = []
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: draws.append(a) or randperm(*a, **k))
    orders = Orders(SEEDS, WINDOWS, drawn, ahead=ahead)
    table = torch.zeros(len(SEEDS), 1, drawn, dtype=torch.int32)
    ends = (20, 2, 20, 5)
    for epoch in range(12):
        now = [min(epoch, end) for end in ends]
        orders.to(table, now)
        orders.ahead()
        seen = table.clone()
        expected = torch.stack([permutation(seed, e, drawn) for seed, e in zip(SEEDS, now, strict=True)])
        assert torch.equal(seen[:, 0].long(), expected)
    if orders._drawing is not None:
        orders._drawing.result(timeout=10)  # else it counts as the next test's
    running = 2 * 12 + 3 + 6  # an epoch of a member each
    assert running <= len(draws) <= running + ahead * (2 + 2 * 2)  # one epoch and what follows an end


def test_the_next_epoch_is_drawn_while_this_one_trains(monkeypatch) -> None:
    drawn_in_epoch: list[object] = []
    orders = Orders(SEEDS, WINDOWS, WINDOWS, ahead=True)
    table = torch.zeros(len(SEEDS), WINDOWS, dtype=torch.int32)
    orders.to(table, [7] * 4)
    first = table.clone()
    orders.ahead()
    assert orders._drawing is not None
    orders._drawing.result(timeout=10)
    assert torch.equal(table, first)
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: drawn_in_epoch.append(a) or randperm(*a, **k))
    orders.to(table, [8] * 4)
    assert not drawn_in_epoch
    monkeypatch.undo()
    assert torch.equal(table[1].long(), permutation(SEEDS[1], 8, WINDOWS))


def test_what_fails_in_the_thread_is_raised_by_the_epoch_that_needs_it(monkeypatch) -> None:
    orders = Orders(SEEDS, WINDOWS, WINDOWS, ahead=True)
    table = torch.zeros(len(SEEDS), WINDOWS, dtype=torch.int32)
    orders.to(table, [0] * 4)

    def fail(*args, **kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr(torch, "randperm", fail)
    orders.ahead()
    with pytest.raises(RuntimeError, match="no memory"):
        orders.to(table, [1] * 4)
