"""The one picture of `kdsweep fit`: every run as a dot, laws and bands. Only `fit` imports it."""

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.laws.packing import unpack

# Okabe and Ito's palette, told apart with any colour vision; markers say the same again
STYLES = {
    "scratch": ("#000000", "o"),
    "hard": ("#E69F00", "s"),
    "soft": ("#0072B2", "^"),
    "dkd": ("#D55E00", "D"),
    "feature": ("#009E73", "v"),
}


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the picture as PNG: one panel an architecture and teacher."""
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for arm in document["arms"]:
        panels.setdefault((arm["arch"], arm["teacher"] or ""), []).append(arm)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for ax, ((arch, teacher), arms) in zip(axes, panels.items(), strict=False):
        for arm in arms:
            _arm(ax, arm, document)
        ax.set(xscale="log", yscale="log", xlabel="parameters", ylabel="test MAE (BPM)")
        ax.set_title(f"{arch}, {'teacher ' + teacher if teacher else 'no teacher'}", fontsize=10)
        ax.grid(alpha=0.25, which="both")
        ax.legend(fontsize=7)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    figure.suptitle(
        f"{document['sweep']}: laws of error against size; band: {document['level']:.0%} of new runs; "
        f"dashed: a exp(-b ln N) + c; dotted: a exp(-b N) + c",
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
            size = np.log(knots) if name == "log_exponential" else knots
            ax.plot(
                knots[shown], (p["a"] * np.exp(-p["b"] * size) + p["c"])[shown], style, color=colour, lw=0.9
            )
