"""The one picture of `kdsweep fit`: every run as a dot, laws and bands. Only `fit` imports it.

It leaves the backend alone, which a notebook has chosen.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from orchestrator.laws.packing import unpack

# Okabe and Ito's palette, distinct with any colour vision; markers repeat the distinction
STYLES = {
    "scratch": ("#000000", "o"),
    "hard": ("#E69F00", "s"),
    "soft": ("#0072B2", "^"),
    "dkd": ("#D55E00", "D"),
    "feature": ("#009E73", "v"),
}


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the picture as PNG: a row an architecture, a panel a teacher, from scratch in each."""
    archs = sorted({arm["arch"] for arm in document["arms"]})
    sizes = {id: teacher["params"] for id, teacher in document["teacher_points"].items()}
    teachers = sorted({a["teacher"] for a in document["arms"] if a["teacher"]}, key=lambda t: sizes.get(t, 0))
    columns: list[str | None] = [*teachers] or [None]
    figure = Figure(figsize=(max(4.4 * len(columns), 6), 3.7 * len(archs)), layout="constrained")
    axes = figure.subplots(len(archs), len(columns), squeeze=False, sharey=True, sharex="row")
    for row, arch in zip(axes, archs, strict=True):
        for ax, teacher in zip(row, columns, strict=True):
            for arm in document["arms"]:
                if arm["arch"] == arch and arm["teacher"] in (None, teacher):
                    _arm(ax, arm, document)
            of = f", teacher of {sizes[teacher]:,} parameters" if teacher in sizes else ""
            ax.set_title(f"{arch}{of}", fontsize=10)
            ax.set(xscale="log", yscale="log", xlabel="parameters")
            ax.grid(alpha=0.25, which="both")
            ax.legend(fontsize=7)
        row[0].set_ylabel("test MAE (BPM)")
    errors = [r["mae_bpm"] for arm in document["arms"] for r in arm["runs"]]
    axes[0, 0].set_ylim(min(errors) * 0.6, max(errors) * 1.5)  # bands may leave the picture, runs may not
    axes[0, 0].yaxis.set_major_formatter(ScalarFormatter())
    axes[0, 0].yaxis.set_minor_formatter(ScalarFormatter())
    figure.suptitle(
        f"{document['sweep']}: error against size; band: {document['level']:.0%} of new runs; "
        f"dashed: exponential in ln N; dotted: exponential in N",
        fontsize=9,
    )
    figure.savefig(path, dpi=110, format="png")


def _arm(ax: Axes, arm: dict[str, Any], document: dict[str, Any]) -> None:
    colour, marker = STYLES.get(arm["strategy"], ("#CC79A7", "x"))
    ax.scatter(
        [r["params"] for r in arm["runs"]],
        [r["mae_bpm"] for r in arm["runs"]],
        color=colour,
        marker=marker,
        s=14,
        label=arm["strategy"],
    )
    if arm["reach"] == 0:
        return
    knots = np.exp(document["architectures"][arm["arch"]]["knots_ln_params"])
    shown = (knots >= arm["smallest"] / 1.5) & (knots <= arm["largest"] * 4)
    draws = unpack(arm["draws"]) + unpack(arm["noise"]) * unpack(document["run_noise"])[:, None]
    half = (1 - document["level"]) / 2
    low, high = np.quantile(draws, [half, 1 - half], axis=0)
    ax.fill_between(knots[shown], np.exp(low)[shown], np.exp(high)[shown], color=colour, alpha=0.12, lw=0)
    ax.plot(knots[shown], np.exp(unpack(arm["median"]))[shown], color=colour, lw=1.6)
    for name, style in (("log_exponential", "--"), ("exponential", ":")):
        form = next((f for f in arm["forms"] if f["name"] == name), None)
        if form and None not in form["params"].values():
            p = form["params"]
            ratio = knots / p["N_mid"]
            decay = ratio ** -p["b"] if name == "log_exponential" else np.exp(-p["b"] * (ratio - 1))
            ax.plot(knots[shown], (p["c"] + p["A"] * decay)[shown], style, color=colour, lw=0.9)
