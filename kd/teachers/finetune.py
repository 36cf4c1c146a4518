"""A port's module trained on, per split: by the loop of `kd.training`, with its checkpoints.

The last layers that have weights are trained, and a class layer that starts from the linear probe; everything
before stays as it was loaded, its batch norms too. Knows no sweep.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from kd.errors import InputError
from kd.files import load_array, write_atomically
from kd.shipped import grid
from kd.signals.prepare import Data
from kd.signals.whole import Whole
from kd.teachers.head import Head
from kd.teachers.runners import load_port
from kd.teachers.source import Source
from kd.teachers.windows import each_played, windows
from kd.training.recipe import Recipe, Spec
from kd.training.stack import Shape
from kd.training.train import Runs

Array = npt.NDArray[np.float32]


class Tuned(nn.Module):
    """A port's module as the training loop takes it: features (N, F) of windows, and `fc` to the classes.

    Only what is trained is in it as parameters and buffers. Raises InputError for a module without layers.
    """

    def __init__(self, source: Source, head: Head) -> None:
        super().__init__()
        port, module = load_port(source)
        if not isinstance(module, nn.Module):
            raise InputError(f"teacher {source.name}: load gives no torch module to finetune")
        assert source.finetune is not None
        module.eval().requires_grad_(False)
        layers = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
        if not layers:
            raise InputError(f"teacher {source.name}: its module has no weights to finetune")
        self.trained = nn.ModuleList(layers[-source.finetune[2] :]).requires_grad_(True)
        (last,) = head.layers
        assert isinstance(last, nn.Linear)
        self.fc = nn.Linear(last.in_features, last.out_features)
        with torch.no_grad():  # the probe without its standardisation
            self.fc.weight.copy_(last.weight / head.scale)
            self.fc.bias.copy_(last.bias - self.fc.weight @ head.mean)
        self._outputs = port.outputs

    def features(self, x: Tensor) -> Tensor:
        """Embedding (N, F)."""
        out: Tensor = self._outputs(x)
        return out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and embedding (N, F) of windows (N, C, S)."""
        features = self.features(x)
        return self.fc(features), features


@dataclass(frozen=True)
class TunedShape(Shape):
    """What `Shape` is to a model of `kd.models`."""

    source: Source
    head: Head

    def build(self, members: int = 1) -> nn.Module:
        """The module as it was loaded, and the class layer as the probe has it."""
        if members != 1:
            raise AssertionError("ports are tuned one by one")
        return Tuned(self.source, self.head)


class Tuning(Runs):
    """A port being tuned in `folder`. x: its windows with labels; rows: which of them are whose."""

    def __init__(
        self, id: str, source: Source, head: Head, data: Data, x: Array, rows: Mapping[str, Any], folder: Path
    ) -> None:
        assert source.finetune is not None
        self._source, self._head = source, head
        epochs, lr, _ = source.finetune
        recipe = Recipe(max_epochs=int(epochs), lr=lr)
        sides = {
            side: dataclasses.replace(getattr(data, side), x=np.ascontiguousarray(x[rows[side]]))
            for side in ("train", "val")
        }
        spec = Spec(id=id, role="teacher", arch=source.name, depth=1, width=1, recipe=recipe)
        super().__init__([spec], dataclasses.replace(data, **sides, unlabelled=None), [folder])

    def shape_of(self, spec: Spec, channels: int, samples: int, classes: int) -> Shape:
        """As of any point, but of this port."""
        return TunedShape(spec.arch, 1, 1, channels, samples, classes, self._source, self._head)

    def tuned(self) -> Tuned:
        """The module with the weights of its best epoch, in evaluation mode."""
        model = self.shape.build()
        model.load_state_dict(self.best_state(0))
        assert isinstance(model, Tuned)
        return model.eval()


def all_windows(source: Source, whole: Whole, folder: Path) -> Array:
    """A teacher's own windows of a whole pool (N, C, S), a memory map, cut once into `folder`."""
    path = folder / "windows.npy"

    def write(temporary: Path) -> None:
        x: np.memmap[Any, Any] | None = None
        for played in each_played(whole):
            if not len(played.starts_s):
                continue
            part = windows(source, played.recording, played.starts_s, whole.config.preprocess)
            if x is None:
                shape = (len(whole), part.shape[1], grid.length(source.window_s, source.fs))
                x = open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            x[played.first : played.first + len(part)] = part
        assert x is not None
        x.flush()

    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    return load_array(path, "delete this file")
