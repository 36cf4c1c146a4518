"""`kdsweep data check PATH|SPACE`: which recordings are there, what is wrong with labels, what is kept."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kd.errors import InputError
from orchestrator.commands.arguments import SPACE
from orchestrator.commands.echo import echo
from orchestrator.words import escaped_lines

if TYPE_CHECKING:
    import numpy as np

    from kd.recordings import Recording
    from kd.signals.prepare import DataConfig
    from kd.signals.windows import Dropped, WindowSet

BIN_BPM = 10
BAR = 40  # characters of the longest bar
SUFFIXES = (".yaml", ".yml")  # of a search space
NAMED = 5  # recordings whose labels are named in words; --json has all
Progress = Callable[[str], None]


@click.group()
def data() -> None:
    """Inspect recordings."""


@data.command()
@click.argument("source", type=SPACE, metavar="PATH|SPACE")
@click.argument("overrides", nargs=-1)
@click.option("--format", help="Format of the recordings at PATH, if it isn't detected.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(source: str, overrides: Sequence[str], format: str | None, as_json: bool) -> None:
    """Show which recordings are at PATH, or those of SPACE, and what is kept or dropped.

    Format, data sets, subjects, hours, windows, heart rates; labels that are missing, zero, outside the
    classes, or jump; what was dropped and why. Recordings of SPACE (a YAML file or a sweep) are cut and
    divided as it says; OVERRIDES change single values, such as data.path=/data/ppg. Those at PATH are cut
    with the default settings of a search space.
    """
    import sys

    def tell(line: str) -> None:
        if sys.stderr.isatty():
            echo(line, err=True)

    if is_space(source):
        if format:
            raise InputError(f"--format is for recordings at a path: give {source} data.source={format}")
        found = examine_space(source, overrides, tell)
    elif overrides:
        raise InputError(
            f"{source} is no search space, and {overrides[0]} changes one: leave it out, or give a space"
        )
    else:
        tell(f"reading {source}")
        found = examine(Path(source), format or "auto", tell)
    click.echo(json.dumps(found, indent=2) if as_json else escaped_lines(in_words(found)))


@data.command()
@click.argument("space", type=SPACE)
@click.argument("overrides", nargs=-1)
@click.option("-o", "--output", required=True, help="The file to write, such as windows.parquet.")
def windows(space: str, overrides: Sequence[str], output: str) -> None:
    """Write which windows SPACE has, for outputs of a teacher that are computed elsewhere.

    A row a window, in the order that logits.npy and features.npy must have: recording, subject, when it
    starts and ends, seconds after the recording's first sample, and heart rate. Copies (copy above 0) are
    recordings played at fs. Put the file beside the outputs: it holds the hash of these windows.
    """
    import sys

    from kd.teachers.ready import write_index
    from orchestrator.space.resolve import data_of

    def tell(line: str) -> None:
        if sys.stderr.isatty():
            echo(line, err=True)

    config, cache_dir = data_of(space, overrides)
    path = Path(output)
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: no such folder: make it first")
    echo(f"{write_index(config, cache_dir, path, tell):,} windows in {path}")


def is_space(source: str) -> bool:
    """Whether a search space is meant: a YAML file, a sweep, or a sweep's name where no such path is."""
    path = Path(source)
    folder = path if path.exists() else Path("sweeps") / source
    return path.suffix in SUFFIXES or (folder / "space.yaml").is_file()


def examine(path: Path, format: str, progress: Progress | None = None) -> dict[str, Any]:
    """All that `data check PATH` says, as a JSON-ready dict. Raises InputError when nothing is recognised."""
    from kd import datasets
    from kd.signals.prepare import DataConfig

    name, recordings = datasets.load(path, format)
    return _findings(DataConfig(source=name, path=str(path)), name, recordings, progress)[0]


def examine_space(
    space: str, overrides: Sequence[str] = (), progress: Progress | None = None
) -> dict[str, Any]:
    """All that `data check SPACE` says: the same, cut as the space says, and how subjects are divided.

    Raises InputError for a space, recordings or a division that `run` would refuse.
    """
    import numpy as np

    from kd import datasets
    from kd.signals.prepare import load_recordings
    from kd.signals.splits import split_subjects
    from orchestrator.space.resolve import space_of

    config = space_of(space, overrides, None)[0].data_config()
    recordings = load_recordings(config, progress)
    found_by_itself = config.path is not None and config.source == "auto"
    name = datasets.recognise(str(config.path)) if found_by_itself else config.source
    found, windows = _findings(config, name, recordings, progress)
    sides = {side: windows.take(at) for side, at in split_subjects(windows, config.split).items()}

    def divided(dataset: str | None = None) -> dict[str, dict[str, int]]:
        parts = {s: w if dataset is None else w.take(w.dataset == dataset) for s, w in sides.items()}
        return {s: {"subjects": len(np.unique(w.subject)), "windows": len(w)} for s, w in parts.items()}

    for dataset in found["datasets"]:
        found["datasets"][dataset]["split"] = divided(dataset)
    more = {"unlabelled": _unlabelled(config, recordings, windows, progress)} if config.unlabelled else {}
    return {"space": space, **found, "split": divided(), "copies": config.augment.copies, **more}


def _unlabelled(
    config: "DataConfig", labelled: "list[Recording]", windows: "WindowSet", progress: Progress | None
) -> dict[str, Any]:
    """What there is of recordings without labels, and what is left out of it, before any gate."""
    import numpy as np

    from kd.signals.fingerprints import fingerprints
    from kd.signals.prepare import unlabelled_recordings
    from kd.signals.splits import assign_subjects
    from kd.signals.unlabelled import OTHER_SIDE, held_out
    from kd.signals.windows import cut, subject_label

    assert config.unlabelled is not None
    subjects, counts = np.unique(windows.subject, return_counts=True)
    names = [str(subject) for subject in subjects]
    side_of = assign_subjects(names, config.split, dict(zip(names, counts.tolist(), strict=True)))
    of: list[tuple[str, list[str], float, int]] = []
    dropped: Counter[str] = Counter()
    recordings = unlabelled_recordings(config, progress)
    for r, x, _, _, reasons in cut(
        recordings, config.preprocess, config.bpm_range, lead_s=config.lead_s, labelled=False
    ):
        of.append((subject_label(r), fingerprints(r), r.seconds, len(x)))
        dropped.update(reasons)
    out = held_out(
        [subject for subject, _, _, _ in of],
        [signal for _, signal, _, _ in of],
        [(subject_label(r), fingerprints(r)) for r in labelled],
        side_of,
        config.split.scheme == "lodo",
    )
    return {
        "path": config.unlabelled.path,
        "recordings": len(of),
        "subjects": len({subject for subject, _, _, _ in of}),
        "hours": round(sum(seconds for _, _, seconds, _ in of) / 3600, 3),
        "windows": sum(n for subject, _, _, n in of if subject not in out),
        "left_out": {OTHER_SIDE: sum(n for subject, _, _, n in of if subject in out)},
        "dropped": {"windows": dropped.total(), "by_reason": dict(dropped)},
        "copies": config.unlabelled.copies,
        "gate": config.unlabelled.gate,
        "keep": config.unlabelled.keep,
    }


def _findings(
    config: "DataConfig", name: str, recordings: "list[Recording]", progress: Progress | None
) -> "tuple[dict[str, Any], WindowSet]":
    """What holds of a path and a space, and the windows that are kept."""
    from kd.signals.labels import JUMP_BPM_PER_S, LabelFaults, faults
    from kd.signals.windows import make_windows, subject_label

    lowest, highest = config.bpm_range
    windows, dropped = make_windows(
        recordings,
        config.preprocess,
        bpm_range=config.bpm_range,
        lead_s=config.lead_s,
        progress=progress,
    )
    lost = {subject_label(r) for r in recordings} - set(windows.subject.tolist())
    labels = {_name(r): faults(r, config.bpm_range) for r in recordings}

    def summary(part: "list[Recording]", cut: "WindowSet") -> dict[str, Any]:
        return {
            **_summary(part, cut),
            "labels": asdict(sum((labels[_name(r)] for r in part), LabelFaults())),
            "dropped": _dropped(part, dropped),
        }

    found = {
        "path": config.path,
        "format": name,
        "settings": {**config.preprocess.identity, "bpm_range": [lowest, highest]},
        "jump_bpm_per_s": JUMP_BPM_PER_S,
        **summary(recordings, windows),
        "datasets": {
            s: summary([r for r in recordings if r.dataset == s], windows.take(windows.dataset == s))
            for s in sorted({r.dataset for r in recordings})
        },
        "labels_by_recording": {
            name: asdict(f) for name, f in labels.items() if f != LabelFaults(labels=f.labels)
        },
    }
    found["dropped"] |= {
        "by_recording": dropped.by_recording,
        "subjects_without_windows": sorted(lost),
    }
    return found, windows


def _name(recording: "Recording") -> str:
    return f"{recording.dataset}/{recording.name}"


def _dropped(recordings: "list[Recording]", dropped: "Dropped") -> dict[str, Any]:
    """How many windows of some recordings were dropped, in all and for each reason."""
    reasons: Counter[str] = Counter()
    for recording in recordings:
        reasons.update(dropped.by_recording.get(_name(recording), {}))
    return {"windows": reasons.total(), "by_reason": dict(reasons)}


def _summary(recordings: "list[Recording]", windows: "WindowSet") -> dict[str, Any]:
    """Figures of some recordings and their windows."""
    from kd.signals.windows import subject_label

    return {
        "recordings": len(recordings),
        "subjects": len({subject_label(r) for r in recordings}),
        "channels": sorted({r.ppg.shape[0] for r in recordings}),
        "fs_hz": sorted({r.fs for r in recordings}),
        "sensors": {
            name: {
                "recordings": sum(name in r.sensors for r in recordings),
                "fs_hz": sorted({r.sensors[name].fs for r in recordings if name in r.sensors}),
            }
            for name in sorted({name for r in recordings for name in r.sensors})
        },
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
    rows = list(found["datasets"].items())
    if len(rows) > 1:
        rows.append(("all", found))
    wide = max(len("data set"), *(len(name) for name, _ in rows))
    cut, (lowest, highest) = found["settings"], found["settings"]["bpm_range"]
    lines = [
        f"{found['path'] or found['space']}: {found['format']}",
        f"windows of {cut['window_s']:g} s every {cut['stride_s']:g} s at {cut['fs']:g} Hz, "
        f"{cut['low_hz']:g} to {cut['high_hz']:g} Hz; classes {lowest:g} to {highest:g} BPM",
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
    lines += _sensors_in_words(rows)
    lines += ["", *_labels_in_words(found, rows, wide)]
    if "split" in found:
        lines += ["", *_split_in_words(found, rows, wide)]
    if "unlabelled" in found:
        lines += ["", *_unlabelled_in_words(found["unlabelled"])]
    if found["hr_bpm"]:
        lines += ["", "heart rate, windows for each 10 BPM", *bars(found["hr_bpm"]["histogram"])]
    dropped = found["dropped"]
    lines += ["", f"dropped {dropped['windows']:,} of {found['windows'] + dropped['windows']:,} windows"]
    lines += [f"{n:8,}  {reason}" for reason, n in _most_first(dropped)]
    for name, s in found["datasets"].items() if len(rows) > 1 else ():
        why = ", ".join(f"{n:,} {reason}" for reason, n in _most_first(s["dropped"]))
        total = s["windows"] + s["dropped"]["windows"]
        lines.append(f"{name}: {s['dropped']['windows']:,} of {total:,}" + (f" ({why})" if why else ""))
    if dropped["subjects_without_windows"]:
        lines.append(f"no usable window: {', '.join(dropped['subjects_without_windows'])}")
    return "\n".join(lines)


def _most_first(dropped: dict[str, Any]) -> list[tuple[str, int]]:
    return sorted(dropped["by_reason"].items(), key=lambda item: -item[1])


def _sensors_in_words(rows: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Which recordings have more than PPG, a line a data set and sensor."""
    return [
        f"{name}: {sensor} in {found['recordings']:,} of {s['recordings']:,} recordings, "
        f"{_range(found['fs_hz'])} Hz"
        for name, s in rows
        for sensor, found in s["sensors"].items()
    ]


def _labels_in_words(found: dict[str, Any], rows: list[tuple[str, dict[str, Any]]], wide: int) -> list[str]:
    """What is wrong with labels, a line a data set; and the recordings where most is."""
    faults = ("missing", "zero", "out_of_range", "jumps")
    lines = [
        f"labels; a jump changes by more than {found['jump_bpm_per_s']:g} BPM in a second",
        f"{'data set':{wide}}   labels  missing     zero  out of range    jumps",
    ]
    for name, s in rows:
        n = s["labels"]
        lines.append(
            f"{name:{wide}}  {n['labels']:7,}  {n['missing']:7,}  {n['zero']:7,}  {n['out_of_range']:12,}  "
            f"{n['jumps']:7,}"
        )
    if left_out := found["labels"]["left_out"]:
        lines.append(f"{left_out:,} more readings outside the classes were left out of labels that are means")
    by_recording = {r: sum(n[f] for f in faults) for r, n in found["labels_by_recording"].items()}
    worst = sorted(by_recording.items(), key=lambda item: -item[1])
    if worst:
        more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
        lines.append("most in " + ", ".join(f"{name} ({n:,})" for name, n in worst[:NAMED]) + more)
    return lines


def _split_in_words(found: dict[str, Any], rows: list[tuple[str, dict[str, Any]]], wide: int) -> list[str]:
    """Windows and subjects of each side, a line a data set."""
    sides = {"train": "train", "val": "validation", "test": "test"}
    lines = [
        "windows (subjects)",
        f"{'data set':{wide}}  " + "  ".join(f"{title:>15}" for title in sides.values()),
    ]
    for name, s in rows:
        cells = (f"{s['split'][side]['windows']:,} ({s['split'][side]['subjects']:,})" for side in sides)
        lines.append(f"{name:{wide}}  " + "  ".join(f"{cell:>15}" for cell in cells))
    if found["copies"]:
        lines.append(f"for training, {found['copies']} changed copies of each training recording are added")
    return lines


def _unlabelled_in_words(found: dict[str, Any]) -> list[str]:
    """What is trained on without labels."""
    lines = [
        f"without labels: {found['windows']:,} windows to train on; {found['recordings']:,} recordings of "
        f"{found['subjects']:,} subjects, {found['hours']:.2f} hours",
        *(f"{n:8,}  left out: {why}" for why, n in found["left_out"].items() if n),
        *(f"{n:8,}  dropped: {reason}" for reason, n in _most_first(found["dropped"])),
    ]
    if found["copies"]:
        lines.append(f"{found['copies']} changed copies of each of these recordings are added")
    if found["gate"] != "none":
        lines.append(f"of these, the {found['keep']:.0%} that the gate ({found['gate']}) holds best are seen")
    return lines


def bars(histogram: list[dict[str, int]]) -> list[str]:
    """One line a bin; the longest bar has BAR characters, and a bin that isn't empty at least one."""
    most = max(b["windows"] for b in histogram)
    return [
        f"{b['from']:5}  {'#' * -(-b['windows'] * BAR // most):{BAR}}  {b['windows']:,}" for b in histogram
    ]


def _range(values: list[float]) -> str:
    """One number, or minimum and maximum."""
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g}-{values[-1]:g}"
