"""SVG by hand: scales, ticks, marks and panels. Colours are CSS classes, so that dark mode reaches them.

Plain strings, a tenth of what matplotlib writes; every text from outside goes through `escape`. No data here.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 360.0, 280.0  # of a panel; small, because pages scale it little and phones are narrow
Point = tuple[float, float]

# strategy -> CSS class; markers repeat the distinction for colour-blind readers
CLASSES = {"scratch": "c-scratch", "hard": "c-hard", "soft": "c-soft", "dkd": "c-dkd", "feature": "c-feature"}
OTHER = "c-other"


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, v = self.low, self.high, value
        if self.log:
            low, high, v = math.log(low), math.log(high), math.log(max(value, 1e-300))
        return self.start + (v - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the scale, as many as fit."""
        return _log_ticks(self.low, self.high, most) if self.log else _ticks(self.low, self.high, most)


def _ticks(low: float, high: float, most: int) -> list[float]:
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if (high - low) / (s * power) <= most)
    return [
        round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    if high / low < 4:  # a log axis this short reads like a linear one
        return _ticks(low, high, most)
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    choices: list[tuple[float, ...]] = [
        (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9),
        (1, 2, 3, 4, 6, 8),
        (1, 2, 5),
        (1, 3),
        (1,),
    ]
    for mantissas in choices:
        found = [m * 10.0**d for d in decades for m in mantissas if low <= m * 10.0**d <= high]
        if 2 <= len(found) <= most:
            return found
    if len(found) > most:  # more decades than labels
        return found[:: math.ceil(len(found) / most)]
    return _ticks(low, high, most)


def cut(words: str, most: int) -> str:
    """Text cut to fit."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


def si(number: float, digits: int = 3) -> str:
    """12k, 1.5M, 820."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.{digits}g}{unit}"
    return f"{number:.{digits}g}"


def css_class(strategy: str) -> str:
    """The colour of a strategy."""
    return CLASSES.get(strategy, OTHER)


def place(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.1f}".removesuffix(".0")


def line(points: Iterable[Point], css: str) -> str:
    """A polyline."""
    return f'<path class="{css}" d="M{_joined(points)}"/>'


def band(low: Sequence[Point], high: Sequence[Point], css: str) -> str:
    """The area between two lines."""
    return f'<path class="{css}" d="M{_joined([*low, *reversed(high)])}Z"/>'


def _joined(points: Iterable[Point]) -> str:
    return "L".join(f"{place(x)} {place(y)}" for x, y in points)


def _circle(r: float) -> str:
    return f"m{-r:g} 0a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0 {-2 * r:g} 0"


def _plus(r: float) -> str:
    a = 0.75 * r
    return f"m{-a / 2:g} {-1.5 * a:g}h{a:g}v{a:g}h{a:g}v{a:g}h{-a:g}v{a:g}h{-a:g}v{-a:g}h{-a:g}v{-a:g}h{a:g}z"


SHAPES: dict[str, Callable[[float], str]] = {
    "scratch": _circle,
    "hard": lambda r: f"m{-r * 0.9:g} {-r * 0.9:g}h{r * 1.8:g}v{r * 1.8:g}h{-r * 1.8:g}z",
    "soft": lambda r: f"m0 {-r * 1.2:g}l{r * 1.1:g} {r * 2:g}h{-r * 2.2:g}z",
    "dkd": lambda r: (
        f"m0 {-r * 1.3:g}l{r * 1.3:g} {r * 1.3:g}l{-r * 1.3:g} {r * 1.3:g}l{-r * 1.3:g} {-r * 1.3:g}z"
    ),
    "feature": lambda r: f"m0 {r * 1.2:g}l{r * 1.1:g} {-r * 2:g}h{-r * 2.2:g}z",
}


def marks(points: Iterable[Point], strategy: str, css: str, r: float = 2.6) -> str:
    """All markers of one strategy as one path: a dozen bytes a run, however many there are."""
    shape = SHAPES.get(strategy, _plus)(r)
    d = "".join(f"M{place(x)} {place(y)}{shape}" for x, y in points)
    return f'<path class="{css}" d="{d}"/>' if d else ""


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start") -> str:
    """A text, escaped."""
    more = f' class="{css}"' if css else ""
    more += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{place(x)}" y="{place(y)}"{more}>{escape(words)}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<path class="{css}" d="M{place(x1)} {place(y1)}L{place(x2)} {place(y2)}"/>'


def box(x: float, y: float, width: float, height: float, css: str) -> str:
    """A rectangle; nothing if it has no area."""
    if width <= 0 or height <= 0:
        return ""
    return (
        f'<rect class="{css}" x="{place(x)}" y="{place(y)}" width="{place(width)}" height="{place(height)}"/>'
    )


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights of labels, at least `gap` apart, as near to the wanted ones as pushing them apart allows."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    least = low
    for i in order:
        placed[i] = max(placed[i], least)
        least = placed[i] + gap
    most = high
    for i in reversed(order):
        placed[i] = min(placed[i], most)
        most = placed[i] - gap
    return placed


@dataclass
class Panel:
    """One small picture. title: what it shows; label: the same in a sentence, for those who can't see it."""

    title: str
    label: str
    width: float = WIDTH
    height: float = HEIGHT
    group: str = ""  # panels of one group stand together, under its name
    data: dict[str, str] = field(default_factory=dict)  # what page.js reads: scales, arms
    parts: list[str] = field(default_factory=list)

    def add(self, *parts: str) -> None:
        """Draw on top of what is there."""
        self.parts += parts

    @property
    def inline(self) -> str:
        """An svg element for a page."""
        data = "".join(f' data-{key}="{escape(value)}"' for key, value in self.data.items())
        return (
            f'<svg{data} viewBox="0 0 {place(self.width)} {place(self.height)}" role="img" '
            f'aria-label="{escape(self.label)}">{self.body}</svg>'
        )

    @property
    def body(self) -> str:
        """Title and marks."""
        return text(0, 14, self.title, "t-title") + "".join(self.parts)

    @property
    def full_title(self) -> str:
        """The title, for where the group's name does not stand above."""
        return f"{self.group} · {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Axes:
    """The frame of a panel: two scales, drawn with as little ink as reads well."""

    x: Scale
    y: Scale

    @staticmethod
    def on(
        panel: Panel,
        x: tuple[float, float],
        y: tuple[float, float],
        names: tuple[str, str],
        *,
        log: tuple[bool, bool] = (True, True),
        right: float = 12.0,
        tick: tuple[Callable[[float], str], Callable[[float], str]] = (si, si),
    ) -> "Axes":
        """Draw axes into a panel: a line below, thin lines across, names at the ends."""
        left, top, bottom = 34.0, 42.0, panel.height - 34.0
        axes = Axes(
            Scale(*x, left, panel.width - right, log[0]),
            Scale(*y, bottom, top, log[1]),
        )
        for v in axes.y.ticks(6):
            panel.add(
                rule(left, axes.y(v), panel.width - right, axes.y(v), "grid"),
                text(left - 5, axes.y(v) + 3.5, tick[1](v), "t-tick", "end"),
            )
        panel.add(rule(left, bottom, panel.width - right, bottom, "axis"))
        for v in axes.x.ticks(6):
            panel.add(
                rule(axes.x(v), bottom, axes.x(v), bottom + 4, "axis"),
                text(axes.x(v), bottom + 15, tick[0](v), "t-tick", "middle"),
            )
        panel.add(
            text(0, 31, names[1], "t-axis"),
            text(panel.width - right, panel.height - 4, names[0], "t-axis", "end"),
        )
        return axes


def sheet(title: str, panels: Sequence[Panel], css: str, key: Sequence[str] = (), columns: int = 3) -> bytes:
    """One SVG file of several panels, with its own style, for places that aren't the page.

    key: strategies whose markers are explained beneath the title.
    """
    columns = max(1, min(columns, len(panels)))
    margin, top = 24.0, 80.0
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    width = margin + columns * (max((p.width for p in panels), default=WIDTH) + margin)
    y, parts = top, []
    for i, strategy in enumerate(key):
        x = margin + 5 + 90 * i
        parts.append(
            marks([(x, 52)], strategy, f"dot {css_class(strategy)}", 4) + text(x + 10, 56, cut(strategy, 11))
        )
    for row in rows:
        for j, panel in enumerate(row):
            x = margin + j * ((width - margin) / columns)
            parts.append(
                f'<svg x="{place(x)}" y="{place(y)}" width="{place(panel.width)}" '
                f'height="{place(panel.height)}"><title>{escape(panel.label)}</title>'
                + text(0, 14, panel.full_title, "t-title")
                + "".join(panel.parts)
                + "</svg>"
            )
        y += max(panel.height for panel in row) + margin
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {place(width)} {place(y)}" '
        f'width="{place(width)}" height="{place(y)}" role="img"><title>{escape(title)}</title>'
        f'<style>{css}</style><rect class="paper" width="100%" height="100%"/>'
        f"{text(margin, 32, title, 't-sheet')}{''.join(parts)}</svg>"
    ).encode()
