"""`kdsweep profile SWEEP`: measure students as deployed, into profile.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kd.errors import InputError
from orchestrator.commands.arguments import SWEEP
from orchestrator.commands.echo import echo
from orchestrator.store.find import sweep_folder

LIMITS = {  # as in `kdsweep query` -> figure of result.json, its units per unit of the limit
    "max_params": ("params", 1.0),
    "max_macs": ("macs", 1.0),
    "max_memory_kb": ("activation_bytes", 1000.0),
    "max_flash_kb": ("weight_bytes", 1000.0),
    "max_mae": ("mae_bpm", 1.0),
}


@click.command()
@click.argument("sweep", type=SWEEP)
@click.option(
    "--points",
    multiple=True,
    default=["front", "law"],
    show_default=True,
    help="front: Pareto front; law: extra shapes to fit the latency law; all; or a point id.",
)
@click.option(
    "--budget",
    multiple=True,
    metavar="NAME=MOST",
    help=f"Only students within this limit, NAME one of {', '.join(LIMITS)}.",
)
@click.option("--runs", default=1000, show_default=True, help="Timed inferences per runtime.")
@click.option("--again", is_flag=True, help="Re-measure points already measured on this device.")
@click.option("--mcu", is_flag=True, help="Also measure .tflite bytes and tensor arena of the Pareto front.")
@click.option(
    "--mcu-env",
    type=click.Path(file_okay=False, path_type=Path),
    help="Python environment for --mcu, created if missing.  [default: in the user's cache]",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(["m0plus", "m4", "m7", "m33", "m55"]),
    help="Also count the instructions of --points in C on an emulated Cortex-M; may be repeated.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="With --target: of the C.",
)
@click.option(
    "--cmsis-nn",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="With --target and --precision int8: a checkout of CMSIS-NN, to do the products.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be measured, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print profile.json instead of the table.")
def profile(
    sweep: str,
    points: Sequence[str],
    budget: Sequence[str],
    runs: int,
    again: bool,
    mcu: bool,
    mcu_env: Path | None,
    targets: Sequence[str],
    precision: str,
    cmsis_nn: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure students of SWEEP on this machine: bytes, load time, latency, and int8 drift.

    Each model runs in a fresh process, on one thread and one pinned core. A latency law is fitted to the
    measurements, so that `kdsweep query --max-latency-ms` also covers unmeasured students. A refitted
    student (`kdsweep refit`) is measured when named; unmeasured, its card has the figures of its point, which
    has the same shape.

    With --target the C of `kdsweep export --c` is built, and run in QEMU on test vectors: instructions (not
    cycles or wait states), stack, static RAM and flash. It needs Debian's gcc-arm-none-eabi,
    libnewlib-arm-none-eabi and qemu-system-arm.
    """
    from orchestrator.edge.mcu import default_environment, environment, profile_mcu
    from orchestrator.edge.profile import choose, profile_points, untrained
    from orchestrator.space.resolve import open_space
    from orchestrator.store.refits import Refits
    from orchestrator.store.store import Store

    store = Store(sweep_folder(sweep))
    results, limits = list(store.results()), dict(map(_limit, budget))
    refits = Refits(store.path)
    refitted = [refits.result(id) for id in sorted(refits.done())]
    ids = choose(results, points, limits, refitted)
    shapes = untrained(results) if "law" in points else []
    if dry_run:
        for id in ids:
            echo(id)
        for arch, depth, width in shapes:
            echo(f"{arch} {depth}x{width} with random weights")
        return

    def say(text: str) -> None:
        echo(text, err=True)

    if mcu:
        environment(mcu_env or default_environment(), say)  # fail before the long part, not after
    if targets:
        from orchestrator.edge.firmware import profile_targets, require

        require(precision, cmsis_nn)
    opened = open_space(str(store.path), [], None, say)
    data = opened.prepared
    document = profile_points(store, ids, data, runs=runs, shapes=shapes, again=again, say=say)
    if mcu:
        named = [word for word in points if word not in ("law", "front")]
        chosen = choose(results, named or ["front"], limits, refitted)
        document = profile_mcu(store, chosen, data, mcu_env or default_environment(), say)
    if targets:
        document = profile_targets(
            opened, ids, targets, precision=precision, cmsis_nn=cmsis_nn, again=again, say=say
        )
    if as_json:
        click.echo(json.dumps(document))
    else:
        print_profile(document)


def _limit(text: str) -> tuple[str, float]:
    name, sign, value = text.partition("=")
    if not sign or name not in LIMITS:
        raise InputError(f"--budget {text}: write NAME=MOST, NAME one of {', '.join(LIMITS)}")
    figure, unit = LIMITS[name]
    try:
        return figure, float(value) * unit
    except ValueError:
        raise InputError(f"--budget {text}: {value!r} is not a number") from None


def print_profile(document: dict[str, Any]) -> None:
    """A table per device, then its latency laws."""
    from rich.console import Console
    from rich.table import Table

    from orchestrator.words import escaped

    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(width=150, markup=False)
    for key, device in document["devices"].items():
        table = Table(
            title=escaped(f"{key}: {device['cpu']}, {' '.join(device['flags'])}, batch 1, one thread"),
            box=None,
            pad_edge=False,
            title_justify="left",
        )
        for name in ("point", "student", "runtime"):
            table.add_column(name)
        for name in ("bytes", "load ms", "min ms", "median ms", "p95 ms", "MAE", "drift BPM", "arena B"):
            table.add_column(name, justify="right")
        points = document["points"].items()
        for id, point in sorted(points, key=lambda item: (item[1]["params"], item[0])):
            if record := point["devices"].get(key):
                for runtime in ("torch", "fp32", "int8"):
                    table.add_row(*map(escaped, _row(id, point, record[runtime], runtime)))
        console.print(table)
        for arch, laws in document["latency_laws"].get(key, {}).items():
            for precision, law in laws.items():
                console.print(escaped(f"{arch} {precision}: {law_text(law)}"), highlight=False)
    print_targets(document, console)


def print_targets(document: dict[str, Any], console: Any) -> None:
    """A table of what was counted on emulated microcontrollers; nothing where nothing was."""
    from rich.table import Table

    from orchestrator.words import escaped

    points = sorted(document["points"].items(), key=lambda item: (item[1]["params"], item[0]))
    kept = ("targets", "targets_int8", "targets_int8_cmsis_nn")
    rows = [(id, p, record) for id, p in points for name in kept for record in (p.get(name) or {}).values()]
    if not rows:
        return
    about = escaped(f"In C, on emulated processors. {rows[0][2]['about']}.")
    console.print(about, highlight=False, soft_wrap=True)
    console.print("Measured, but for the arena, which is computed and part of static.", highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("point", "student", "processor", "in"):
        table.add_column(name)
    for name in ("instr. a window", "a MAC", "a sample", "arena B", "static B", "stack B", "flash B"):
        table.add_column(name, justify="right")
    for id, p, record in rows:
        counts = [record["instructions"], record["instructions_per_sample"]]
        sizes = [record[key] for key in ("arena_bytes", "static_bytes", "stack_bytes", "flash_bytes_c")]
        window, sample, *sizes_said = (f"{n:,}" for n in counts + sizes)
        per_mac = f"{record['instructions'] / p['macs']:.2f}"
        precision = record["precision"] + (", CMSIS-NN" if record.get("kernels") == "CMSIS-NN" else "")
        cells = (id, _what(p), record["cpu"], precision, window, per_mac, sample, *sizes_said)
        table.add_row(*map(escaped, cells))
    console.print(table)


def _what(point: dict[str, Any]) -> str:
    init = "" if point["init"] == "random" else f" {point['init']}"
    return f"{point['strategy']}{init} {point['arch']} {point['depth']}x{point['width']}"


def _row(id: str, point: dict[str, Any], record: dict[str, Any], runtime: str) -> list[str]:
    first = runtime == "torch"
    ms = record["latency_ms"]
    mcu = point.get("mcu", {}).get(runtime)
    return [
        id if first else "",
        _what(point) if first else "",
        runtime if first else f"onnx {runtime}",
        f"{record['file_bytes']:,}",
        f"{record['load_ms']:.1f}",
        *(f"{ms[k]:.3f}" for k in ("min", "median", "p95")),
        "–" if "of_point" in point else f"{record['mae_bpm']:.3f}",  # of people it was trained on
        f"{record['drift_bpm']['mean']:.3f}" if "drift_bpm" in record else "",
        f"{mcu['arena_bytes']:,}" if mcu else "",
    ]


def law_text(law: dict[str, Any]) -> str:
    """A latency law in words."""
    if "why" in law:
        return f"no latency law: {law['why']}"
    worst = max(abs(e) for e in law["left_out_ln"])
    return (
        f"{law['fixed_ms']:.4f} ms + {law['per_mac_ms'] * 1e6:.4f} ms per million MACs + "
        f"{law['per_layer_ms']:.4f} ms per layer; leave-one-out error "
        f"{100 * law['sigma_ln']:.0f} %, at most {100 * worst:.0f} % ({law['shapes']} shapes)"
    )
