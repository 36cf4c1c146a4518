"""A brought teacher as a space's file says it: one of five kinds, what it takes and what it gives."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kd.models.architectures import ARCHITECTURES
from kd.teachers.source import Source
from orchestrator.space.fields import Number, Real, Strict

KINDS = ("onnx", "port", "sweep", "outputs", "mean")
Count = Annotated[int, Field(ge=0), Number]
Positive = Annotated[float, Field(gt=0, le=1e6), Number]


class Input(Strict):
    """The windows a brought teacher takes. band_hz: a Butterworth band-pass of `order`, none by default.

    A port's class says fs and window_s itself; a point of a sweep everything.
    """

    fs: Positive | None = None
    window_s: Annotated[float, Field(gt=0, le=3600), Number] | None = None
    band_hz: Annotated[list[Real], Field(min_length=2, max_length=2)] | None = None
    order: Annotated[int, Field(ge=1, le=20), Number] = Source.order
    normalise: Literal["zscore", "none"] = "zscore"
    channels: Literal["mean", "first", "all"] = "mean"


class Bins(Strict):
    """Which heart rates a teacher's logits are: the centre of the first, and from one to the next, BPM."""

    min_bpm: Real
    step_bpm: Positive = Source.step_bpm


class Probe(Strict):
    """The head on an embedding: linear, or with one hidden layer of so many units."""

    hidden: Annotated[int, Field(ge=0, le=100_000), Number] = Source.hidden
    epochs: Annotated[int, Field(ge=1, le=100_000), Number] = Source.epochs
    lr: Positive = Source.lr


class Finetune(Strict):
    """A port's last layers with weights, trained on per fold: training's loop and recipe, but epochs and lr.

    lr, layers: ours; a tenth of what a student trained from scratch takes, and little that can forget.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000), Number] = 5
    lr: Positive = 2e-4
    layers: Annotated[int, Field(ge=1, le=100_000), Number] = 2


def kinds_of(block: Any) -> list[str]:
    """Which kinds of a brought teacher a mapping names."""
    return [kind for kind in KINDS if kind in block] if isinstance(block, dict) else []


class Brought(Strict):
    """A teacher that is not trained here."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=60)]
    onnx: str | None = None
    port: str | None = None
    weights: str | None = None
    sweep: str | None = None
    point: str | None = None
    outputs: str | None = None
    mean: Annotated[list[str], Field(min_length=1)] | None = None
    input: Input = Field(default_factory=Input)
    output: Literal["logits", "bpm", "gaussian", "embedding"] = "logits"
    bins: Bins | None = None
    width_bpm: Positive = Source.width_bpm
    features: str | None = None
    probe: Probe = Field(default_factory=Probe)
    finetune: Finetune | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    params: Count = 0
    macs: Count = 0

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _sound(self) -> "Brought":
        if why := self._wrong():
            raise PydanticCustomError("brought", "{text}", {"text": f"teacher {self.name}: {why}"})
        return self

    def _wrong(self) -> str | None:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            return f"it is {' and '.join(given) or 'of no kind'}: give one of {', '.join(KINDS)}"
        kind = given[0]
        if self.name in ARCHITECTURES:
            return f"{self.name} is an architecture: choose another name"
        if (kind == "sweep") != (self.point is not None):
            return "sweep and point go together: give both, or neither"
        if self.weights and kind != "port":
            return "weights are those of a port: leave them out"
        if kind == "port" and ":" not in str(self.port):
            return "port is FILE.py:CLASS, such as teachers/encoder.py:Encoder"
        if kind == "onnx" and (self.input.fs is None or self.input.window_s is None):
            return "an ONNX file doesn't say what it takes: give input: {fs: ..., window_s: ...}"
        if kind in ("sweep", "outputs", "mean") and self.input != Input():
            return f"input is not for {kind}: leave it out"
        if kind in ("sweep", "mean") and (self.output != "logits" or self.bins):
            return f"output and bins are not for {kind}: leave them out"
        if self.bins and self.output != "logits":
            return f"bins are those of logits, and output is {self.output}: leave them out"
        if self.features and kind != "onnx":
            return "features names an output of an ONNX file: leave it out"
        if self.precision != Source.precision and (kind != "port" or self.finetune):
            return "precision is that of a port's pass, and fine-tuning is in float32: leave it out"
        if self.finetune and (kind != "port" or self.output != "embedding" or self.probe.hidden):
            return "finetune is for a port with output: embedding and a linear probe: leave it out"
        return None
