"""The tables of failures, costs, inits, runs, and what is needed to reproduce them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from orchestrator.report.costs import Inits, costs, inits
from orchestrator.report.sweep import Sweep
from orchestrator.report.tables import Cell, Table, columns, number, size, student

RUNS = 400  # rows of the table of runs: the best ones; the directory has them all


def trouble(sweep: Sweep) -> Table:
    """Failed points with their errors, then those blocked by a failed teacher."""
    rows = []
    for id, error in sweep.errors.items():
        p = sweep.plan.get(id)
        what = f"{p.arch} {p.depth}×{p.width} {p.role if p.role == 'teacher' else p.strategy}" if p else ""
        epoch = error.get("epoch")
        rows.append(
            [
                Cell(id),
                Cell(what),
                Cell("failed"),
                Cell(f"{error.get('type', 'Error')}: {error.get('message', 'no message recorded')}"),
                number(epoch, ".0f"),
            ]
        )
    for point in sweep.blocked:
        what = f"{point.arch} {point.depth}×{point.width} {point.strategy}"
        failed = next((id for id in point.needs if id in sweep.errors), None)
        why = f"its teacher {sweep.teacher(failed)} failed" if failed else "one of its teachers failed"
        rows.append([Cell(point.id), Cell(what), Cell("blocked"), Cell(why), Cell("–")])
    return Table(
        "Failed and blocked points", columns("point, what, state, why, #after epoch"), rows, open=True
    )


def cost(sweep: Sweep) -> Table:
    """Hours by stage and strategy."""
    rows = [
        [
            Cell(c.stage),
            Cell(c.what, None, c.what) if c.stage == "student" else Cell(c.what),
            Cell(c.kind),
            size(c.points),
            size(c.epochs) if c.epochs else Cell("–"),
            number(c.hours, ".3g"),
            number(c.seconds / c.points, ".1f"),
        ]
        for c in costs(sweep)
    ]
    return Table(
        "Training by stage and strategy",
        columns("stage, what, device, #points, #epochs, #hours, #seconds a point"),
        rows,
        open=True,
    )


def inits_compared(sweep: Sweep) -> Table | None:
    """Inits at equal epochs and equal compute; None when all students have one init."""
    found = inits(sweep)
    if not found:
        return None
    rows = [
        [
            Cell(f"{b.arch} {b.depth}×{b.width}", f"{b.arch} {b.depth:4} {b.width:6}"),
            Cell(b.strategy, None, b.strategy),
            Cell(b.init),
            size(b.pairs),
            _against(b.test),
            _against(b.at_epochs, "" if b.epochs is None else f" after {b.epochs}"),
            _against(b.at_total, "" if b.total_s is None else f" after {b.total_s:.0f} s", _nothing(b)),
        ]
        for b in found
    ]
    names = (
        "student, strategy, init, #pairs, #test MAE, #validation MAE at equal epochs, "
        "#validation MAE at equal compute"
    )
    note = (
        "Random init → the other, BPM. Equal epochs: the student's own training only; the teacher of a "
        "pruned student is not counted. Equal compute: seconds of all training, the teacher's share "
        "included, until the cheaper of the two ended."
    )
    return Table("Inits: random against pruned from the teacher", columns(names), rows, note, open=True)


def _nothing(b: Inits) -> str:
    return "– (no history kept)" if b.epochs is None else "– (its teacher alone takes longer)"


def _against(pair: tuple[float, float] | None, when: str = "", why: str = "–") -> Cell:
    if pair is None:
        return Cell(why)
    return Cell(f"{pair[0]:.2f} → {pair[1]:.2f}{when}", pair[1] - pair[0])


def runs(sweep: Sweep, most: int = RUNS) -> Table:
    """Every trained student, best first."""
    students = sorted(
        (r for r in sweep.results if r["role"] == "student"), key=lambda r: (r["mae_bpm"], str(r["id"]))
    )
    rows = [
        [
            *student(sweep, r),
            size(r["seed"]),
            size(r["params"]),
            number(r["mae_bpm"]),
            number(r.get("rmse_bpm")),
            number(r.get("within_5_bpm"), ".0%"),
            number(r["train_seconds"], ".1f"),
            Cell(str(r["id"])),
        ]
        for r in students[:most]
    ]
    more = len(students) - len(rows)
    note = f"The best {len(rows)}; {more} more are in the sweep directory." if more else ""
    names = (
        "student, strategy, teacher, #seed, #parameters, #MAE BPM, #RMSE BPM, #within 5 BPM, "
        "#training s, point"
    )
    return Table(f"All {len(students)} trained students", columns(names), rows, note)


def reproduce(sweep: Sweep) -> list[tuple[str, str]]:
    """What the numbers come from, as (term, value)."""
    made = sweep.document["made"]
    versions = Counter(
        ", ".join(f"{k} {v}" for k, v in sorted(r["versions"].items()))
        for r in sweep.results
        if r.get("versions")
    )
    devices = Counter(str(r["device"]) for r in sweep.results if r.get("device"))
    return [
        ("errors", sweep.metric),
        ("data", sweep.source or "not recorded"),
        ("data fingerprint", _joined(made["data_fingerprint"])),
        ("recipe version", _joined(made["recipe_version"])),
        ("commit of the training code", _joined(made["git_commit"])),
        ("trained with", _counts(versions)),
        ("trained on", _counts(devices)),
        (
            "laws",
            f"kdsweep {made['kdsweep']}, numpy {made['numpy']}, seed {made['seed']}, {made['draws']} draws, "
            f"{made['results']} results (digest {made['results_digest']}), fitted {made['at']}",
        ),
    ]


def _joined(value: Any) -> str:
    if value is None:
        return "not recorded"
    return "several: " + ", ".join(value) if isinstance(value, list) else str(value)


def _counts(counts: Mapping[str, int]) -> str:
    """Each, with how many models it is true of where there are several."""
    if len(counts) < 2:
        return "".join(counts) or "not recorded"
    return "; ".join(f"{name} ({counts[name]} models)" for name in sorted(counts))
