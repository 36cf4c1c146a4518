"""The JSON schema of a search space, for editors: what `schema.py` accepts, with names and arguments listed.

Knows the shape of the file and the registries of names; reads no file and no data.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from kd.datasets import FORMATS
from kd.models.inits import INITS
from kd.signals.preprocess import AXES, PPG_CHANNELS
from kd.training.strategies import STRATEGIES, defaults
from orchestrator.space.schema import SearchSpace

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Json = dict[str, Any]
ARCHS = (
    "Architectures; for microcontrollers, all norms behind convolutions: resnet1d-post, tcn (causal, "
    "dilated) and dscnn (depthwise-separable). spectra: of log powers, best with an accelerometer; no C."
)
# "model.key" -> what an editor shows beside it
DESCRIPTIONS: Mapping[str, str] = {
    "SearchSpace.name": "The name of the sweep and of its directory. Default: the file's name.",
    "SearchSpace.teachers": "A grid of teachers or a brought one, or a list of them.",
    "SearchSpace.students": "A grid of students, or a list of grids.",
    "SearchSpace.strategies": "How students are trained: names of strategies, each with its arguments.",
    "SearchSpace.seeds": "Seeds of the students.",
    "SearchSpace.metric": "What results are judged by: the mean over subjects within a data set, then over "
    "data sets (default); the mean over windows; or the 90th percentile of subjects. tracked-: of what the "
    "tracker behind a student says.",
    "SearchSpace.metric_weights": "Weights of data sets in by-subject, by name. Default: all alike.",
    "SplitModel.use": "The folds that are trained: all, or a list of them, counted from 0.",
    "Data.source": "Which recordings: generated ones, a format, or auto: the format found at path.",
    "Data.path": "The folder of the recordings.",
    "Data.options": "Options of the source: of synthetic, for example, subjects and minutes.",
    "Teachers.arch": ARCHS,
    "Teachers.depth": "Residual blocks of a ResNet, hidden layers of mlp, residual convolutions of spectra.",
    "Teachers.width": "Channels of a ResNet or of spectra, hidden units of mlp.",
    "Teachers.seeds": "Seeds of these teachers.",
    "Teachers.pretrain": "Train them without labels first, on all training windows and data.unlabelled.",
    "Teachers.channels": "The sensors they see: ppg, acc, or both; default: all that windows have.",
    "Students.channels": "The sensors they see: ppg, acc, or both; default: all that windows have.",
    "Pretrain.method": "contrastive: two views of a window shall be alike.",
    "Pretrain.epochs": "Epochs of pre-training.",
    "Brought.name": "What students and tables call it.",
    "Brought.onnx": "An ONNX file; needs input.",
    "Brought.port": "FILE.py:CLASS, with load(weights), outputs(x), fs and window_s. Its code runs.",
    "Brought.weights": "Of a port: safetensors, or a torch file of tensors alone.",
    "Brought.sweep": "Another sweep, of which point is the teacher.",
    "Brought.outputs": "A folder with logits.npy, maybe features.npy, and windows.parquet.",
    "Brought.mean": "Names of teachers, brought or trained here (then all seeds): the mean of their logits.",
    "Brought.output": "What it gives for a window.",
    "Brought.bins": "Which heart rates its logits are, if not the task's classes.",
    "Brought.width_bpm": "Of output bpm: standard deviation of the Gaussian over classes.",
    "Brought.features": "Name of the ONNX output that strategy feature learns.",
    "Brought.probe": "The head on an embedding, fitted on training subjects.",
    "Brought.finetune": "Train a port's last layers on, per fold.",
    "Brought.precision": "That a port's pass is computed in; bfloat16 by torch's autocast.",
    "Brought.params": "Its parameters, where they can't be counted.",
    "Brought.macs": "Its multiply-accumulates of a window, where they can't be counted.",
    "PreprocessModel.channels": "What a window holds: of several PPG channels mean, first or all, of the "
    "accelerometer none, its magnitude, or its axes xyz.",
    "PreprocessModel.acc_band_hz": "The accelerometer's band, if not the PPG's.",
    "PreprocessModel.acc_dropout": "Share of training windows whose accelerometer is zeros, so that models "
    "also work without.",
    "AugmentModel.turn": "Swap axes and turn signs of a copy's accelerometer.",
    "Data.lead_s": "Seconds before each window that must be recorded, too; raised to what teachers need.",
    "Students.arch": ARCHS,
    "Students.depth": "Residual blocks of a ResNet, hidden layers of mlp, residual convolutions of spectra.",
    "Students.width": "Channels of a ResNet or of spectra, hidden units of mlp.",
    "Students.init": "First weights: random, or pruned from each teacher that can be pruned to this size.",
    "Students.strategies": "Strategies of this grid only.",
    "Students.seeds": "Seeds of this grid only.",
    "Students.teachers": "Teachers of this grid only: ids, or names such as resnet1d-8x32.",
    "RecipeModel.max_epochs": "Epochs at most.",
    "RecipeModel.batch_size": "Windows in a batch.",
    "RecipeModel.lr": "Peak of the learning rate's schedule.",
    "RecipeModel.warmup_fraction": "Share of all steps over which the learning rate grows.",
    "RecipeModel.schedule": "Of the learning rate: cosine, or wsd (up, constant, down), which can go on.",
    "RecipeModel.warmup_epochs": "Under wsd: epochs over which the learning rate grows.",
    "RecipeModel.cooldown_fraction": "Under wsd: share of the epochs, the last ones, over which it falls.",
    "RecipeModel.patience": "Epochs without a better validation error before training stops or, with wsd, "
    "the cooldown begins; 0: never.",
    "RecipeModel.label_sigma_bpm": "Gaussian smoothing of labels in BPM; 0: off.",
    "RecipeModel.windows_per_epoch": "Windows drawn in an epoch, without replacement; 0: all.",
    "RecipeModel.teachers": "What differs for teachers.",
    "RecipeModel.students": "What differs for students.",
    "Resources.gpus": "GPUs of a running pack, maybe a fraction; auto: a quarter where there is a GPU.",
    "Resources.max_failures": "How often a point may fail and be tried again.",
}
ENUMS: Mapping[str, list[str]] = {
    "Data.source": ["synthetic", "auto", *FORMATS],
    "SplitModel.scheme": ["fixed", "kfold", "loso", "lodo"],
    "PreprocessModel.normalise": ["zscore", "none"],
    "Channels.ppg": list(PPG_CHANNELS),
    "Channels.acc": list(AXES),
}
GRIDS = {  # keys that take one value or a list of them
    "SearchSpace": ("teachers", "students", "seeds"),
    "Teachers": ("arch", "depth", "width", "seeds", "channels"),
    "Students": ("arch", "depth", "width", "init", "seeds", "teachers", "channels"),
    "SplitModel": ("use",),
}


def space_json_schema() -> Json:
    """The JSON schema (draft 2020-12) of a search space's file."""
    schema = SearchSpace.model_json_schema()
    models: dict[str, Json] = {"SearchSpace": schema, **schema["$defs"]}
    for model in ("Teachers", "Students"):
        listed = models[model]["properties"]["channels"]["anyOf"][0]
        listed["items"] = {"type": "string", "enum": list(models["Channels"]["properties"])}
    models["Students"]["properties"]["init"]["items"] = {"type": "string", "enum": list(INITS)}
    for model, keys in GRIDS.items():
        for key in keys:
            models[model]["properties"][key] = _one_or_more(models[model]["properties"][key])
    for model in ("SearchSpace", "Students"):
        models[model]["properties"]["strategies"] = {"$ref": "#/$defs/Strategies"}
    for name, values in ENUMS.items():
        model, key = name.split(".")
        models[model]["properties"][key]["enum"] = values
    channels = models["PreprocessModel"]["properties"]["channels"]
    short = models["Channels"]["properties"]["ppg"]
    models["PreprocessModel"]["properties"]["channels"] = {
        "anyOf": [{"type": "string", "enum": short["enum"]}, channels]
    }
    for name, text in DESCRIPTIONS.items():
        model, key = name.split(".")
        models[model]["properties"][key]["description"] = text
    schema["$defs"]["Strategies"] = {
        "title": "Strategies",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {name: _strategy(name) for name in STRATEGIES},
    }
    schema |= {
        "title": "kdsweep search space",
        "description": "What a sweep trains, how, on which data.",
    }
    return {"$schema": DRAFT, **schema}


def _one_or_more(field: Json) -> Json:
    """The schema of a list, changed to take a single value, too."""
    about = {key: value for key, value in field.items() if key in ("title", "default", "description")}
    lists = [s for s in field.get("anyOf", [field]) if s.get("type") == "array"]
    bare = {k: v for k, v in lists[0].items() if k not in about}
    words = [s for s in field.get("anyOf", []) if "const" in s]
    return {**about, "anyOf": [*words, bare["items"], bare]}


def _strategy(name: str) -> Json:
    """Arguments of a strategy: none, a grid of values, or a list of grids."""
    number = {"type": "number"}
    values = {"anyOf": [number, {"type": "array", "items": number, "minItems": 1}]}
    usual = defaults(name, unlabelled=True)
    grid = {
        "type": "object",
        "additionalProperties": False,
        "properties": {key: {**values, "default": usual[key]} for key in usual},
    }
    about = inspect.getdoc(STRATEGIES[name]) or ""
    return {
        "description": about.split("\n\n")[0],
        "anyOf": [{"type": "null"}, grid, {"type": "array", "items": grid}],
    }
