"""What the state files of a sweep hold: a table of keys for each kind, and one function that checks a value.

Files are checked where they are read, so everything else gets well-formed values. No pydantic: its import
takes longer than most commands.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Maybe:
    """What may be null, too."""

    spec: Any


@dataclass(frozen=True)
class Each:
    """A mapping with any keys, all values alike."""

    spec: Any


ABOVE_0 = "number > 0"
ANY, NUMBER, NOT_NEGATIVE, WHOLE, POSITIVE, TIME = (
    "any",
    "number",
    "number >= 0",
    "int",
    "int > 0",
    "ISO time",
)
COUNT = "int >= 0"
OBJECT: dict[str, Any] = {}
# A key that ends with ? may be missing or null. Keys that aren't named may hold anything.
RESULT = {
    "id": str,
    "role": str,
    "arch": str,
    "depth": POSITIVE,
    "width": POSITIVE,
    "init": str,
    "strategy": str,
    "strategy_args": OBJECT,
    "teacher": Maybe(str),
    "seed": WHOLE,
    "params": COUNT,  # 0: of a brought teacher, not known
    "mae_bpm": NOT_NEGATIVE,
    "train_seconds": NOT_NEGATIVE,
    "macs?": POSITIVE,
    "weight_bytes?": POSITIVE,
    "weight_bytes_int8?": POSITIVE,
    "activation_bytes?": POSITIVE,
    "rmse_bpm?": NOT_NEGATIVE,
    "within_5_bpm?": NOT_NEGATIVE,
    "mae_bpm_argmax?": NOT_NEGATIVE,
    "val_mae_bpm?": NUMBER,
    "mae_by_subject?": Each(NOT_NEGATIVE),
    "mae_by_dataset?": Each(NOT_NEGATIVE),
    "mae_bpm_tracked?": NOT_NEGATIVE,
    "mae_bpm_smoothed?": NOT_NEGATIVE,
    "mae_by_subject_tracked?": Each(NOT_NEGATIVE),
    "coverage_90?": NOT_NEGATIVE,
    "coverage_90_tracked?": NOT_NEGATIVE,
    "unsure?": NOT_NEGATIVE,
    "step_63_s?": NOT_NEGATIVE,
    "step_5_bpm_s?": NOT_NEGATIVE,
    "subjects?": Each(
        {"windows": POSITIVE, "abs_sum": NOT_NEGATIVE, "sq_sum": NOT_NEGATIVE, "within_5": NOT_NEGATIVE}
    ),
    "epochs?": WHOLE,
    "best_epoch?": WHOLE,
    "total_seconds?": NOT_NEGATIVE,
    "alone_seconds?": NOT_NEGATIVE,
    "teacher_seconds?": NOT_NEGATIVE,
    "cooldown_from?": COUNT,
    "continued_epochs?": WHOLE,
    "continued_seconds?": NOT_NEGATIVE,
    "recipe?": OBJECT,
    "versions?": OBJECT,
    "data_fingerprint?": str,
    "data_group?": str,
    "fold?": WHOLE,
    "teacher_group?": str,
    "recipe_version?": WHOLE,
    "git_commit?": str,
    "device?": str,
    "engine?": str,
    "model_sha256?": str,
    "teacher_sha256?": str,
    "brought?": OBJECT,
    "finished_at?": TIME,
}
ERROR = {"type": str, "message": str, "epoch?": WHOLE, "traceback?": str, "failures?": WHOLE}
EPOCH = {
    "epoch": WHOLE,
    "train_seconds": NOT_NEGATIVE,
    "val_mae_bpm": Maybe(NUMBER),
    "train_loss?": NUMBER,
    "pretrain_loss?": NUMBER,
    "lr?": NUMBER,
}
PAUSE = {
    "id": str,
    "epoch": POSITIVE,
    "max_epochs": POSITIVE,
    "val_mae_bpm": Maybe(NUMBER),
    "train_seconds": NOT_NEGATIVE,
    "paused_at": TIME,
}
PROGRESS = {
    "state": str,
    "time": NUMBER,
    "host": str,
    "pid": WHOLE,
    "running?": [{"point": str, "epoch": WHOLE, "max_epochs": POSITIVE, "val_mae_bpm?": NUMBER}],
    "rate_per_h?": NUMBER,
    "eta_s?": NUMBER,
    "slots?": WHOLE,
    "ray?": {"directory?": str},
    "done?": WHOLE,
    "checkpointed?": NUMBER,
}
_USED = {
    "event": str,
    "time": NUMBER,
    "slots": NOT_NEGATIVE,
    "cpus_per_slot": NOT_NEGATIVE,
    "gpus_per_slot": NOT_NEGATIVE,
}
LEDGER = {
    "point": {**_USED, "id": str, "train_seconds": NOT_NEGATIVE},
    "failed": {**_USED, "id": str},
    "end": {**_USED, "first_step?": NUMBER, "startup_s?": NOT_NEGATIVE},
    "shut_out": {**_USED, "node": str, "why": str},
}
_DECIDED = {"event": str, "time": NUMBER}
# Lines of decisions.jsonl: what was believed and named; what became of a point by that; that all is trained.
DECISIONS = {
    "decision": {
        **_DECIDED,
        "number": POSITIVE,
        "spent_s": NOT_NEGATIVE,
        "gpus_per_slot": NOT_NEGATIVE,
        "train": [OBJECT],
        "named": COUNT,
        "stop": Maybe(str),
        "belief": OBJECT,
    },
    **{
        event: {**_DECIDED, "id": str, "epoch": COUNT, "decision": COUNT}
        for event in ("started", "resumed", "paused")
    },
    "all": _DECIDED,
}


def problem(value: Any, spec: Any, where: str = "") -> str | None:
    """What is wrong with a value read from JSON, naming the key; None if it is as `spec` says."""
    if isinstance(spec, Maybe):
        return None if value is None else problem(value, spec.spec, where)
    if isinstance(spec, str | type):
        return None if _is(value, spec) else f"{where or 'it'} is {_short(value)}, not {_named(spec)}"
    if isinstance(spec, list):
        if not isinstance(value, list):
            return f"{where or 'it'} is {_short(value)}, not a list"
        found = (problem(item, spec[0], f"{where}[{i}]") for i, item in enumerate(value))
    elif not isinstance(value, Mapping):
        return f"{where or 'it'} is {_short(value)}, not a mapping"
    elif isinstance(spec, Each):
        found = (problem(item, spec.spec, _below(where, key)) for key, item in value.items())
    else:
        found = (_key_problem(value, key, of, where) for key, of in spec.items())
    return next((why for why in found if why), None)


def ledger_problem(entry: Mapping[str, Any]) -> str | None:
    """What is wrong with a line of the ledger."""
    event = entry.get("event")
    spec = LEDGER.get(event, _USED) if isinstance(event, str) else _USED
    return None if _plainly_sound(entry, spec) else problem(entry, spec)


def decision_problem(entry: Mapping[str, Any]) -> str | None:
    """What is wrong with a line of decisions.jsonl."""
    return problem(entry, DECISIONS.get(str(entry.get("event")), _DECIDED))


def _plainly_sound(entry: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Whether all is text and numbers of an ordinary size; if not, `problem` decides. For long ledgers."""
    for key, of in spec.items():
        value: Any = entry.get(key)
        kind = type(value)
        if of is str:
            if kind is not str:
                return False
        elif not ((kind is float or kind is int) and (0 if of == NOT_NEGATIVE else -1e299) <= value < 1e300):
            return False
    return True


def _key_problem(value: Mapping[str, Any], key: str, spec: Any, where: str) -> str | None:
    name = key.removesuffix("?")
    if name not in value:
        return None if name != key else f"{_below(where, name)} is missing"
    item = value[name]
    return None if item is None and name != key else problem(item, spec, _below(where, name))


def _is(value: Any, spec: str | type) -> bool:
    if spec == ANY:
        return True
    if isinstance(spec, type):
        return isinstance(value, spec)
    if spec == TIME:
        try:
            return isinstance(value, str) and datetime.fromisoformat(value) is not None
        except ValueError:
            return False
    if isinstance(value, bool) or not isinstance(
        value, int if spec in (WHOLE, POSITIVE, COUNT) else int | float
    ):
        return False
    least = 1 if spec == POSITIVE else 0 if spec in (NOT_NEGATIVE, COUNT) else -math.inf
    return (
        -1e300 < value < 1e300 and value >= least and (value > 0 or spec != ABOVE_0)
    )  # NaN compares as False


def _named(spec: str | type) -> str:
    return spec if isinstance(spec, str) else {str: "text", bool: "true or false"}.get(spec, spec.__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _below(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
