"""Pictures and table of image to image: sources and results side by side, and what is kept against what is reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.metrics import Measured
from score_sde_analytic.report.document import Album, as_text, environment, write_page
from score_sde_analytic.report.style import GRID_COLOURS, STYLE, mosaic, save
from score_sde_analytic.report.tables import error_bar, markdown
from score_sde_analytic.uncertainty import Estimate

Score = Estimate | Measured
Scores = Mapping[str, Score]

#: Width of pictures on the page, in CSS pixels.
PAGE = 1000
#: Of rows of pictures, in inches, with the room for their names.
WIDTH, MARGIN = 11.0, 1.9

#: Criteria as tables head them, in this order.
HEADS = {
    "l2": "L2",
    "low_pass": "low-pass L2",
    "ssim": "SSIM",
    "cosine": "cosine",
    "kept": "class kept",
    "reached": "class reached",
    "domain": "in target domain",
    "frechet": "Frechet",
    "above": "above frontier",
}


def table(rows: Mapping[str, Scores]) -> str:
    """A row per point, of the criteria that any has.

    >>> print(table({"source": {"l2": Estimate(0.0, 0.0)}, "SDEdit": {"l2": Estimate(0.5, 0.01)}}))
    | results | L2            |
    | ------- | ------------- |
    | source  | 0             |
    | SDEdit  | 0.500 ± 0.010 |
    """
    return markdown(heads(rows), [[label, *cells] for label, cells in _cells(rows)])


def heads(rows: Mapping[str, Scores]) -> list[str]:
    """What the columns are."""
    return ["results", *(HEADS[name] for name in _known(rows))]


def _known(rows: Mapping[str, Scores]) -> list[str]:
    return [name for name in HEADS if any(name in scores for scores in rows.values())]


def _cells(rows: Mapping[str, Scores]) -> list[tuple[str, list[str]]]:
    return [(label, [_cell(scores.get(name)) for name in _known(rows)]) for label, scores in rows.items()]


def _cell(score: Score | None) -> str:
    return "-" if score is None else error_bar(as_plain(score))


def as_plain(score: Score) -> dict[str, float]:
    """Value and standard error, as reports keep them.

    >>> as_plain(Estimate(0.5, 0.01))
    {'value': 0.5, 'stderr': 0.01}
    """
    return {"value": score.value, "stderr": score.stderr}


def write(path: Path, rows: Mapping[str, Scores], content: Mapping[str, Any]) -> Path:
    """Write the page, with the pictures that lie beside it; the file is whole or absent.

    Args:
        content: subject, summary, command, facts, criteria (pairs of strings); pictures and frontier, names of files, the
            latter None where there is none.
    """
    album = Album(path.parent, width=PAGE)
    frontier = album.sheet(content["frontier"]) if content["frontier"] else None
    shown: dict[str, Any] = {"title": "Image to image", "header": heads(rows), "rows": _cells(rows), "frontier": frontier}
    shown |= {"pictures": album.sheet(content["pictures"]), "notes": album.notes, "facts": as_text(content["facts"])}
    told = {name: content[name] for name in ("subject", "summary", "command", "criteria")}
    return write_page(path, environment().get_template("translation.html").render(told | shown))


@plt.rc_context(STYLE | {"axes.grid": False})
def side_by_side(path: Path, rows: Mapping[str, Float[Tensor, "n c h w"]], declared: DataRange) -> Path:
    """A row of pictures per point, a column per source."""
    count, _, height, width = next(iter(rows.values())).shape
    tall = (WIDTH - MARGIN) / count * height / width + 0.06
    size = (WIDTH, tall * len(rows) + 0.1)
    figure, axes = plt.subplots(len(rows), 1, figsize=size, squeeze=False)
    figure.subplots_adjust(
        left=MARGIN / WIDTH, right=0.995, bottom=0.05 / size[1], top=1.0 - 0.05 / size[1], hspace=0.06 / tall
    )
    for axis, (label, x) in zip(axes[:, 0], rows.items(), strict=True):
        axis.imshow(mosaic(x, count, declared), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    return save(figure, path)


@plt.rc_context(STYLE)
def frontier(path: Path, sdedit: Mapping[float, Scores], others: Mapping[str, Mapping[float, Scores]]) -> Path:
    """Frechet distance against L2: SDEdit's frontier over the log-SNRs of its starts, and the points of energies.

    Those have no bars: their errors are about SDEdit's, and most of both is the same.
    """
    figure, axis = plt.subplots(figsize=(7.0, 4.8), layout="constrained")
    _points(axis, "SDEdit", sdedit, GRID_COLOURS[0], "o-")
    for i, (label, points) in enumerate(others.items()):
        colour = GRID_COLOURS[1 + (i + 1) % (len(GRID_COLOURS) - 1)]
        _points(axis, label, points, colour, MARKS[i % len(MARKS)], bars=False)
    for log_snr, scores in sdedit.items():
        place = (scores["l2"].value, scores["frechet"].value)
        axis.annotate(f"{log_snr:g}", place, (-4, -11), textcoords="offset points", fontsize=8, ha="right", color="0.3")
    axis.set(xlabel="L2: root mean square of the difference from the source", ylabel="Frechet distance to the target's data")
    axis.set(title="What is kept against what is reached\n(bars: SDEdit ± 2 SE; numbers: log-SNR of SDEdit's starts)")
    axis.legend(fontsize=8)
    return save(figure, path)


MARKS: Sequence[str] = ("s", "^", "D", "v", "P", "X", "*")


def _points(axis: Axes, label: str, points: Mapping[float, Scores], colour: str, mark: str, bars: bool = True) -> None:
    values = np.array(
        [[scores[name].value, scores[name].stderr] for scores in points.values() for name in ("l2", "frechet")]
    ).reshape(-1, 4)
    x, dx, y, dy = values[values[:, 0].argsort()].T
    style: dict[str, Any] = {"ms": 5, "lw": 1.2, "elinewidth": 0.7, "capsize": 2, "color": colour, "label": label}
    axis.errorbar(x, y, 2.0 * dy if bars else None, 2.0 * dx if bars else None, fmt=mark, **style)
