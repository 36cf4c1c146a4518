"""A question to a sweep's laws, from its directory to the answer: what `kdsweep query` and `suggest` say.

Reads laws.json and profile.json; fits and trains nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import write_text
from orchestrator.answers.best import answer
from orchestrator.answers.candidates import Budget
from orchestrator.answers.smallest import smallest
from orchestrator.answers.suggest import to_decide
from orchestrator.edge.latency import with_costs
from orchestrator.laws.document import laws_file, read_document
from orchestrator.store.metric import headline
from orchestrator.store.store import Store
from orchestrator.words import quoted

CONFIDENCE = 0.8  # probability that a new run reaches an error, where none is given


def ask(
    folder: Path,
    budget: Budget,
    max_mae: float | None = None,
    confidence: float | None = None,
    recipe: str | None = None,
    tracked: bool | None = None,
) -> dict[str, Any]:
    """What `kdsweep query --json` prints: the best student within a budget, or the smallest for an error.

    max_mae: BPM.
    recipe: that the laws must be of. tracked: errors with the tracker behind students, or without; None: as
    the sweep's metric has it.
    Raises InputError when the laws are missing, and for a budget that can't be asked about.
    """
    if confidence is not None and max_mae is None:
        raise InputError("--confidence needs --max-mae: add a target error, for example --max-mae 6")
    document = read_document(laws_file(folder, headline(folder), tracked), budget.device, recipe)
    if max_mae is None:
        result = answer(document, budget)
    else:
        result = smallest(document, max_mae, CONFIDENCE if confidence is None else confidence, budget)
    if result["verdict"] == "ok":
        if not result["decided"]:
            result["train"] = to_decide(document, budget)
            result["why"] = f"{train_in_words(result['train'])}; {result['why']}"
        result["why"] = "; ".join(filter(None, [result["why"], *document["made"].get("mixed", [])]))
    return with_costs(document, budget, result)


def train_in_words(picks: Sequence[str]) -> str:
    """What to train, for a sentence."""
    return f"train {', '.join(picks)} (kdsweep suggest)" if picks else "train more (kdsweep suggest)"


def suggest_space(
    folder: Path,
    budget: Budget,
    gpu_hours: float,
    out: Path | None = None,
    recipe: str | None = None,
) -> dict[str, Any]:
    """What `kdsweep suggest --json` prints; the suggested search space is written to `file` in it.

    gpu_hours: compute to spend (slot-hours if the sweep ran on CPUs). out: default suggested.yaml in the
    sweep's directory.
    recipe: that the laws must be of; the suggestion has theirs.
    `command` trains the suggestion, and with it the `untrained` points that the sweep has already. Raises
    InputError when nothing can be suggested.
    """
    # pydantic comes with these: a query does without
    from orchestrator.answers.next_space import describe, gpu_share, next_space, space_like, text
    from orchestrator.answers.suggest import suggest
    from orchestrator.space.spaces import load_spaces

    document = read_document(folder / "laws.json", budget.device, recipe)
    space = space_like(document, [space for _, space in load_spaces(folder)], str(folder))
    share = gpu_share(space, document["made"]["device"])
    suggestion = suggest(document, budget, gpu_hours / share)
    file = out or folder / "suggested.yaml"
    command = f"kdsweep run {quoted(file)} --out {quoted(folder)}"
    said = describe(document, suggestion, share)
    head = f"{command}\nabout {said['cost_gpu_hours']:.3g} GPU-hours; {expectation(said)}"
    write_text(file, text(next_space(space, document, suggestion), head))
    asked = {"sweep": document["sweep"], "gpu_hours": gpu_hours, "budget": budget.given}
    return asked | said | {"untrained": _untrained(folder), "file": str(file), "command": command}


def _untrained(folder: Path) -> int:
    """How many points of a sweep's plan are not trained; none where only its laws are there."""
    from orchestrator.space.plan import Plan

    file = folder / "plan.json"
    if not file.exists():
        return 0
    done = Store(folder).done()
    return sum(point.id not in done for point in Plan.load(file).points)


def expectation(said: dict[str, Any]) -> str:
    """The regret a suggestion removes, in words."""
    return (
        f"expected regret {said['regret_bpm']:.3f} BPM before, {said['regret_after_bpm']:.3f} after "
        f"{len(said['picks'])} points"
    )
