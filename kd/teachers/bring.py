"""A brought teacher becoming a point in its folder: the outputs its students learn from, and its own errors.

Steps as training does, so that a worker treats both alike: step() computes some windows, finish() writes.
Kill it at any moment and make it again: what was passed is in the cache. Knows no sweep.
"""

import dataclasses
import itertools
import json
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd.errors import InputError
from kd.files import load_array, sha256, write_atomically
from kd.models import weights
from kd.signals.prepare import Data, DataConfig
from kd.signals.whole import Whole, rows_of, take, wholes
from kd.signals.windows import WindowSet
from kd.teachers.cache import Pass, Raw
from kd.teachers.decode import to_logits
from kd.teachers.facts import FOLDER
from kd.teachers.finetune import Tuned, Tuning, all_windows
from kd.teachers.head import Head, fit
from kd.teachers.ready import read_outputs
from kd.teachers.runners import BATCH, check_width_is
from kd.teachers.source import Source
from kd.training import metrics
from kd.training.member import Diverged, Row
from kd.training.teacher import FEATURES, LOGITS, MODEL, Forward, as_tensor, outputs, write_teacher_outputs
from kd.training.train import device_name, evaluate, track

OUTPUTS = (LOGITS, FEATURES)
IDENTITY = "brought"  # the one key of the metadata of a brought teacher's model file


@dataclass
class Standing:
    """How far it is, as a worker asks it of any point in training; an epoch is a window passed."""

    epoch: int = 0
    max_epochs: int = 1
    checkpointed: int = 0
    pretrained: int = 0
    waits: bool = False
    set_aside: str | None = None


class Bringing:
    """One brought teacher, in `folder`, for the split of `config`. members: its one Standing.

    judged: whether somebody is left to validate and to test on. folder_of: of a point that is a mean's
    member, trained on the same windows. Raises InputError for files that changed since they were planned,
    and for outputs that can't be used.
    """

    def __init__(
        self,
        id: str,
        source: Source,
        data: Data,
        config: DataConfig,
        cache_dir: Path,
        folder: Path,
        device: str,
        *,
        judged: bool = True,
        folder_of: Callable[[str], Path] | None = None,
    ) -> None:
        self.source, self.data, self.config, self.folder = source, data, config, Path(folder)
        self.device = torch.device(device)
        self._started = time.monotonic()
        self._wholes = wholes(config, Path(cache_dir))
        self._rows, besides = rows_of(self._wholes, config, Path(cache_dir))
        self._taught = np.concatenate([self._rows["train"], besides])  # as `data.taught_x`
        if (len(self._rows["train"]), len(self._taught)) != (len(data.train), len(data.taught_x)):
            raise AssertionError(f"{len(self._taught)} windows to teach, not {len(data.taught_x)}")
        self._leaves = list(source.of) or [source]
        for leaf in self._leaves:
            leaf.check_unchanged()
        first = zlib.crc32(id.encode()) / 2**32  # points of several folds pass one pool together
        self._passes = {
            leaf: [Pass(leaf, w, _folder(cache_dir, leaf, w), device, first) for w in self._wholes]
            for leaf in self._leaves
            if leaf.kind not in ("outputs", "trained")
        }
        windows = sum(one.total for passes in self._passes.values() for one in passes)
        self.members = [Standing(max_epochs=max(1, windows))]
        self._steps, self._judged, self._id = self._step(), judged, id
        self._folder_of = folder_of
        self._tuning: Tuning | None = None

    def _step(self) -> Iterator[int]:
        before = 0
        for one in itertools.chain.from_iterable(self._passes.values()):
            for seen in one.steps():
                yield before + seen
            before += one.total

    def step(self) -> list[Row | Diverged | None]:
        """Pass some windows, then tune for an epoch; [None] when all is done."""
        seen = next(self._steps, None)
        if seen is None:
            return self._tune() if self.source.finetune else [None]
        self.members[0].epoch = self.members[0].checkpointed = seen
        return [{"epoch": seen}]

    def checkpoint(self) -> None:
        """Write where fine-tuning is; what was passed is in the cache."""
        if self._tuning is not None:
            self._tuning.checkpoint()
            self.members[0].checkpointed = self._tuning.members[0].checkpointed

    def discard_checkpoint(self, i: int = 0) -> None:
        """Remove that of fine-tuning."""
        if self._tuning is not None:
            self._tuning.discard_checkpoint()

    def _tune(self) -> list[Row | Diverged | None]:
        """An epoch of fine-tuning; the first call begins, or goes on from the checkpoint."""
        if self._tuning is None:
            self._x = [all_windows(self.source, p.whole, p.folder) for p in self._passes[self.source]]
            rows, data = self._rows, self.data
            if not self._judged:
                rows = {**rows, "val": rows["train"]}
                data = dataclasses.replace(data, val=data.train)
            head = self._head(self.source)
            self._tuning = Tuning(self._id, self.source, head, data, self._x[0], rows, self.folder)
            self.members = [Standing(0, self._tuning.members[0].max_epochs)]
        found = self._tuning.step()
        member = self._tuning.members[0]
        self.members[0].epoch, self.members[0].checkpointed = member.epoch, member.checkpointed
        return found

    def finish(self, i: int = 0) -> dict[str, Any]:
        """Write what students see and the model file; its errors, as of any other point.

        A head is fitted here, on this split's training windows alone.
        """
        heads: dict[Source, Head] = {}
        if self._tuning is not None:
            tuned = self._tuning.tuned()
            forwards = [self._forward_tuned(tuned)]
        else:
            heads = {leaf: self._head(leaf) for leaf in self._leaves if leaf.output == "embedding"}
            forwards = [self._forward(leaf, heads.get(leaf)) for leaf in self._leaves]
        forward = forwards[0] if not self.source.of else _mean(forwards, self.source.has_features)
        centres = metrics.class_centres(self.config.min_bpm, self.config.classes)
        self.folder.mkdir(parents=True, exist_ok=True)
        errors: dict[str, Any] = {}
        if self._judged:
            errors, logits = evaluate(forward, self.data.test, self._indices("test"), centres)
            on_val = outputs(forward, self._indices("val"))[0]
            errors |= track(self.data, on_val.float().numpy(), logits, self.folder)
            val = metrics.decode_expectation(on_val, centres).numpy()
            errors["val_mae_bpm"] = metrics.error_figures(val, self.data.val.bpm)["mae_bpm"]
        modules = {f"head{n}": head for n, head in enumerate(heads.values())}
        self._write_model({"tuned": tuned} if self._tuning else modules)
        write_teacher_outputs(forward, torch.from_numpy(self._taught), self.folder)
        return {
            **errors,
            "epochs": self._tuning.members[0].epoch if self._tuning else 0,
            "best_epoch": self._tuning.members[0].best_epoch if self._tuning else 0,
            "train_seconds": round(time.monotonic() - self._started, 3),
            "device": device_name(self.device),
            "model_sha256": sha256(self.folder / MODEL),
            "teacher_sha256": None,
        }

    def _indices(self, side: str) -> Tensor:
        """The windows of a side of the split, by their number among all."""
        window_set: WindowSet = getattr(self.data, side)
        rows = self._rows[side]
        if len(rows) != len(window_set):
            raise AssertionError(f"{side} has {len(window_set)} windows, the pool {len(rows)}")
        return torch.from_numpy(rows)

    def _raw(self, leaf: Source) -> Raw:
        if leaf.kind == "outputs":
            out, features = read_outputs(leaf, self._wholes)
            return Raw([out], None if features is None else [features])
        parts = [one.raw() for one in self._passes[leaf]]
        for part in parts:
            check_width_is(leaf, part.out[0].shape[1], parts[0].out[0].shape[1])
        return Raw.joined(parts)

    def _forward(self, leaf: Source, head: Head | None) -> Forward:
        """From numbers of windows (n,) to logits (n, K) and features (n, F), F 0 without any."""
        if leaf.kind == "trained":
            return self._forward_trained(leaf)
        raw, config = self._raw(leaf), self.config

        def forward(rows: Tensor) -> tuple[Tensor, Tensor]:
            out = take(raw.out, rows.numpy())
            if head is None:
                logits = torch.from_numpy(to_logits(leaf, out, config.min_bpm, config.classes))
            else:
                logits = head(torch.from_numpy(np.asarray(out, np.float32)))
            features = np.zeros((len(rows), 0)) if raw.features is None else take(raw.features, rows.numpy())
            return logits, torch.from_numpy(np.asarray(features, np.float32))

        return forward

    def _forward_trained(self, leaf: Source) -> Forward:
        """The same of a trained point: what it left behind for its students; other windows pass its model."""
        assert self._folder_of is not None
        folder = self._folder_of(*leaf.content)
        kept = [as_tensor(load_array(folder / name, f"train {leaf.content[0]} again")) for name in OUTPUTS]
        if len(kept[0]) != len(self._taught):
            raise InputError(
                f"teacher {self.source.name}: {folder} has outputs for {len(kept[0])} windows, the data have "
                f"{len(self._taught)}: train {leaf.content[0]} again"
            )
        data = self.data.seen_by(leaf.sensor)
        x, others = [data.val.x, data.test.x], np.concatenate([self._rows["val"], self._rows["test"]])
        model = weights.load(folder / MODEL, *data.train.x.shape[1:]).to(self.device)
        at, other = (np.full(sum(map(len, self._wholes)), -1) for _ in range(2))
        at[self._taught], other[others] = np.arange(len(self._taught)), np.arange(len(others))

        def forward(rows: Tensor) -> tuple[Tensor, Tensor]:
            known = at[rows.numpy()]
            if (known >= 0).all():
                logits, features = (array[known] for array in kept)
            else:
                logits, features = model(torch.from_numpy(take(x, other[rows.numpy()])).to(self.device))
            return logits.cpu(), features.cpu()

        return forward

    def _head(self, leaf: Source) -> Head:
        raw = self._raw(leaf).out
        sides = ("train", "val" if self._judged else "train")
        train, val = ((take(raw, self._rows[side]), getattr(self.data, side).bpm) for side in sides)
        return fit(
            train,
            val,
            min_bpm=self.config.min_bpm,
            classes=self.config.classes,
            hidden=leaf.hidden,
            epochs=leaf.epochs,
            lr=leaf.lr,
        )

    def _forward_tuned(self, tuned: Tuned) -> Forward:
        """The same of a tuned port, which runs again."""

        def forward(rows: Tensor) -> tuple[Tensor, Tensor]:
            parts = [tuned(torch.from_numpy(take(self._x, part.numpy()))) for part in rows.split(BATCH)]
            logits, features = zip(*parts, strict=True)
            return torch.cat(logits), torch.cat(features)

        return forward

    def _write_model(self, modules: Mapping[str, torch.nn.Module]) -> None:
        """The model itself where it is one of `kd.models`, else what was trained, with the identity."""
        from safetensors.torch import save_file

        if self.source.kind == "model":
            write_atomically(self.folder / MODEL, lambda path: shutil.copyfile(self.source.path, path))
            return
        said = {IDENTITY: json.dumps(self.source.identity(), sort_keys=True)}
        tensors = {
            f"{part}.{name}": value.contiguous()
            for part, module in modules.items()
            for name, value in module.state_dict().items()
        }
        write_atomically(self.folder / MODEL, lambda path: save_file(tensors, path, metadata=said))


def _folder(cache_dir: Path, leaf: Source, whole: Whole) -> Path:
    """Where a teacher's outputs on the windows of a pool lie."""
    return Path(cache_dir) / FOLDER / leaf.raw_key(whole.name)


def _mean(forwards: list[Forward], has_features: bool) -> Forward:
    """The mean of logits; features side by side."""

    def forward(rows: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = zip(*(one(rows) for one in forwards), strict=True)
        side_by_side = torch.cat(features, 1) if has_features else torch.zeros(len(rows), 0)
        return torch.stack(logits).mean(0), side_by_side

    return forward
