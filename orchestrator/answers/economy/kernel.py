"""What students' errors have in common, as covariances of ln error. numpy only.

ln error of a point = f(its cell) + people(its fold, its cell) + luck of its run. f is over all people: curves
of size that arms share, what arms, configurations and cells differ by. The people who validate a point and
those who test it are different people, and tell of f alike; one run's luck is in both.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.answers.economy.students import Cells, Index, Students
from orchestrator.laws.forms import Array
from orchestrator.laws.pooled import kernels

# Standard deviations of ln error, per unit of ln size where they are slopes: conventions near what
# search_spaces/wrist.yaml showed (`design.TYPICAL`), which the scales below correct by what is seen.
LEVEL, ARCH, PEOPLE = 1.0, 0.5, 0.5  # free, or nearly
SLOPE, SLOPE_ARCH, MEAN_SLOPE = 0.15, 0.10, -0.15
BEND, BEND_ARCH = 0.03, 0.04  # integrated Wiener processes: per unit of ln size to the power 1.5
TAUGHT, TAUGHT_ARCH, INIT = 0.06, 0.04, 0.05
STRATEGY, STRATEGY_ARCH, STRATEGY_SLOPE = 0.03, 0.03, 0.012
TEACHER, TEACHER_SIZE = 0.015, 0.02  # its size: per unit of ln of the teacher's parameters
ARM, ARM_SLOPE = 0.025, 0.012
CONFIGURATION, CELL = 0.03, 0.01
MEETS_ARCH, MEETS_SIZE, MEETS_STRATEGY, MEETS_ARM, MEETS_CONFIGURATION = 0.07, 0.03, 0.02, 0.03, 0.02
RUN, OWN = 0.045, 0.02  # of a run; of a run on the one or the other people
GROUPS = ("shape", "arms", "configurations", "meets", "validation", "noise")


@dataclass(frozen=True)
class Parts:
    """Covariances between cells (C, C): of f by group, and of people in one fold."""

    free: Array
    shape: Array
    arms: Array
    configurations: Array
    people: Array
    meets: Array


def parts_of(cells: Cells) -> Parts:
    """Covariances between cells at the scale 1 of each group."""

    def same(label: Index) -> Array:
        return (label[:, None] == label[None]).astype(float)

    u, t = cells.u, cells.t
    size, bend = kernels(u, u)
    arch, arm, configuration = same(cells.arch), same(cells.arm), same(cells.configuration)
    strategy, init = same(cells.strategy), same(cells.init)
    has = (cells.teacher >= 0).astype(float)
    taught = np.outer(has, has)
    teacher = same(cells.teacher) * taught
    one = np.ones_like(arch)
    return Parts(
        free=LEVEL**2 * one + ARCH**2 * arch + SLOPE**2 * size + SLOPE_ARCH**2 * size * arch,
        shape=BEND**2 * bend + BEND_ARCH**2 * bend * arch,
        arms=(TAUGHT**2 + TAUGHT_ARCH**2 * arch + TEACHER_SIZE**2 * np.outer(t, t)) * taught
        + INIT**2 * init
        + (STRATEGY**2 + STRATEGY_ARCH**2 * arch + STRATEGY_SLOPE**2 * size) * strategy
        + TEACHER**2 * teacher
        + (ARM**2 + ARM_SLOPE**2 * size) * arm,
        configurations=CONFIGURATION**2 * configuration + CELL**2 * np.eye(len(cells)),
        people=PEOPLE**2 * one,
        meets=MEETS_ARCH**2 * arch
        + MEETS_SIZE**2 * size
        + MEETS_STRATEGY**2 * strategy
        + MEETS_ARM**2 * arm
        + MEETS_CONFIGURATION**2 * configuration,
    )


@dataclass(frozen=True)
class Latents:
    """What is believed about, as rows: the f of each cell (C), then each point's validation error (N), then
    its test error (N). cell, fold, point: of each row; -1 where it has none. side: 0 f, 1 validation, 2 test.
    """

    cell: Index
    fold: Index
    point: Index
    side: Index

    def __len__(self) -> int:
        return len(self.cell)


def latents_of(students: Students) -> Latents:
    """All rows of a plan."""
    c, n = len(students.cells), len(students)
    none = np.full(c, -1)
    return Latents(
        cell=np.concatenate([np.arange(c), students.cell, students.cell]),
        fold=np.concatenate([none, students.fold, students.fold]),
        point=np.concatenate([none, np.arange(n), np.arange(n)]),
        side=np.repeat([0, 1, 2], [c, n, n]),
    )


@dataclass(frozen=True)
class Kernel:
    """Covariances of latents, at given scales. truth, people, meets (C, C); validation: the factor on the
    variance of `meets` of those who validate; run, own: variances.
    """

    truth: Array
    people: Array
    meets: Array
    validation: float
    run: float
    own: float

    def between(self, rows: Latents, columns: Latents) -> Array:
        """(len(rows), len(columns))."""
        at = np.ix_(rows.cell, columns.cell)
        out = self.truth[at]
        met = self.people + self.meets, self.people + self.validation * self.meets
        for side, together in zip((2, 1), met, strict=True):
            r, c = np.flatnonzero(rows.side == side), np.flatnonzero(columns.side == side)
            if len(r) and len(c):
                same = rows.fold[r][:, None] == columns.fold[c][None]
                out[np.ix_(r, c)] += same * together[np.ix_(rows.cell[r], columns.cell[c])]
        r, c = np.flatnonzero(rows.side > 0), np.flatnonzero(columns.side > 0)
        if len(r) and len(c):
            run = rows.point[r][:, None] == columns.point[c][None]
            own = run & (rows.side[r][:, None] == columns.side[c][None])
            out[np.ix_(r, c)] += self.run * run + self.own * own
        return np.asarray(out)


def at_scales(parts: Parts, scales: Mapping[str, float]) -> Kernel:
    """The kernel at these factors on the standard deviations of GROUPS."""
    s = {name: scales[name] ** 2 for name in GROUPS}
    truth = parts.free + s["shape"] * parts.shape + s["arms"] * parts.arms
    truth = truth + s["configurations"] * parts.configurations
    meets, noise = s["meets"] * parts.meets, s["noise"]
    return Kernel(truth, parts.people, meets, s["validation"], noise * RUN**2, noise * OWN**2)


def take(latents: Latents, rows: Index) -> Latents:
    """Some of the rows."""
    return Latents(latents.cell[rows], latents.fold[rows], latents.point[rows], latents.side[rows])
