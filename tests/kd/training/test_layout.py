"""Stacked tensors in one flat vector: whose is what."""

import numpy as np
import torch

from kd.training.layout import Layout


def test_a_layout_gives_each_member_its_slices_and_sums():
    everyone, some = torch.arange(12.0).view(6, 2), torch.arange(4.0).view(2, 2) + 100
    layout = Layout({"a": (everyone, range(3)), "b": (some, [2, 0])}, 3)
    flat = torch.zeros(layout.size)
    for view, tensor in zip(layout.views(flat).values(), (everyone, some), strict=True):
        view.copy_(tensor)
    assert layout.of_member(flat, 1).keys() == {"a"}
    assert layout.of_member(flat, 2)["a"].tolist() == [[8, 9], [10, 11]]
    assert layout.of_member(flat, 2)["b"].tolist() == [[100, 101]]
    assert layout.sums(flat).tolist() == [0 + 1 + 2 + 3 + 102 + 103, 4 + 5 + 6 + 7, 38 + 201]
    mine = layout.spread(torch.tensor([1.0, 2.0, 3.0]))
    assert np.allclose(layout.sums(mine).tolist()[1], 4 * 2.0)


def test_a_tensor_that_is_no_piece_of_memory_gets_one():
    """A transposed weight's members are interleaved, a slice's numbers lie far apart."""
    transposed, sliced = torch.arange(8.0).view(2, 4).t(), torch.arange(16.0).view(4, 4)[:, :2]
    layout = Layout({"a": (transposed, range(2)), "b": (sliced, range(2))}, 2)
    flat = torch.zeros(layout.size)
    for view, tensor in zip(layout.views(flat).values(), (transposed, sliced), strict=True):
        view.copy_(tensor)
    for view, tensor in zip(layout.views(flat).values(), (transposed, sliced), strict=True):
        assert torch.equal(view, tensor)
    assert layout.of_member(flat, 1)["a"].tolist() == transposed[2:].tolist()
    halves = (slice(0, 2), slice(2, 4))
    assert layout.sums(flat).tolist() == [float(transposed[h].sum() + sliced[h].sum()) for h in halves]
