"""A brought teacher as plain data: where its files are, what they take and give, and its identity. No torch.

The identity is what its outputs follow from: the content of its files and what is declared of them. Paths and
names are not in it.
"""

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import read_text, sha256

BROUGHT_VERSION = 1  # raise when the same files and declaration give other outputs
OUTPUTS = ("logits", "bpm", "gaussian", "embedding")
PRECISIONS = ("float32", "bfloat16")
PLACES = ("name", "path", "weights", "params", "macs", "same_input", "same_split")  # change no output
LOGITS_FILE, FEATURES_FILE, INDEX_FILE = "logits.npy", "features.npy", "windows.parquet"  # of ready outputs


@dataclass(frozen=True)
class Source:
    """One brought teacher.

    kind: "onnx", "port", "model" (of a point of a sweep), "outputs" or "mean"; of a mean's member also
    "trained", a point of the same sweep and fold: its id is the content. sensor: the one that such a point
    sees, "" = all. path: its file, the port's file, or a folder. symbol: the port's class. fs, window_s,
    band_hz, order, normalise, channels: the windows it takes; band_hz None: not filtered. output: one of
    OUTPUTS. min_bpm, step_bpm: centre of the first of its bins, and from one to the next. features: name of
    an ONNX output; or that a ready folder has features.npy. hidden: units of the embedding's head, 0: linear.
    content: SHA-256 of its files. params, macs: as declared or known, 0: unknown. same_input, same_split: of
    a model, that its windows and classes are the students', and that it was trained on the very split: it has
    seen no test subject. of: members of a mean.
    """

    name: str
    kind: str
    path: str = ""
    symbol: str | None = None
    sensor: str = ""
    weights: str | None = None
    content: tuple[str, ...] = ()
    fs: float = 0.0
    window_s: float = 0.0
    band_hz: tuple[float, float] | None = None
    order: int = 4  # as of `kd.signals.preprocess`
    normalise: str = "zscore"
    channels: str = "mean"
    output: str = "logits"
    min_bpm: float | None = None  # None: the task's classes
    step_bpm: float = 1.0
    width_bpm: float = 1.5  # of `bpm`: as labels are smoothed by default
    features: str | None = None
    hidden: int = 0
    epochs: int = 30  # of the head, as a student's default
    lr: float = 2e-3  # the same
    finetune: tuple[int, float, int] | None = None  # epochs, lr, layers
    precision: str = PRECISIONS[0]  # that torch computes a port's pass in (autocast)
    params: int = 0
    macs: int = 0
    same_input: bool = False
    same_split: bool = False
    of: tuple["Source", ...] = ()

    @property
    def has_features(self) -> bool:
        """Whether students can learn its features."""
        if self.kind == "mean":
            return all(one.has_features for one in self.of)
        return self.features is not None or self.kind in ("model", "trained") or self.output == "embedding"

    @property
    def runs_code(self) -> list[str]:
        """The files of ports whose code runs."""
        return [self.path] * (self.kind == "port") + [path for one in self.of for path in one.runs_code]

    def identity(self) -> dict[str, Any]:
        """All that its outputs follow from, as JSON: content and declaration, no path."""
        said = {key: value for key, value in asdict(self).items() if key not in (*PLACES, "of")}
        if self.output != "embedding":
            said = {key: value for key, value in said.items() if key not in ("hidden", "epochs", "lr")}
        for key, default in (("precision", PRECISIONS[0]), ("sensor", "")):  # as before there was a choice
            if said[key] == default:
                del said[key]
        return {"version": BROUGHT_VERSION, **said, "of": [one.identity() for one in self.of]}

    def raw_key(self, pool: str) -> str:
        """Names its raw outputs on the windows of a pool: what is decoded or fitted later is not in it."""
        later = ("output", "min_bpm", "step_bpm", "width_bpm", "hidden", "epochs", "lr", "finetune", "of")
        said = {key: value for key, value in self.identity().items() if key not in later}
        text = json.dumps([said, pool], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """As a plan keeps it; `source_of` gives it back."""
        return dict(json.loads(json.dumps(asdict(self))))

    def check_unchanged(self) -> None:
        """Raise InputError if its files are not those that were planned."""
        if self.kind not in ("mean", "trained") and contents(self) != self.content:
            raise InputError(
                f"teacher {self.name}: {self.path} has changed since it was planned: plan and run again"
            )


def source_of(said: Mapping[str, Any]) -> Source:
    """A source as `Source.as_json` gave it; other keys are nothing to it."""
    band = said.get("band_hz")
    more = {
        "content": tuple(said["content"]),
        "band_hz": tuple(band) if band else None,
        "finetune": tuple(said["finetune"]) if said.get("finetune") else None,
        "of": tuple(source_of(one) for one in said["of"]),
    }
    return Source(**{name.name: said[name.name] for name in fields(Source) if name.name in said} | more)


def contents(source: Source) -> tuple[str, ...]:
    """SHA-256 of each of its files. Raises InputError for one that is missing."""
    paths = [Path(source.path)]
    if source.kind == "outputs":
        names = [LOGITS_FILE, INDEX_FILE, *([FEATURES_FILE] if source.features else [])]
        paths = [Path(source.path) / name for name in names]
    if source.weights:
        paths.append(Path(source.weights))
    for path in paths:
        if not path.is_file():
            raise InputError(f"teacher {source.name}: {path}: no such file: correct the path")
    return tuple(sha256(path) for path in paths)


def port_says(path: Path, symbol: str) -> tuple[float, float]:
    """fs and window_s of a port's class: plain numbers in its body, so that planning runs no code.

    Raises InputError when the file, the class or a number is missing.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such port: give FILE.py:CLASS")
    try:
        tree = ast.parse(read_text(path))
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not Python ({error}): correct the file") from None
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if symbol not in classes:
        raise InputError(f"{path}: no class {symbol}: it has {', '.join(classes) or 'none'}")
    found: dict[str, float] = {}
    for node in classes[symbol].body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
                number = value.value
                if isinstance(number, int | float) and not isinstance(number, bool):
                    found[target.id] = float(number)
    for name in ("fs", "window_s"):
        if not found.get(name, 0.0) > 0:
            raise InputError(
                f"{path}: class {symbol} has no {name}: write it in its body as a number, such as {name} = 10"
            )
    return found["fs"], found["window_s"]
