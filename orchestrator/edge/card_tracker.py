"""README.md of an exported model: its tracker, what it costs in C, and how sure it is."""

from collections.abc import Iterator
from typing import Any


def in_c(t: dict[str, Any]) -> str:
    """What the tracker's C needs; t: what `kd.edge.c_tracker.write_tracker` gave."""
    ran = "its vectors passed" if t["checked"] else "not run at export"
    return (
        "`c/kdsweep_tracker.h` is the tracker: whenever `kds_push` returns 1, give `kds_tracker_update` what "
        "`kds_newest` gives; it says BPM, the interval, the error to expect and whether it is unsure. State "
        f"{t['state_bytes']:,} bytes, table {t['constant_bytes']:,}, some {t['multiplications']:,} "
        "multiplications a window; "
        f"`tracker_test.c`: {ran}."
    )


def sureness(config: dict[str, Any]) -> Iterator[str]:
    """What the tracker gives and how sure it is."""
    test, t, step = config["test"], config["tracker"], config["step"]
    yield "## With a memory, and how sure it is"
    yield ""
    yield "| with the tracker, on the test subjects | |"
    yield "|---|---|"
    yield f"| MAE, BPM | {test['mae_bpm_tracked']:.3f} |"
    yield f"| MAE of windows it is sure of, BPM | {_number(test['mae_bpm_sure'], '.3f')} |"
    yield f"| windows it is unsure of | {test['unsure']:.0%} |"
    yield f"| heart rates inside their {t['level']:.0%} interval | {test['coverage_90_tracked']:.0%} |"
    yield f"| seconds after a step of 40 BPM until 63 % of it | {_number(step.get('step_63_s'), 'g')} |"
    yield f"| seconds after a step of 40 BPM until 5 BPM from it | {_number(step.get('step_5_bpm_s'), 'g')} |"
    yield ""
    yield (
        "The tracker (`tracker.py`) carries what is known of the heart rate from window to window: a forward "
        f"filter over the classes, whose changes were learnt from training labels. Temperature "
        f"{t['temperature']:g}, evidence weight {t['weight']:g} and the temperature of its belief, "
        f"{t['belief_temperature']:g}, were chosen on validation subjects. It is unsure where the error to "
        f"expect is above {t['unsure_above_bpm']:.1f} BPM (`unsure_above_bpm`; yours to change), which "
        "left 80 % of the validation windows. Reset it where windows are missing. The steps are of the test "
        "windows' own logits, shifted; half a window's length comes on top."
    )
    if risk := config.get("risk"):
        yield ""
        yield "| answered, the surest first | " + " | ".join(f"{n:.0%}" for n, _ in risk[4::5]) + " |"
        yield "|---|" + "---|" * len(risk[4::5])
        yield "| MAE, BPM | " + " | ".join(f"{error:.2f}" for _, error in risk[4::5]) + " |"
    if bins := config.get("within_5"):
        yield ""
        yield "| chance of 5 BPM or less, said | " + " | ".join(f"{said:.0%}" for said, _, _ in bins) + " |"
        yield "|---|" + "---|" * len(bins)
        yield "| seen | " + " | ".join(f"{seen:.0%}" for _, seen, _ in bins) + " |"
        yield "| windows | " + " | ".join(f"{n:,}" for _, _, n in bins) + " |"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
