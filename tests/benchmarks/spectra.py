"""Does a small model of the spectra of PPG and accelerometer beat a ResNet of its size on their samples?

    python tests/benchmarks/spectra.py recordings.npz [--folds 0 1] [--widths 10 15]

Two branches of convolutions over frequency, one a sensor, are merged to logits: position is BPM throughout,
so that what is learned of a peak holds wherever it is. Input is each window's log-power spectrum, Hann, every
2 BPM. Windows, folds, copies, recipe and decoding are those of `accelerometer.py sizes`, whose ResNets with
an accelerometer it stands beside. Prints a Markdown table: parameters, multiply-adds without the spectrum,
mean test error over folds (and of each), BPM, by window, and after a tracker.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerometer import COPIES, EPOCHS
from torch import Tensor, nn

from kd.signals.augment import Augment
from kd.signals.prepare import Data, DataConfig, prepare
from kd.signals.preprocess import Preprocess
from kd.signals.splits import Split
from kd.training.losses import cross_entropy
from kd.training.metrics import class_centres
from kd.training.objective import Labels
from kd.training.recipe import Recipe
from kd.training.schedule import warm_cosine
from kd.training.train import evaluate, track

STEP, LOW, HIGH = 2, 24, 240  # BPM: 0.4 to 4 Hz
BINS = np.arange(LOW, HIGH + 1, STEP)
FLOOR = 1e-4  # of power: the log of nothing


class Spectra:
    """Windows (N, C, S) to log-power (N, C, bins)."""

    def __init__(self, fs: float, samples: int) -> None:
        taper = np.hanning(samples)[:, None]
        turns = np.exp(-2j * np.pi * np.outer(np.arange(samples) / fs, BINS / 60)) * taper
        turns /= np.sqrt(np.square(taper).sum())
        self.turns = torch.tensor(np.stack([turns.real, turns.imag]), dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """White noise of variance 1 has a power of about 1."""
        power = (x.unsqueeze(1) @ self.turns).square().sum(1)  # (N, C, bins)
        return (power + FLOOR).log()


def conv(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """A convolution over 7 bins that keeps their number."""
    layer = nn.Conv1d(inputs, outputs, 7, padding=3 * dilation, dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm1d(outputs), nn.ReLU())


class TwoBranches(nn.Module):
    """Spectra (N, C, bins), the PPG's first, to logits (N, classes) and features (N, width)."""

    def __init__(self, channels: int, width: int, min_bpm: int, classes: int) -> None:
        super().__init__()
        self.first, self.classes = min_bpm - LOW, classes
        self.scale = nn.BatchNorm1d(channels)
        self.of = (1, channels - 1)
        self.branches = nn.ModuleList(nn.Sequential(conv(n, width), conv(width, width)) for n in self.of)
        self.merge = conv(2 * width, width)
        self.blocks = nn.ModuleList(conv(width, width, dilation=d) for d in (2, 4))
        self.head = nn.Conv1d(width, STEP, 1)  # a bin's classes
        self.prior = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = zip(self.branches, self.scale(x).split(self.of, 1), strict=True)
        y = self.merge(torch.cat([branch(part) for branch, part in parts], 1))
        for block in self.blocks:
            y = y + block(y)
        logits = self.head(y).transpose(1, 2).flatten(1)
        return logits[:, self.first : self.first + self.classes] + self.prior, y.mean(2)


def train(width: int, data: Data, fs: float, folder: Path, epochs: int = EPOCHS) -> dict[str, Any]:
    """The figures of one model, its weights those of the best validation epoch. folder: for tracker.json."""
    torch.manual_seed(0)
    recipe = Recipe(max_epochs=epochs)
    spectra = Spectra(fs, data.train.x.shape[2])
    x, val, test = (
        torch.cat([spectra(part) for part in torch.tensor(np.array(side.x)).split(1024)])
        for side in (data.train, data.val, data.test)
    )
    model = TwoBranches(x.shape[1], width, data.min_bpm, data.classes)
    centres = class_centres(data.min_bpm, data.classes)
    target = Labels(centres, recipe.label_sigma_bpm).target(torch.tensor(np.array(data.train.bpm)))
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay)
    steps = len(x) // recipe.batch_size
    rates = iter(warm_cosine(recipe, steps * epochs, np.arange(steps * epochs)))
    best = np.inf
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(x))[: steps * recipe.batch_size].view(-1, recipe.batch_size):
            optimiser.param_groups[0]["lr"] = next(rates)
            optimiser.zero_grad()
            cross_entropy(model(x[batch])[0], target[batch]).mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimiser.step()
        validated, of_val = evaluate(model, data.val, val, centres)
        if validated["mae_bpm"] < best:
            best, kept = validated["mae_bpm"], of_val
            errors, logits = evaluate(model, data.test, test, centres)
    errors |= track(data, kept, logits, folder)
    macs = len(BINS) * sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv1d))
    return {**errors, "params": sum(p.numel() for p in model.parameters()), "macs": macs}


def main() -> None:
    """Train fold by fold, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--widths", type=int, nargs="+", default=[10, 15])
    args = parser.parse_args()
    torch.set_num_threads(1)
    preprocess, runs = Preprocess(acc="xyz"), {}  # figures by width and fold
    config = DataConfig("auto", str(args.recordings), preprocess=preprocess, augment=Augment(copies=COPIES))
    with tempfile.TemporaryDirectory() as temporary:
        for fold in args.folds:
            data = prepare(replace(config, split=Split("kfold", fold=fold)), Path(temporary) / "cache")
            for width in args.widths:
                runs[width, fold] = train(width, data, preprocess.fs, Path(temporary))
    print("| width | parameters | MACs | BPM | + tracker |")
    print("|---|---|---|---|---|")
    for width in args.widths:
        of = [runs[width, fold] for fold in args.folds]
        error, tracked = (statistics.fmean(row[m] for row in of) for m in ("mae_bpm", "mae_bpm_tracked"))
        each = ", ".join(f"{row['mae_bpm']:.2f}" for row in of)
        print(f"| {width} | {of[0]['params']:,} | {of[0]['macs']:,} | {error:.2f} ({each}) | {tracked:.2f} |")


if __name__ == "__main__":
    main()
