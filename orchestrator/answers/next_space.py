"""From a suggestion to a search space that `kdsweep run` takes. Knows the space's shape, nothing of laws."""

import json
from collections.abc import Sequence
from typing import Any

from kd.errors import InputError
from kd.training.strategies import PRETRAIN
from orchestrator.answers.suggest import Pick, Suggestion
from orchestrator.laws.arms import known_defaults, strategy_label
from orchestrator.space.schema import METHOD, SearchSpace, space_text


def gpu_share(space: SearchSpace, device: Any) -> float:
    """GPUs that one slot held while the sweep was trained; 1 on CPUs: there, hours are those of one slot."""
    devices = device if isinstance(device, list) else [device]
    if not any(str(d).startswith("cuda") for d in devices):
        return 1.0
    return space.resources.slot(True).gpus or 1.0


def describe(document: dict[str, Any], suggestion: Suggestion, share: float) -> dict[str, Any]:
    """The suggestion, JSON-ready."""
    return {
        "cost_gpu_hours": round(suggestion.cost_s * share / 3600, 6),
        "regret_bpm": round(suggestion.regret_bpm, 5),
        "regret_after_bpm": round(suggestion.regret_after_bpm, 5),
        "picks": [_pick(document, pick, share) for pick in suggestion.picks],
    }


def _pick(document: dict[str, Any], pick: Pick, share: float) -> dict[str, Any]:
    arm = document["arms"][pick.arm]
    columns = document["architectures"][arm["arch"]]["configurations"]
    return {
        **{key: arm[key] for key in ("arch", "init", "strategy", "strategy_args", "teacher")},
        **{key: columns[key][pick.row] for key in ("depth", "width", "params")},
        "label": strategy_label(arm["strategy"], arm["strategy_args"]),
        "seed": pick.seed,
        "gpu_hours": round(pick.cost_s * share / 3600, 6),
        "gain_bpm": round(pick.gain_bpm, 5),
        "why": pick.why,
    }


def space_like(document: dict[str, Any], spaces: Sequence[SearchSpace], sweep: str) -> SearchSpace:
    """The latest space whose students have the recipe that the laws were fitted to. Raises InputError."""
    if not spaces:
        raise InputError(f"{sweep} has no space.yaml: run the search space into this directory again")
    wanted = (document.get("group") or {}).get("recipe")
    for space in reversed(spaces):
        said = {k: v for k, v in (wanted or {}).items() if k != "channels"}  # of a block, not of all
        if not wanted or {k: str(v) for k, v in space.recipe("student").items()} == said:
            return space
    return spaces[-1]


def next_space(space: SearchSpace, document: dict[str, Any], suggestion: Suggestion) -> SearchSpace:
    """`space` with the suggested points for its students, and of the teachers those they need.

    Data, task and training are as they were, so that points have the ids they would have had in it, and a
    teacher that is trained is not trained again.
    """
    picks = [_pick(document, pick, 1.0) for pick in suggestion.picks]
    seen = ((document.get("group") or {}).get("recipe") or {}).get("channels")
    rows: dict[str, list[int]] = {}  # a block without its widths -> widths
    for pick in picks:
        block: dict[str, Any] = {"arch": pick["arch"], "depth": pick["depth"], "init": pick["init"]}
        known = known_defaults(pick["strategy"])
        changed = {k: v for k, v in pick["strategy_args"].items() if v != known.get(k)}
        block |= {"strategies": {pick["strategy"]: changed}, "seeds": pick["seed"]}
        if pick["teacher"]:
            block["teachers"] = pick["teacher"]
        if seen:
            block["channels"] = seen
        rows.setdefault(json.dumps(block), []).append(pick["width"])
    students = [{**json.loads(block), "width": sorted(widths)} for block, widths in rows.items()]
    used = sorted({pick["teacher"] for pick in picks if pick["teacher"]})
    teachers: list[dict[str, Any]] = []
    brought, names = {block.name: block for block in space.brought}, list[str]()
    for id in used:
        point = document["teacher_points"][id]
        if (name := point.get("brought")) in brought:
            names += [*(brought[name].mean or []), name]  # a mean needs its members, too
        else:
            block = {**{k: point[k] for k in ("arch", "depth", "width")}, "seeds": point["seed"]}
            if epochs := point.get(PRETRAIN):
                block["pretrain"] = {"method": METHOD, "epochs": epochs}
            if point.get("channels"):
                block["channels"] = point["channels"]
            teachers.append(block)
    if any(name not in brought for name in names):  # members that are trained here: all they may be
        teachers += [block.model_dump(mode="json", exclude_defaults=True) for block in space.grids]
    names = [name for name in dict.fromkeys(names) if name in brought]
    teachers += [brought[name].model_dump(mode="json", exclude_defaults=True) for name in names]
    kept = space.model_dump(mode="json", exclude_defaults=True)
    for key in ("teachers", "students", "strategies", "seeds"):
        kept.pop(key, None)
    return SearchSpace.model_validate({**kept, "teachers": teachers, "students": students})


def text(space: SearchSpace, head: str) -> str:
    """YAML with `head` as comments."""
    return "".join(f"# {line}\n" for line in head.splitlines()) + space_text(space)
