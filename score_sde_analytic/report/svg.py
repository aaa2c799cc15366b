"""Charts as inline SVG: scales, axes, series with error bars. Colours are custom properties of the page's style sheet.

Charts are drawn 360 units wide, about the width at which a phone shows them, so that their text stays readable there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from score_sde_analytic.report.results import superscript

WIDTH, HEIGHT = 360.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 24.0, 24.0, 36.0
#: Least distance of two labels, one above the other.
LINE = 12.0

MARKERS = ("circle", "square", "triangle", "diamond", "down", "cross")
DASHES = ("", "6 3", "2 2.5", "8 3 2 3", "10 4", "1 3")


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; children and attributes are escaped unless they are markup, numbers rounded, None left out.

    >>> print(tag("text", "a < b", x=12.5, class_="label"))
    <text x="12.5" class="label">a &lt; b</text>
    """
    items = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    head = "".join(f' {key}="{escape(_short(value))}"' for key, value in items)
    body = "".join(escape(child) for child in children)
    return Markup(f"<{name}{head}>{body}</{name}>")  # every part is escaped


def _short(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


@dataclass(frozen=True)
class Scale:
    """A map of [low, high] onto [start, stop] of the drawing: linear, logarithmic, or so above a knee and linear around zero.

    >>> Scale(0.0, 10.0, start=0.0, stop=360.0)(2.5)
    90.0
    >>> Scale(1.0, 1000.0, start=0.0, stop=360.0, log=True).ticks()
    [1.0, 10.0, 100.0, 1000.0]
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    knee: float = 0.0

    @classmethod
    def around_zero(cls, values: Iterable[float], start: float, stop: float, knee: float, margin: float = 0.05) -> Scale:
        """A scale that holds the finite values, zero and a margin, linear up to about `knee` and logarithmic beyond."""
        ends = [math.asinh(v / knee) for v in (0.0, *(v for v in values if math.isfinite(v)))]
        pad = margin * (max(ends) - min(ends)) or 0.5
        return cls(knee * math.sinh(min(ends) - pad), knee * math.sinh(max(ends) + pad), start, stop, knee=knee)

    @classmethod
    def over(cls, values: Iterable[float], start: float, stop: float, log: bool = False, margin: float = 0.05) -> Scale:
        """A scale that holds the finite values (positive ones, if logarithmic) and a margin."""
        known = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        ends = [math.log(v) if log else v for v in (min(known), max(known))]
        pad = margin * (ends[1] - ends[0]) or (0.5 if log else 0.1 * abs(ends[0]) or 1.0)
        low, high = ends[0] - pad, ends[1] + pad
        return cls(math.exp(low), math.exp(high), start, stop, True) if log else cls(low, high, start, stop)

    def __call__(self, value: float) -> float:
        """The position of a value; what lies beyond the ends is drawn at the ends."""
        value = min(max(value, self.low), self.high)
        share = (self._forward(value) - self._forward(self.low)) / (self._forward(self.high) - self._forward(self.low))
        return self.start + share * (self.stop - self.start)

    def _forward(self, value: float) -> float:
        if self.knee:
            return math.asinh(value / self.knee)
        return math.log(value) if self.log else value

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers inside the scale, at most so many."""
        if self.knee:
            above = replace(self, low=self.knee, log=True, knee=0.0)
            return [0.0, *above.ticks(most - 1)] if self.high > 2.0 * self.knee else self._even(most)
        ticks = self._decades(most) if self.log else []
        return ticks if len(ticks) > 1 else self._even(most)

    def _decades(self, most: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for digits in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            ticks = [d * 10.0**e for e in range(first, last + 1) for d in digits if self.low <= d * 10.0**e <= self.high]
            if len(ticks) <= most:
                return ticks
        return ticks[:: math.ceil(len(ticks) / most)]

    def _even(self, most: int) -> list[float]:
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(size * power for size in (1, 2, 5, 10, 20) if size * power >= rough)
        first = math.ceil(self.low / step)
        return [step * i for i in range(first, math.floor(self.high / step) + 1)]


def tick_label(value: float) -> str:
    """A tick in few characters: 10⁻³, 2×10⁵, 0.25.

    >>> tick_label(2e5), tick_label(-0.25)
    ('2×10⁵', '−0.25')
    """
    if value and not 1e-4 <= abs(value) < 1e5:
        exponent = math.floor(math.log10(abs(value)) + 1e-9)
        mantissa = f"{value / 10.0**exponent:.3g}"
        return ("" if mantissa == "1" else f"{mantissa}×") + f"10{superscript(exponent)}"
    return f"{value:.6g}".replace("-", "−")


@dataclass(frozen=True)
class Point:
    """A point with its 95 % interval and the text that names it; `hollow` sets it apart and keeps it off the line."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    title: str = ""
    hollow: bool = False

    @property
    def drawable(self) -> bool:
        return math.isfinite(self.x) and math.isfinite(self.y)


@dataclass(frozen=True)
class Series:
    """Points of one colour (a class of the style sheet), marker (if any) and dash; `key` names the line at its right end.

    Intervals are bars, or a band along the line.
    """

    label: str
    points: Sequence[Point]
    colour: str
    key: str = ""
    marker: str = "circle"
    dash: str = ""
    line: bool = True
    band: bool = False

    @property
    def drawable(self) -> list[Point]:
        return [point for point in self.points if point.drawable]


@dataclass(frozen=True)
class Frame:
    """Axes of a chart: two scales, their labels and ticks; `right` is the margin that holds the keys of lines."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str
    x_ticks: Sequence[float] | None = None
    y_ticks: Sequence[float] | None = None
    height: float = HEIGHT
    right: float = RIGHT

    def axes(self) -> Markup:
        parts = [self._across(tick) for tick in (self.y.ticks() if self.y_ticks is None else self.y_ticks)]
        parts += [self._down(tick) for tick in self._spaced(self.x.ticks() if self.x_ticks is None else self.x_ticks)]
        parts.append(tag("path", class_="axis", d=f"M{LEFT:g},{TOP:g}V{self.bottom:g}H{self.edge:g}"))
        parts.append(tag("text", self.y_label, x=2.0, y=12.0, class_="label"))
        middle = (LEFT + self.edge) / 2
        parts.append(tag("text", self.x_label, x=middle, y=self.height - 4, class_="label", text_anchor="middle"))
        return Markup("").join(parts)

    @property
    def edge(self) -> float:
        """Where the axes end."""
        return WIDTH - self.right

    @property
    def bottom(self) -> float:
        return self.height - BOTTOM

    def _across(self, value: float) -> Markup:
        y = self.y(value)
        line = tag("path", class_="rule", d=f"M{LEFT:g},{y:.1f}H{self.edge:g}")
        return line + tag("text", tick_label(value), x=LEFT - 5, y=y + 3.5, class_="tick", text_anchor="end")

    def _down(self, value: float) -> Markup:
        x = self.x(value)
        mark = tag("path", class_="axis", d=f"M{x:.1f},{self.bottom:g}v4")
        return mark + tag("text", tick_label(value), x=x, y=self.bottom + 15, class_="tick", text_anchor="middle")

    def _spaced(self, ticks: Iterable[float]) -> list[float]:
        """Ticks whose labels do not touch."""
        kept: list[float] = []
        for tick in ticks:
            room = 6.5 * (len(tick_label(tick)) + len(tick_label(kept[-1]))) / 2 + 5 if kept else 0.0
            if not kept or abs(self.x(tick) - self.x(kept[-1])) >= room:
                kept.append(tick)
        return kept


def picture(*parts: Markup, label: str, height: float = HEIGHT) -> Markup:
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=label, class_="chart")


def marker(shape: str, x: float, y: float, size: float = 3.6) -> str:
    """The outline of a marker as path data.

    >>> marker("square", 0.0, 0.0)
    'M-3.6,-3.6h7.2v7.2h-7.2z'
    """
    r, d = f"{size:.1f}", f"{2 * size:.1f}"
    shapes = {
        "circle": f"M{x - size:.1f},{y:.1f}a{r},{r} 0 1 0 {d},0a{r},{r} 0 1 0 -{d},0z",
        "square": f"M{x - size:.1f},{y - size:.1f}h{d}v{d}h-{d}z",
        "triangle": f"M{x:.1f},{y - 1.2 * size:.1f}l{1.15 * size:.1f},{2 * size:.1f}h-{2.3 * size:.1f}z",
        "diamond": f"M{x:.1f},{y - 1.35 * size:.1f}l{1.35 * size:.1f},{1.35 * size:.1f}l-{1.35 * size:.1f},"
        f"{1.35 * size:.1f}l-{1.35 * size:.1f},-{1.35 * size:.1f}z",
        "down": f"M{x:.1f},{y + 1.2 * size:.1f}l{1.15 * size:.1f},-{2 * size:.1f}h-{2.3 * size:.1f}z",
        "cross": f"M{x - size:.1f},{y - size:.1f}l{d},{d}m0,-{d}l-{d},{d}",
    }
    return shapes[shape]


def polyline(x: Scale, y: Scale, points: Iterable[tuple[float, float]]) -> str:
    """Path data through points, interrupted where one is not finite.

    >>> polyline(Scale(0.0, 1.0, 0.0, 10.0), Scale(0.0, 1.0, 10.0, 0.0), [(0.0, 0.0), (1.0, 1.0)])
    'M0.0,10.0L10.0,0.0'
    """
    parts, pen = [], "M"
    for a, b in points:
        if math.isfinite(a) and math.isfinite(b):
            parts.append(f"{pen}{x(a):.1f},{y(b):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def draw(frame: Frame, series: Series) -> Markup:
    """The line of a series, its error bars or band, and its markers with tooltips."""
    points = series.drawable
    parts = [_band(frame, points)] if series.band else []
    if series.line:
        line = polyline(frame.x, frame.y, [(p.x, p.y) for p in points if not p.hollow])
        parts.append(tag("path", d=line, class_="line", stroke_dasharray=series.dash or None))
    for point in points:
        low, high = (v if math.isfinite(v) else point.y for v in (point.low, point.high))
        x, top, bottom = frame.x(point.x), frame.y(high), frame.y(low)
        if bottom - top > 1 and not series.band:
            parts.append(tag("path", d=f"M{x:.1f},{bottom:.1f}V{top:.1f}", class_="bar"))
        shape = marker(series.marker, x, frame.y(point.y))
        style = "mark hollow" if point.hollow else "mark"
        parts.append(tag("path", tag("title", point.title), d=shape, class_=style))
    return tag("g", *parts, class_=series.colour)


def _band(frame: Frame, points: Sequence[Point]) -> Markup:
    """The area between the ends of intervals."""
    known = [point for point in points if math.isfinite(point.low + point.high)]
    outline = [*((p.x, p.high) for p in known), *((p.x, p.low) for p in reversed(known))]
    return tag("path", d=polyline(frame.x, frame.y, outline) + "Z" if known else "", class_="band")


def end_keys(frame: Frame, series: Sequence[Series]) -> Markup:
    """The key of each series beside its last point, moved apart where they would meet, with a thin leader."""
    ends = [(max(s.drawable, key=lambda p: frame.x(p.x)), s) for s in series if s.drawable]
    ends.sort(key=lambda end: frame.y(end[0].y))
    heights = spread([frame.y(point.y) for point, _ in ends], TOP, frame.bottom)
    parts = []
    for (point, one), height in zip(ends, heights, strict=True):
        edge = frame.edge + 8
        leader = f"M{frame.x(point.x) + 5:.1f},{frame.y(point.y):.1f}L{edge:g},{height:.1f}"
        text = tag("text", one.key, x=edge + 3, y=height + 4, class_="key")
        parts.append(tag("g", tag("path", d=leader, class_="leader"), text, class_=one.colour))
    return Markup("").join(parts)


def spread(heights: Sequence[float], top: float, bottom: float, least: float = LINE) -> list[float]:
    """Sorted heights, each at least `least` below the one before, kept inside [top, bottom] while there is room.

    >>> spread([10.0, 12.0, 90.0], top=0.0, bottom=100.0, least=12.0)
    [10.0, 22.0, 90.0]
    """
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + least) if placed else max(height, top))
    limit = bottom
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - least
    return placed


def swatch(series: Series) -> Markup:
    """The line and marker of a series, for its legend."""
    line = tag("path", d="M1,7H31", class_="line", stroke_dasharray=series.dash or None) if series.line else Markup("")
    style = "mark hollow" if series.points and all(point.hollow for point in series.points) else "mark"
    mark = tag("path", d=marker(series.marker, 16, 7), class_=style) if series.marker else Markup("")
    return tag("svg", tag("g", line, mark, class_=series.colour), viewBox="0 0 32 14", class_="swatch", aria_hidden="true")
