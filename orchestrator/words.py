"""Numbers and text as people read them. Imports nothing of this package."""

import shlex
import unicodedata
from pathlib import Path


def duration(seconds: float) -> str:
    """4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


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
