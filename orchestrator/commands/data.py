"""`kdsweep data check PATH`: which recordings are there, and what is kept or dropped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.words import escaped_lines

if TYPE_CHECKING:
    import numpy as np

    from kd.recordings import Recording
    from kd.signals.windows import WindowSet

BIN_BPM = 10
BAR = 40  # characters of the longest bar


@click.group()
def data() -> None:
    """Inspect recordings."""


@data.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--format", default="auto", show_default=True, help="Format, if it isn't detected.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(path: Path, format: str, as_json: bool) -> None:
    """Show which recordings are at PATH, and what is kept or dropped.

    Format, data sets, subjects, hours, windows, heart rates; what was dropped and why. Windows are cut
    with the default settings of a search space.
    """
    import sys

    def tell(line: str) -> None:
        if sys.stderr.isatty():
            click.echo(line, err=True)

    tell(f"reading {path}")
    found = examine(path, format, tell)
    click.echo(json.dumps(found, indent=2) if as_json else escaped_lines(in_words(found)))


def examine(path: Path, format: str, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Everything `data check` says, as a JSON-ready dict. Raises InputError when nothing is recognised."""
    from kd import datasets
    from kd.signals.preprocess import Preprocess
    from kd.signals.windows import make_windows, subject_label

    name, recordings = datasets.load(path, format)
    windows, dropped = make_windows(recordings, Preprocess(), progress=progress)
    sets = sorted({r.dataset for r in recordings})
    lost = {subject_label(r) for r in recordings} - set(windows.subject.tolist())
    return {
        "path": str(path),
        "format": name,
        **_summary(recordings, windows),
        "datasets": {
            s: _summary([r for r in recordings if r.dataset == s], windows.take(windows.dataset == s))
            for s in sets
        },
        "dropped": {
            "windows": dropped.total,
            "by_reason": dropped.by_reason,
            "by_recording": dropped.by_recording,
            "subjects_without_windows": sorted(lost),
        },
    }


def _summary(recordings: "list[Recording]", windows: "WindowSet") -> dict[str, Any]:
    """Figures of some recordings and their windows."""
    from kd.signals.windows import subject_label

    return {
        "recordings": len(recordings),
        "subjects": len({subject_label(r) for r in recordings}),
        "channels": sorted({r.ppg.shape[0] for r in recordings}),
        "fs_hz": sorted({r.fs for r in recordings}),
        "hours": round(sum(r.seconds for r in recordings) / 3600, 3),
        "windows": len(windows),
        "hr_bpm": _heart_rates(windows.bpm),
    }


def _heart_rates(bpm: "np.ndarray") -> dict[str, Any] | None:
    """Minimum, median and maximum, and how many windows each BIN_BPM hold; None without windows."""
    import numpy as np

    if len(bpm) == 0:
        return None
    low = BIN_BPM * int(bpm.min() // BIN_BPM)
    count = np.bincount(((bpm - low) // BIN_BPM).astype(int))
    return {
        "min": round(float(bpm.min()), 1),
        "median": round(float(np.median(bpm)), 1),
        "max": round(float(bpm.max()), 1),
        "histogram": [
            {"from": low + BIN_BPM * i, "to": low + BIN_BPM * (i + 1), "windows": int(n)}
            for i, n in enumerate(count)
        ],
    }


def in_words(found: dict[str, Any]) -> str:
    """The same as text."""
    rows = [(name, s) for name, s in found["datasets"].items()]
    if len(rows) > 1:
        rows.append(("all", found))
    wide = max(len("data set"), *(len(name) for name, _ in rows))
    lines = [
        f"{found['path']}: {found['format']}",
        "",
        f"{'data set':{wide}}  subjects  recordings    hours  windows  channels    Hz  heart rate, BPM",
    ]
    for name, s in rows:
        hr = s["hr_bpm"]
        lines.append(
            f"{name:{wide}}  {s['subjects']:8,}  {s['recordings']:10,}  {s['hours']:7.2f}  "
            f"{s['windows']:7,}  {_range(s['channels']):>8}  {_range(s['fs_hz']):>4}  "
            + (f"{hr['min']:.0f} to {hr['max']:.0f}, median {hr['median']:.0f}" if hr else "no window")
        )
    if found["hr_bpm"]:
        lines += ["", "heart rate, windows for each 10 BPM", *bars(found["hr_bpm"]["histogram"])]
    dropped = found["dropped"]
    total = found["windows"] + dropped["windows"]
    lines += ["", f"dropped {dropped['windows']:,} of {total:,} windows"]
    lines += [f"{n:8,}  {reason}" for reason, n in sorted(dropped["by_reason"].items(), key=lambda i: -i[1])]
    if dropped["subjects_without_windows"]:
        lines.append(f"no usable window: {', '.join(dropped['subjects_without_windows'])}")
    return "\n".join(lines)


def bars(histogram: list[dict[str, int]]) -> list[str]:
    """One line a bin; the longest bar has BAR characters, and a bin that isn't empty at least one."""
    most = max(b["windows"] for b in histogram)
    return [
        f"{b['from']:5}  {'#' * -(-b['windows'] * BAR // most):{BAR}}  {b['windows']:,}" for b in histogram
    ]


def _range(values: list[float]) -> str:
    """One number, or minimum and maximum."""
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g}-{values[-1]:g}"
