"""Who is trained on, validated on and tested on: whole subjects, always. Knows nothing of signals."""

import difflib
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from kd.errors import InputError
from kd.signals.windows import WindowSet

SIDES = ("train", "val", "test")
EVERYBODY = "everybody"  # scheme of `kdsweep refit` alone: all train, nobody validates or tests
KFOLD_VERSION = 2  # raise when the same folds hold other people; 2: balanced by windows and data sets


@dataclass(frozen=True)
class Split:
    """How subjects are divided.

    scheme "fixed": by `fractions` within each data set, after the subjects named in train, val and test
    (patterns over "dataset/subject", such as "BAMI-1/*") have been put where they are named; a side that
    names subjects gets no others.
    scheme "kfold": fold number `fold` of `folds` is tested, the next one validates. Folds are balanced: of
    each data set they hold equally many subjects, give or take one, and of all about equally many windows.
    `seed` decides between subjects with equally many windows.
    scheme "loso" (leave one subject out): subject number `fold`, in sorted order, is tested; of the rest the
    share fractions[1] validates.
    scheme "lodo" (leave one data set out): data set number `fold`, in sorted order, is tested, as if of a new
    device; of the rest the share fractions[1] validates.
    """

    scheme: str = "fixed"
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)  # train, val, test; ours
    seed: int = 0  # who goes where; the same for every dataset
    fold: int = 0
    folds: int = 5  # usual; at least 3, since one tests and one validates
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, object]:
        """The fields that the scheme reads: all that can change who is on which side."""
        if self.scheme == "kfold":
            return {
                "scheme": "kfold",
                "version": KFOLD_VERSION,
                "seed": self.seed,
                "fold": self.fold,
                "folds": self.folds,
            }
        if self.scheme in ("loso", "lodo"):
            return {"scheme": self.scheme, "seed": self.seed, "fold": self.fold, "val": self.fractions[1]}
        if self.scheme == EVERYBODY:
            return {"scheme": EVERYBODY}
        named = {"train": self.train, "val": self.val, "test": self.test}
        free = [share for share, side in zip(self.fractions, SIDES, strict=True) if not named[side]]
        shares = [share / sum(free) for share in free]
        return {"scheme": "fixed", "seed": self.seed, "shares": shares} | {
            side: sorted(set(patterns)) for side, patterns in named.items()
        }

    def __post_init__(self) -> None:
        if self.scheme not in ("fixed", "kfold", "loso", "lodo", EVERYBODY):
            raise InputError(f"split.scheme is {self.scheme!r}: use fixed, kfold, loso or lodo")
        if len(self.fractions) != 3 or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise InputError(
                f"split.fractions is {list(self.fractions)}: give three positive shares (train, val, test) "
                "that add up to 1"
            )
        if self.scheme != "fixed" and (self.train or self.val or self.test):
            raise InputError(f"split names subjects, but its scheme is {self.scheme}: use scheme fixed")
        if self.scheme == "kfold" and (self.folds < 3 or not 0 <= self.fold < self.folds):
            raise InputError(
                f"split: fold {self.fold} of {self.folds}: use at least 3 folds, numbered from 0"
            )


def split_subjects(windows: WindowSet, split: Split) -> dict[str, npt.NDArray[np.intp]]:
    """Indices of the windows of each side, {"train", "val", "test"}, ascending; no subject is on two sides.

    Raises InputError when there are too few subjects to fill every side.
    """
    subjects, counts = np.unique(windows.subject, return_counts=True)
    names = [str(s) for s in subjects]
    side_of = assign_subjects(names, split, dict(zip(names, counts.tolist(), strict=True)))
    sides = np.array([SIDES.index(side_of[str(s)]) for s in subjects])
    side = sides[np.searchsorted(subjects, windows.subject)]
    return {name: np.flatnonzero(side == i) for i, name in enumerate(SIDES)}


def assign_subjects(
    subjects: Sequence[str], split: Split, windows: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Which side each subject ("dataset/subject") is on. Raises InputError when a side would stay empty.

    windows: how many each subject has; kfold needs it.
    """
    subjects = sorted(set(subjects))
    if split.scheme == EVERYBODY:
        return dict.fromkeys(subjects, "train")
    if len(subjects) < 3:
        raise InputError(
            f"{len(subjects)} subject(s) with usable windows ({', '.join(subjects) or 'none'}): a split by "
            "subject needs at least 3, one each to train, validate and test; add recordings"
        )
    if split.scheme == "kfold":
        if windows is None:
            raise ValueError("folds are balanced by windows: say how many each subject has")
        fold_of = fold_of_subjects(subjects, split, windows)
        after = (split.fold + 1) % split.folds
        at = {split.fold: "test", after: "val"}
        side_of = {s: at.get(fold, "train") for s, fold in fold_of.items()}
    elif split.scheme == "loso":
        side_of = _loso(subjects, split)
    elif split.scheme == "lodo":
        side_of = _lodo(subjects, split)
    else:
        side_of = _fixed(subjects, split)
    empty = [side for side in SIDES if side not in side_of.values()]
    if empty:
        raise InputError(
            f"split: no subject is left for {' and '.join(empty)}: assign fewer subjects to the other sides"
        )
    return side_of


def fold_of_subjects(subjects: Sequence[str], split: Split, windows: Mapping[str, int]) -> dict[str, int]:
    """The fold each subject is in: those with most windows first, each to the emptiest fold there is.

    That is the fold with fewest windows among those with fewest subjects of its data set. Raises InputError
    when there are fewer subjects than folds.
    """
    if len(subjects) < split.folds:
        raise InputError(f"split: {len(subjects)} subjects can't fill {split.folds} folds: use fewer folds")
    total = [0] * split.folds
    members: dict[str, list[int]] = defaultdict(lambda: [0] * split.folds)  # of a data set, by fold
    fold_of: dict[str, int] = {}
    shuffled = _shuffled(subjects, split.seed)
    for subject in sorted(shuffled, key=lambda s: (_dataset(s), -windows[s])):
        own = members[_dataset(subject)]
        fold = min(range(split.folds), key=lambda f: (own[f], total[f], f))
        own[fold] += 1
        total[fold] += windows[subject]
        fold_of[subject] = fold
    return fold_of


def _loso(subjects: Sequence[str], split: Split) -> dict[str, str]:
    if not 0 <= split.fold < len(subjects):
        raise InputError(
            f"split.fold is {split.fold}, but there are {len(subjects)} subjects, counted from 0: choose one"
        )
    left_out = subjects[split.fold]
    rest = [s for s in subjects if s != left_out]
    val = split.fractions[1]
    return {left_out: "test"} | _divide(rest, {"train": 1 - val, "val": val}, split.seed)


def _lodo(subjects: Sequence[str], split: Split) -> dict[str, str]:
    datasets = sorted({_dataset(s) for s in subjects})
    if len(datasets) < 2:
        raise InputError(
            f"split: lodo tests one data set and trains on the others, but there is only {datasets[0]}: add "
            "recordings of another, or use loso"
        )
    if not 0 <= split.fold < len(datasets):
        raise InputError(
            f"split.fold is {split.fold}, but there are {len(datasets)} data sets, counted from 0: choose one"
        )
    left_out = datasets[split.fold]
    rest = [s for s in subjects if _dataset(s) != left_out]
    val = split.fractions[1]
    tested = dict.fromkeys((s for s in subjects if _dataset(s) == left_out), "test")
    return tested | _divide(rest, {"train": 1 - val, "val": val}, split.seed)


def _fixed(subjects: Sequence[str], split: Split) -> dict[str, str]:
    named: Mapping[str, tuple[str, ...]] = {"train": split.train, "val": split.val, "test": split.test}
    side_of: dict[str, str] = {}
    for side, patterns in named.items():
        for pattern in patterns:
            matches = [s for s in subjects if fnmatchcase(s, pattern)]
            if not matches:
                near = difflib.get_close_matches(pattern, subjects, n=3)
                raise InputError(
                    f"split.{side}: no subject matches {pattern!r}; "
                    + (
                        f"did you mean {', '.join(near)}?"
                        if near
                        else f"there are {', '.join(subjects[:5])} ..."
                    )
                )
            for subject in matches:
                if side_of.setdefault(subject, side) != side:
                    raise InputError(
                        f"split: {subject} is named in {side_of[subject]} and in {side}: choose one"
                    )
    rest = [s for s in subjects if s not in side_of]
    free = {side: share for side, share in zip(SIDES, split.fractions, strict=True) if not named[side]}
    if rest and not free:
        raise InputError(
            f"split names subjects for every side, but not {', '.join(rest[:5])}: add them, or name nobody "
            "for one side"
        )
    return side_of | (_divide(rest, free, split.seed) if rest else {})


def _divide(subjects: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Deal subjects to sides by share within each data set; rounding is made good by the data sets after it.

    Every side gets a subject if there are as many subjects as sides; so does every side of a data set.
    """
    by_dataset: dict[str, list[str]] = defaultdict(list)
    for subject in _shuffled(subjects, seed):
        by_dataset[_dataset(subject)].append(subject)
    total = sum(shares.values())
    owed = dict.fromkeys(shares, 0.0)
    side_of: dict[str, str] = {}
    for members in by_dataset.values():
        want = {side: len(members) * share / total + owed[side] for side, share in shares.items()}
        count = dict.fromkeys(shares, 0)
        for _ in members:  # one at a time to the side that lacks most
            count[max(shares, key=lambda side: want[side] - count[side])] += 1
        _leave_none_empty(count)
        owed = {side: want[side] - count[side] for side in shares}
        order = iter(members)
        side_of |= {next(order): side for side, n in count.items() for _ in range(n)}
    tally = {side: sum(s == side for s in side_of.values()) for side in shares}
    for side in [s for s, n in tally.items() if n == 0]:
        richest = max(tally, key=lambda s: tally[s])
        if tally[richest] > 1:
            subject = next(s for s, at in side_of.items() if at == richest)
            side_of[subject] = side
            tally[richest] -= 1
            tally[side] += 1
    return side_of


def _leave_none_empty(count: dict[str, int]) -> None:
    """Move single subjects from the fullest side to empty ones, when there are enough for all."""
    if sum(count.values()) < len(count):
        return
    while empty := [side for side, n in count.items() if n == 0]:
        count[max(count, key=lambda side: count[side])] -= 1
        count[empty[0]] += 1


def _shuffled(subjects: Sequence[str], seed: int) -> list[str]:
    """By data set, then in an order that depends on seed and name alone: a new subject reorders no other."""
    return sorted(subjects, key=lambda s: (_dataset(s), hashlib.sha256(f"{seed}/{s}".encode()).digest()))


def _dataset(subject: str) -> str:
    return subject.partition("/")[0]
