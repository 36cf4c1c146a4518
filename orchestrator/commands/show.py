"""`kdsweep show SWEEP POINT`: everything of one point."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import click

from orchestrator.api import open_sweep
from orchestrator.commands.arguments import POINT, SWEEP
from orchestrator.words import escaped_lines, model_name, quoted

BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 60  # of the curve; more epochs are averaged
MOST_SUBJECTS = 12


@click.command()
@click.argument("sweep", type=SWEEP)
@click.argument("point", type=POINT)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(sweep: str, point: str, as_json: bool) -> None:
    """Show one POINT of SWEEP: size, strategy, teacher, errors, also by subject, files, training curve.

    POINT is an id, or the beginning of one.
    """
    found = open_sweep(sweep).point(point)
    click.echo(json.dumps(found, indent=1) if as_json else escaped_lines(in_words(found)))


def in_words(found: dict[str, Any]) -> str:
    """The same as text."""
    from orchestrator.words import duration

    r = found["result"] or {}
    p = {**(found["planned"] or {}), **r}
    lines = [f"point {found['point']} of {found['sweep']}: {found['state']}"]
    if p:
        args = "".join(f" {name}={value}" for name, value in p["strategy_args"].items())
        lines += [
            *_model(p, args),
            _line("size", _size(p)),
        ]
    if teacher := found["teacher"]:
        mae = f", {teacher['mae_bpm']:.2f} BPM" if teacher["mae_bpm"] is not None else ""
        name = teacher["arch"], teacher["depth"], teacher["width"]
        shape = f", {model_name(*name, form='{} {}x{}')}" if teacher["arch"] else ""
        lines.append(_line("teacher", f"{teacher['point']}{shape}{mae}"))
    if found["students"]:
        lines.append(_line("students", f"{len(found['students'])} wait for it or learnt from it"))
    if r:
        lines.append(
            _line(
                "test",
                f"{found['error_bpm']:.2f} BPM ({found['metric']}); "
                f"over windows MAE {r['mae_bpm']:.2f}{_more(r)}",
            )
        )
        lines += _tracked(r)
        best = f", best after {r['best_epoch']}" if "best_epoch" in r else ""
        if r.get("continued_epochs"):
            best += f", the first {r['continued_epochs']} by a shorter training"
        lines.append(
            _line(
                "training",
                f"{r.get('epochs', '?')} epochs{best}, {duration(r['train_seconds'])} on {r.get('device')}, "
                f"finished {r.get('finished_at')}",
            )
        )
    if (waits := found["paused"]) and found["state"] == "paused":
        lines.append(
            _line(
                "paused",
                f"after epoch {waits['epoch']} of {waits['max_epochs']}, {duration(waits['train_seconds'])}; "
                f"its checkpoint is kept",
            )
        )
        lines.append(_line("", f"why: kdsweep why {quoted(found['sweep'])} {found['point']}"))
    if error := found["error"]:
        lines.append(_line("failed", f"{error['type']}: {(error['message'].splitlines() or [''])[0]:.200}"))
        lines.append(_line("", f"why: kdsweep logs {quoted(found['sweep'])} {found['point']}"))
    curve = [row["val_mae_bpm"] for row in found["history"] if row.get("val_mae_bpm") is not None]
    if curve:
        lines.append(
            _line("curve", f"{sparkline(curve)}  validation MAE {curve[0]:.2f} to {min(curve):.2f} BPM")
        )
    lines += _subjects(r.get("mae_by_subject") or {})
    if found["files"]:
        names = (f"{name} ({size / 1000:,.1f} kB)" for name, size in found["files"].items())
        lines.append(_line("files", "\n           ".join(names)))
    return "\n".join(lines)


def _fold(p: dict[str, Any]) -> str:
    return "" if p.get("fold") is None else f", fold {p['fold']}"


def _more(r: dict[str, Any]) -> str:
    """Its other errors on the test subjects, as far as the result has them."""
    rmse = f", RMSE {r['rmse_bpm']:.2f}" if r.get("rmse_bpm") is not None else ""
    return rmse + (f", {r['within_5_bpm']:.0%} within 5 BPM" if r.get("within_5_bpm") is not None else "")


def _tracked(r: dict[str, Any]) -> list[str]:
    """What the tracker makes of it, and how sure it is, as far as the result has that."""
    if r.get("mae_bpm_tracked") is None:
        return []
    slow = ("step_63_s", "63 % of a step"), ("step_5_bpm_s", "5 BPM of it")
    late = (f"{what} after {r[key]:g} s" for key, what in slow if r.get(key) is not None)
    parts = [
        f"over windows MAE {r['mae_bpm_tracked']:.2f} BPM",
        *late,
        f"{r['coverage_90_tracked']:.0%} in its 90 % interval",
        f"unsure of {r['unsure']:.0%}",
    ]
    return [_line("tracked", ", ".join(parts))]


def _size(p: dict[str, Any]) -> str:
    """Parameters, and what else is known of the cost."""
    parts = [f"{p['params']:,} parameters"]
    if p.get("macs"):
        parts.append(f"{p['macs']:,} MACs")
    for key, what in (("weight_bytes", "weights"), ("weight_bytes_int8", "in int8")):
        if p.get(key):
            parts.append(f"{p[key] / 1000:,.1f} kB {what}")
    return ", ".join(parts)


def sparkline(values: Sequence[float], most: int = MOST_BARS) -> str:
    """A curve in one line of text, at most `most` characters: each the mean of its stretch of values."""
    n = min(len(values), most)
    edges = [round(k * len(values) / n) for k in range(n + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)


def _subjects(errors: dict[str, float]) -> list[str]:
    """MAE by subject, worst first."""
    worst = sorted(errors.items(), key=lambda item: -item[1])
    wide = max((len(name) for name, _ in worst), default=0)
    lines = [
        _line("subjects" if k == 0 else "", f"{name:{wide}}  {mae:6.2f} BPM")
        for k, (name, mae) in enumerate(worst[:MOST_SUBJECTS])
    ]
    if len(worst) > MOST_SUBJECTS:
        lines.append(_line("", f"and {len(worst) - MOST_SUBJECTS} with smaller errors: --json has all"))
    return lines


def _line(name: str, text: str) -> str:
    return f"{name:9}  {text}".rstrip()


def _model(p: dict[str, Any], args: str) -> list[str]:
    """What it is, and how it was trained or where it is from."""
    if brought := p.get("brought"):
        return [_line("model", f"teacher, brought: {brought['name']} ({brought['kind']}){_fold(p)}")]
    return [
        _line("model", f"{p['role']}, {p['arch']} depth {p['depth']} width {p['width']}, init {p['init']}"),
        _line("strategy", f"{p['strategy']}{args}, seed {p['seed']}{_fold(p)}"),
    ]
