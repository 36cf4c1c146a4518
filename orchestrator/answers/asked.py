"""The question of `kdsweep run --answer`, made ready for the driver: limits, when to stop, who decides."""

from typing import Any

from kd.errors import InputError
from orchestrator.run.answering import Asked, Decision


def asked(
    answer: str | None, until_regret: float | None = None, gpu_hours: float | None = None
) -> Asked | None:
    """The question, or None without one. Raises InputError for what can't be asked.

    answer: as `design.question` reads it. until_regret: BPM; without it and gpu_hours, NEAR_BPM, as close as
    answers tell apart. gpu_hours: that the sweep may have trained for in all, slot-hours on CPUs.
    """
    if answer is None:
        if until_regret is not None or gpu_hours is not None:
            raise InputError(
                '--until-regret and --gpu-hours need --answer: for example --answer "max-params=60000"'
            )
        return None
    for name, value in (("--until-regret", until_regret), ("--gpu-hours", gpu_hours)):
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name} is {value:g}: give a number above 0")
    from orchestrator.answers.candidates import NEAR_BPM  # a run without a question loads no law
    from orchestrator.answers.design import question

    if until_regret is None and gpu_hours is None:
        until_regret = NEAR_BPM
    budget = question(answer)
    if budget.precision != "fp32":
        raise InputError("--answer precision: a running sweep is judged in fp32: leave it out")
    return Asked(budget.given, _decide, until_regret, gpu_hours)


def _decide(**known: Any) -> Decision:
    """The next step of `orchestrator.answers.economy`, whose import takes a while."""
    from orchestrator.answers.economy.step import Known, next_step

    return next_step(Known(**known))
