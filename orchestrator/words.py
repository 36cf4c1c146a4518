"""Numbers and text as people read them. Imports nothing of this package."""

import shlex
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd.models.architectures import ARCHITECTURES
from kd.training.strategies import PRETRAIN


def plural(n: int, noun: str) -> str:
    """A number of things: "1 teacher", "5 teachers"."""
    return f"{n} {noun}{'s' * (n != 1)}"


def duration(seconds: float) -> str:
    """4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


# of teachers that were not trained here, wherever their students' errors are shown
UNSEEN = (
    "a brought teacher may have been trained on people this sweep tests on, which kdsweep can't know: then "
    "its own error, and its students', are too low for new people"
)


def model_name(arch: str, depth: int, width: int, form: str = "{}-{}x{}") -> str:
    """resnet1d-8x32; of a brought teacher that has no such shape its name alone."""
    return form.format(arch, depth, width) if arch in ARCHITECTURES else arch


def pretrained(args: Mapping[str, Any], form: str = "-pretrained{}") -> str:
    """What follows a teacher's name, by its arguments: how many epochs it is pre-trained for, if it is."""
    return form.format(args[PRETRAIN]) if args.get(PRETRAIN) else ""


def seeing(recipe: Mapping[str, Any], form: str = "-{}") -> str:
    """What follows a model's name, by its recipe: the one sensor that it sees, if it sees not all."""
    return form.format(recipe["channels"]) if recipe.get("channels") else ""


def quoted(path: Path | str) -> str:
    """A path as it is typed in a command line; for hints that people copy."""
    return shlex.quote(str(path))


def escaped(line: str) -> str:
    """A line that is safe to print: characters that would move the cursor or turn the text are named."""
    return "".join(ascii(c)[1:-1] if _acts(c) else c for c in line)


def escaped_lines(text: str) -> str:
    """The same for a text of several lines, which stay."""
    return "\n".join(map(escaped, text.split("\n")))


def _acts(c: str) -> bool:
    category = unicodedata.category(c)
    return c != "\t" and (category[0] == "C" or category in ("Zl", "Zp"))
