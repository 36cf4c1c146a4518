"""The answer in one sentence, and the text below it. Plain text; the page marks it up."""

from typing import Any

from orchestrator.answers.ask import train_in_words
from orchestrator.answers.best import answer
from orchestrator.answers.candidates import Budget
from orchestrator.answers.shown import RUN, evidence, meanwhile, metric_words, new_people
from orchestrator.answers.suggest import to_decide
from orchestrator.report.costs import costs
from orchestrator.report.sweep import Sweep

Part = tuple[str, bool]  # words, and whether they are emphasised
FRACTION = 4  # "a quarter of its parameters adds ..."


def headline(sweep: Sweep) -> list[Part]:
    """The best student within the sizes that were measured, and its error; or why none is named."""
    a = recommended(sweep)
    if a["verdict"] == "refuse":
        return [("No student can be recommended: ", True), (f"{a['why']}.", False)]
    best = a["best"]
    mae, of = best["mae_bpm"], metric_words(a["metric"])
    return [
        (
            "Ship a " if a["decided"] else "The evidence can't decide yet; the best measured student is a ",
            False,
        ),
        (f"{best['arch']} of depth {best['depth']} and width {best['width']}", True),
        (_init(best) + _taught(sweep, best) + ": ", False),
        (f"{mae['median']:.2f} BPM", True),
        (f" mean absolute error on test subjects{f', {of}' if of else ''} ({_spread(best)}) ", False),
        (f"with {best['params']:,} parameters.", False),
    ]


def _spread(s: dict[str, Any]) -> str:
    """The headline's interval: of new people where subjects are known, else of another training run."""
    level = f"{100 * s['mae_bpm']['level']:.0f} %"
    whose, interval = new_people(s)
    if interval:
        return f"{interval} for {level} of samples of {whose}"
    return f"{s['mae_bpm']['low']:.2f} to {s['mae_bpm']['high']:.2f} for {level} of training runs"


def lead(sweep: Sweep) -> list[str]:
    """Sentences that follow: whether it exists, how sure the choice is, what less costs."""
    a = recommended(sweep)
    if a["verdict"] == "refuse":
        return [f"{_capital(meanwhile(a['measured']))}."] if a["measured"] else []
    best, out = a["best"], []
    if people := best["intervals"]["people"]:
        out.append(
            f"1 wearer in 10 has more than {people['p90_wearer_bpm']:.1f} BPM; {RUN}: "
            f"{best['mae_bpm']['low']:.2f} to {best['mae_bpm']['high']:.2f} BPM."
        )
    if best["trained"]:
        out.append(
            f"It is trained: point {best['point']} measured {best['measured_mae_bpm']:.2f} BPM "
            f"({evidence(best)}: {best['measured_mean_bpm']:.2f})."
        )
    else:
        out.append("It is not trained yet; its error is predicted by its scaling law.")
    out.append(_sure(sweep, a) if a["decided"] else _undecided(sweep, a))
    if warning := a["extrapolation"]["warning"]:
        out.append(f"{warning[0]}{warning[1:].lower()}.")
    small = answer(sweep.document, Budget(max_params=best["params"] / FRACTION))
    if small["verdict"] == "ok" and small["extrapolation"]["distance"] == 1:
        s = small["best"]
        costs_bpm = s["mae_bpm"]["median"] - best["mae_bpm"]["median"]
        out.append(
            f"A quarter of its parameters adds {costs_bpm:.2f} BPM: {s['arch']} {s['depth']}×{s['width']}, "
            f"{sweep.label(s)}, {s['mae_bpm']['median']:.2f} BPM with {s['params']:,}."
        )
    return out


def _undecided(sweep: Sweep, a: dict[str, Any]) -> str:
    """Between what the evidence can't decide, and what to train."""
    doubt = _capital(a["why"].split("; ")[0])
    limit = Budget(**a["budget"])
    return f"{doubt}: {train_in_words(to_decide(sweep.document, limit))}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sure(sweep: Sweep, a: dict[str, Any]) -> str:
    best, other = a["best"], a["runner_up"]
    close = best["p_within_0.1_bpm"]
    text = f"It is within 0.1 BPM of the best possible choice with probability {_chance(close)}"
    if other is None:
        return text + "."
    gap = other["mae_bpm"]["median"] - best["mae_bpm"]["median"]
    name = f"{other['arch']} {other['depth']}×{other['width']}{_taught(sweep, other)}"
    worse = "worse"
    if gap < 0:
        worse = f"better in median, but {'not trained' if best['trained'] else 'ranked behind it'}"
    return f"{text}; the runner-up, {name}, is {abs(gap):.2f} BPM {worse}."


def _chance(p: float) -> str:
    """A probability from 400 draws says no more than this."""
    return "over 99 %" if p > 0.995 else f"{100 * p:.0f} %"


def _taught(sweep: Sweep, s: dict[str, Any]) -> str:
    if s["strategy"] == "scratch":
        return " trained from scratch"
    several = len(sweep.teachers) > 1 and s["teacher"]
    teacher = f" from the teacher {sweep.teacher(s['teacher'])}" if several else ""
    return f" distilled with {sweep.label(s)}{teacher}"


def _init(s: dict[str, Any]) -> str:
    return "" if s["init"] == "random" else f", {s['init']} init,"


def recommended(sweep: Sweep) -> dict[str, Any]:
    """The answer with the lowest error inside the measured sizes; extrapolated or refused if there is none.

    Architectures are measured up to different sizes, so each of these is tried as the budget.
    """
    sizes = sorted({float(arm["largest"]) for arm in sweep.document["arms"]}, reverse=True)
    answers = [answer(sweep.document, Budget(max_params=size)) for size in sizes]
    good = [a for a in answers if a["verdict"] == "ok"]
    good = [a for a in good if a["decided"]] or good
    inside = [a for a in good if a["extrapolation"]["distance"] == 1]
    if not good:
        return answers[0]
    return min(inside or good, key=lambda a: float(a["best"]["mae_bpm"]["median"]))


def facts(sweep: Sweep) -> list[tuple[str, str]]:
    """Figures of the whole sweep, as (value, what it is)."""
    students = sum(r["role"] == "student" for r in sweep.results)
    teachers = len(sweep.results) - students
    by_kind: dict[str, float] = {}
    for c in costs(sweep):
        by_kind[c.kind] = by_kind.get(c.kind, 0.0) + c.hours
    hours = " + ".join(f"{h:.3g} {k}" for k, h in sorted(by_kind.items(), reverse=True))
    out = [
        (f"{students:,}", f"students trained, with {teachers} teacher{'s' if teachers != 1 else ''}"),
        (hours, "hours of training"),
        (
            str(len(sweep.document["arms"])),
            "laws fitted, one per combination of architecture, init, strategy and teacher",
        ),
    ]
    if sweep.errors:
        out.append((f"{len(sweep.errors)}", f"point{'s' if len(sweep.errors) > 1 else ''} failed"))
    if sweep.blocked:
        out.append((f"{len(sweep.blocked)}", "blocked by failed teachers"))
    if sweep.waiting:
        out.append((f"{len(sweep.waiting):,}", "points of the plan not trained yet"))
    return out


def summary(sweep: Sweep) -> str:
    """The headline as one string."""
    return "".join(words for words, _ in headline(sweep))
