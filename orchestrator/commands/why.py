"""`kdsweep why SWEEP POINT`: what was believed when a point was started, paused, resumed or left."""

import json
import time
from collections.abc import Mapping
from typing import Any

import click

from orchestrator.commands.arguments import POINT, SWEEP
from orchestrator.run.belief import ADVISED, P_BEST, verdict
from orchestrator.run.why import why as why_of
from orchestrator.store.find import sweep_folder
from orchestrator.words import escaped_lines, model_name


@click.command()
@click.argument("sweep", type=SWEEP)
@click.argument("point", type=POINT)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def why(sweep: str, point: str, as_json: bool) -> None:
    """Show why POINT of SWEEP was trained, paused or left, in a sweep run with --answer.

    POINT is an id, or the beginning of one. Each line tells what was believed at that time.
    """
    found = why_of(sweep_folder(sweep), point)
    click.echo(json.dumps(found, indent=1) if as_json else escaped_lines(in_words(found)))


def in_words(found: Mapping[str, Any]) -> str:
    """The same as text."""
    p = found["what"] or {}
    kind = "teacher" if p.get("role") == "teacher" else p.get("strategy", "")
    name = model_name(p["arch"], p["depth"], p["width"], "{} {}x{}") if p else "unknown"
    lines = [
        f"point {found['point']} of {found['sweep']}: {found['state']}",
        f"           {kind} {name}".rstrip(),
    ]
    for event in found["events"]:
        lines += [f"{_at(event['time'])}  {_happened(event)}", *_believed(event["decision"])]
    if found["state"] == "done":
        lines.append(f"done       {found['error_bpm']:.2f} BPM")
    if not found["events"]:
        text = f"never begun: {found['named']} of {found['decisions']} decisions named it"
        lines.append(f"{found['state']:9}  {text}")
    if found["state"] not in ("done", "failed") and (last := found["last"]):
        place = f"named as number {last['place']}" if last["place"] else "not named"
        lines += [f"{_at(last['time'])}  {place} by the last decision, {last['number']}", *_believed(last)]
    return "\n".join(lines)


def _at(seconds: float) -> str:
    return time.strftime("%d %H:%M:%S", time.localtime(seconds))[:11]


def _happened(event: Mapping[str, Any]) -> str:
    if event["event"] == "paused":
        val = event.get("val_mae_bpm")
        return f"paused after epoch {event['epoch']}" + (
            f", validation {val:.2f} BPM" if val is not None else ""
        )
    after = f" after epoch {event['epoch']}" if event["epoch"] else ""
    until = f", to epoch {event['until']}" if event.get("until") else ""
    return f"{event['event']}{after}{until}"


def _believed(decision: Mapping[str, Any] | None) -> list[str]:
    """What a decision believed, a line each."""
    if decision is None:
        return []
    belief, gpus = decision["belief"], decision["gpus_per_slot"]
    hours = decision["spent_s"] / 3600 * (gpus or 1.0)
    unit = "GPU" if gpus else "slot"
    place = (
        f"; the point was number {decision['place']} of {decision['named']} named"
        if decision["place"]
        else ""
    )
    lines = [f"decision {decision['number']}, after {hours:.3g} {unit}-hours{place}"]
    advised = belief.get(ADVISED)
    best = f", best with probability {belief[P_BEST]:.2g}" if belief.get(P_BEST) is not None else ""
    lines.append(f"advised {advised}{best}" if advised else "nothing to advise yet")
    lines.append(verdict(belief, decision["stop"], decision["until_regret"], gpus))
    if decision["stop"]:
        lines.append(f"stopped: {decision['stop']}")
    return [f"             {line}" for line in lines]
