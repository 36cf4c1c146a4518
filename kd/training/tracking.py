"""A tracker for a trained student: fitted on training labels and validation logits, measured on test windows.

The filter itself travels with the student (`kd.shipped.tracker`). Here are its parameters, smoothing over
whole recordings, how sure it is and rightly so, and how fast it follows. N windows, K classes; numpy only.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kd.shipped import tracker
from kd.signals.windows import WindowSet

FILE = "tracker.json"  # in a point's folder: {"tracker": parameters, ...}, see `measure`
LEVEL = 0.9  # of intervals
# Of a window's evidence beside that of those before it. Less than 0.2 follows a change too late to be of use.
WEIGHTS = (0.2, 0.35, 0.5, 0.7, 1.0)
AS_GOOD = 1.02  # errors that differ by less are alike: the greater weight follows sooner
JUMP = 1e-4  # chance of any rate whatever a stride later, so that a wrong belief ends
TAIL = 0.1  # share of changes that is no histogram of labels, but spread round it: few labels change much
MOST_REACH = 30  # classes that a rate moves in a stride, at most; more is a jump
MOST_CHOSEN_ON = 2048  # validation windows that parameters are chosen on
ANSWERED = 0.8  # share of validation windows that "unsure" leaves
STEP_BPM, STEP_WINDOWS, MOST_STEPS = 40, 30, 200  # of the step response, see `step_response`
NEAR_BPM = 5.0
Array = npt.NDArray[Any]
Runs = Sequence[npt.NDArray[np.intp]]


def fit(train: WindowSet, val: WindowSet, logits: Array, min_bpm: int) -> dict[str, Any] | None:
    """Parameters of a tracker, from a student's logits (N, K) on the windows `val`; None without time.

    change: from training labels. temperature: the likeliest of single validation windows; weight: the
    greatest of nearly the least validation error; belief_temperature: the likeliest of the belief, for its
    interval; unsure_above_bpm: of the expected error, which keeps ANSWERED of validation windows.
    """
    runs = _some(val.runs())
    if not runs:
        return None
    chosen, ends = np.concatenate(runs), np.cumsum([len(run) for run in runs])
    runs = np.split(np.arange(len(chosen)), ends[:-1])  # places among the chosen
    logits, bpm, classes = logits[chosen], np.asarray(val.bpm)[chosen], logits.shape[1]
    y = np.clip(np.rint(bpm - min_bpm), 0, classes - 1).astype(int)
    temperature = _likeliest(logits, y)
    config: dict[str, Any] = {"level": LEVEL, "jump": JUMP, "change": changes(steps_of(train))}
    config["temperature"] = temperature
    p = tracker.probabilities(logits, temperature)
    moves = tracker.moves(config, classes)
    beliefs = filtered(p, runs, np.array(WEIGHTS, np.float32), moves)
    errors = np.abs(tracker.quantile(beliefs, 0.5, min_bpm) - bpm).mean(1)
    best = int(np.flatnonzero(errors <= AS_GOOD * np.min(errors))[-1])
    config["weight"] = WEIGHTS[best]
    config["belief_temperature"] = _likeliest(tracker.log(beliefs[best]), y)
    said, spread = believed(beliefs[best], config, min_bpm)
    expected = tracker.expected_error(spread, said, min_bpm)
    config["unsure_above_bpm"] = float(np.quantile(expected, ANSWERED))
    return config


def steps_of(windows: WindowSet) -> Array:
    """Changes of the heart rate from each window to the next, (n,), BPM."""
    found: list[Array] = [np.diff(windows.bpm[run]) for run in windows.runs()]
    return np.concatenate(found or [np.zeros(0)])


def changes(steps: Array) -> list[float]:
    """Probabilities of changes by whole classes, (2 R + 1,), from those of labels (n,): alike up and down.

    A change between two classes counts for both in part; TAIL of all follow a two-sided exponential.
    """
    size = np.abs(steps[np.isfinite(steps)])
    reach = int(np.clip(np.ceil(np.quantile(size, 0.999)) if len(size) else 0, 3, MOST_REACH))
    size = np.minimum(size, reach)
    low = np.minimum(size.astype(int), reach - 1)
    one_way = np.bincount(low, low + 1 - size, reach + 1) + np.bincount(low + 1, size - low, reach + 1)
    both = np.concatenate([one_way[:0:-1] / 2, one_way[:1], one_way[1:] / 2])
    scale = max(2 * float(size.mean()), 1.0) if len(size) else 1.0
    tail = np.exp(-np.abs(np.arange(-reach, reach + 1)) / scale)
    share = TAIL if len(size) else 1.0
    found = (1 - share) * both / max(both.sum(), 1e-9) + share * tail / tail.sum()
    return [round(float(value), 8) for value in found]


def filtered(p: Array, runs: Runs, weight: Any, moves: Array) -> Array:
    """The belief (N, K) after each window and those before it in its run; p: (N, K); NaN outside all runs.

    weight: a number, or several (W,): beliefs (W, N, K).
    """
    weight = np.asarray(weight, np.float32)[..., None, None]
    out = np.full((*weight.shape[:-2], *p.shape), np.nan, np.float32)
    first, *rest = _steps(runs)
    out[..., first[1], :] = p[first[1]]
    for before, at in rest:
        out[..., at, :] = tracker.updated(out[..., before, :], p[at], weight, moves)
    return out


def smoothed(belief: Array, p: Array, runs: Runs, weight: float, moves: Array) -> Array:
    """The same with the windows after it, too: forward-backward, as a report may look at a recording.

    belief: what `filtered` gave.
    """
    later = np.ones(p.shape, np.float32)
    for before, at in reversed(_steps(runs)[1:]):
        evidence = later[at] * np.maximum(p[at], np.float32(1e-30)) ** np.float32(weight)
        evidence = evidence @ moves.T
        later[before] = evidence / evidence.max(-1, keepdims=True)
    both = belief * later
    return both / both.sum(-1, keepdims=True)


def measure(config: dict[str, Any], test: WindowSet, logits: Array, min_bpm: int) -> dict[str, Any]:
    """What a tracker reaches on the windows `test`, from their logits (N, K): by its name in tracker.json.

    bpm, smoothed_bpm: (N,), of the tracker and of smoothing. window, tracked: `reliability` of single windows
    and of the tracker. step: `step_response`.
    """
    runs, bpm = test.runs(), np.asarray(test.bpm, np.float64)
    p, moves = tracker.probabilities(logits, config["temperature"]), tracker.moves(config, logits.shape[1])
    belief = filtered(p, runs, config["weight"], moves)
    smooth = tracker.quantile(smoothed(belief, p, runs, config["weight"], moves), 0.5, min_bpm)
    tracked, spread = believed(belief, config, min_bpm)
    alone = tracker.quantile(p, 0.5, min_bpm)
    return {
        "bpm": tracked,
        "smoothed_bpm": smooth,
        "window": reliability(p, alone, bpm, min_bpm),
        "tracked": reliability(spread, tracked, bpm, min_bpm, config["unsure_above_bpm"]),
        "step": step_response(config, logits, runs, bpm, min_bpm, test.stride_s),
    }


def believed(belief: Array, config: dict[str, Any], min_bpm: int) -> tuple[Array, Array]:
    """BPM (N,) of beliefs (N, K), and their probabilities (N, K) as far as they can be trusted."""
    bpm = tracker.quantile(belief, 0.5, min_bpm)
    return bpm, tracker.probabilities(tracker.log(belief), config["belief_temperature"])


def reliability(
    p: Array, said: Array, bpm: Array, min_bpm: int, unsure_above_bpm: float | None = None
) -> dict[str, Any]:
    """How far probabilities p (N, K) and rates said (N,) can be trusted, where the true rates are bpm (N,).

    coverage_90, width_90_bpm: share of true rates in the 90 % interval, its mean width. within_5: rows of
    (mean probability of an error of 5 BPM or less, share of such errors, windows), by tenths of the
    probability. risk: rows of (share of windows answered, their mean absolute error), the surest first.
    unsure, mae_bpm_sure: share of windows above the threshold, and the error of the others.
    """
    low, high = (tracker.quantile(p, q, min_bpm) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    error, expected = np.abs(said - bpm), tracker.expected_error(p, said, min_bpm)
    near = (p * (np.abs(min_bpm + np.arange(p.shape[1]) - said[:, None]) <= NEAR_BPM)).sum(1)
    tenth = np.minimum((near * 10).astype(int), 9)
    bins = [tenth == k for k in range(10) if (tenth == k).any()]
    surest = error[np.argsort(expected, kind="stable")].cumsum() / np.arange(1, len(error) + 1)
    counts = np.maximum(np.rint(np.linspace(0.05, 1, 20) * len(error)).astype(int), 1)
    found: dict[str, Any] = {
        "mae_bpm": float(error.mean()),
        "coverage_90": float(((low <= bpm) & (bpm <= high)).mean()),
        "width_90_bpm": float((high - low).mean()),
        "expected_error_bpm": float(expected.mean()),
        "within_5": [
            [_short(near[b].mean()), _short((error[b] <= NEAR_BPM).mean()), int(b.sum())] for b in bins
        ],
        "risk": [[_short(n / len(error)), _short(surest[n - 1])] for n in counts],
    }
    if unsure_above_bpm is not None:
        sure = expected <= unsure_above_bpm
        found["unsure"] = float(1 - sure.mean())
        found["mae_bpm_sure"] = float(error[sure].mean()) if sure.any() else None
    return found


def step_response(
    config: dict[str, Any], logits: Array, runs: Runs, bpm: Array, min_bpm: int, stride_s: float
) -> dict[str, Any] | None:
    """How soon the tracker follows a sudden change of STEP_BPM; None for classes or runs too few for it.

    The student's own errors in the order they came: windows of the runs by STEP_WINDOWS twice, their logits
    (N, K) shifted along the classes as if the true rate had been level and then stepped, up and down by
    turns. done: rows of (seconds since the step, median share of the step done); step_63_s: until that
    reached 63 %; step_5_bpm_s: until the median error was at most 5 BPM. 0: in the first window of
    the new rate; None: not within STEP_WINDOWS. What a window itself lags, half its length, comes on top.
    """
    classes, both = logits.shape[1], 2 * STEP_WINDOWS
    pieces = [run[i : i + both] for run in runs for i in range(0, len(run) - both + 1, both)][:MOST_STEPS]
    if classes < 3 * STEP_BPM // 2 or not pieces:
        return None
    middle, away = (classes - 1) / 2, STEP_BPM / 2
    if classes - 1 >= 2 * (100 - min_bpm) > STEP_BPM:  # of usual classes round 100 BPM
        middle = 100.0 - min_bpm
    sign = np.where(np.arange(len(pieces)) % 2, -1, 1)[:, None]
    wanted = middle + sign * away * np.where(np.arange(both) < STEP_WINDOWS, -1, 1)  # (pieces, both), classes
    rows = np.stack(pieces)
    shift = np.rint(wanted - (bpm[rows] - min_bpm)).astype(int)
    source = np.arange(classes) - shift[..., None]
    moved = np.take_along_axis(logits[rows], np.clip(source, 0, classes - 1), -1)
    beyond = (source < 0) | (source >= classes)
    moved = np.where(beyond, logits[rows].min(-1, keepdims=True), moved).reshape(-1, classes)
    p = tracker.probabilities(moved, config["temperature"])
    at = np.arange(len(moved)).reshape(len(pieces), both)
    belief = filtered(p, list(at), config["weight"], tracker.moves(config, classes))
    said = tracker.quantile(belief, 0.5, 0.0).reshape(at.shape)[:, STEP_WINDOWS:]
    done = np.median(sign * (said - middle) / STEP_BPM + 0.5, axis=0)
    off = np.median(np.abs(said - (middle + sign * away)), axis=0)

    def first(there: Array) -> float | None:
        return float(there.argmax() * stride_s) if there.any() else None

    return {
        "step_63_s": first(done >= 0.63),
        "step_5_bpm_s": first(off <= NEAR_BPM),
        "pieces": len(pieces),
        "done": [[round(k * stride_s, 3), _short(value)] for k, value in enumerate(done)],
    }


def _likeliest(logits: Array, y: Array) -> float:
    """The temperature at which logits (n, K) make classes y (n,) likeliest: golden section of its log."""
    rows, ratio = np.arange(len(y)), (math.sqrt(5) - 1) / 2
    logits = logits - logits.max(1, keepdims=True)
    true = logits[rows, y].mean(dtype=np.float64)

    def cost(log_t: float) -> float:
        scale = np.float32(math.exp(-log_t))
        return float(np.log(np.exp(logits * scale).sum(1)).mean(dtype=np.float64) - true * scale)

    low, high = math.log(0.1), math.log(20.0)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    costs = cost(left), cost(right)
    while high - low > 0.02:
        if costs[0] <= costs[1]:
            high, right = right, left
            left = high - ratio * (high - low)
            costs = cost(left), costs[0]
        else:
            low, left = left, right
            right = low + ratio * (high - low)
            costs = costs[1], cost(right)
    return round(math.exp((low + high) / 2), 4)


def _steps(runs: Runs) -> list[tuple[Array, Array]]:
    """For each place in a run the windows (n,) before it and at it, of the runs that are long enough."""
    long_first = sorted(runs, key=len, reverse=True)
    out = []
    for n in range(len(long_first[0]) if long_first else 0):
        while len(long_first[-1]) <= n:
            long_first.pop()
        before, at = ([run[i] for run in long_first] for i in (max(n - 1, 0), n))
        out.append((np.array(before, np.intp), np.array(at, np.intp)))
    return out


def _some(runs: Runs) -> list[Array]:
    """The beginnings of runs, alike long, of about MOST_CHOSEN_ON windows."""
    longest = max(MOST_CHOSEN_ON // max(len(runs), 1), 16)
    return [run[:longest] for run in runs]


def _short(value: float) -> float:
    """As a curve needs it."""
    return round(float(value), 4)
