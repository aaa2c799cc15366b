"""What the pictures have in common: colours, labels, axes, mosaics of images, and how they are written."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

# Pictures go to files; a backend that somebody chose, such as a notebook's, stays.
if "MPLBACKEND" not in os.environ and "matplotlib.pyplot" not in sys.modules:
    matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Float64
from matplotlib.figure import Figure
from torch import Tensor

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.files import atomic

#: Colour-blind safe (Okabe & Ito).
COLOURS = {"residual": "#0072B2", "score": "#009E73", "beta": "#D55E00", "beta_tilde": "#CC79A7"}
LABELS = {
    "residual": "analytic (residual)",
    "score": "analytic (score)",
    "beta": r"$\beta$",
    "beta_tilde": r"$\tilde\beta$",
}
#: For covariances without a colour of their own.
OTHERS = ["#E69F00", "#56B4E9", "#6A3D9A", "#8C564B", "#999999", "#000000", "#17BECF", "#BCBD22"]
#: One colour per grid in the pictures that compare grids.
GRID_COLOURS = ["#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#999999", "#6A3D9A", "#000000"]
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}


def colour_of(name: str, names: Sequence[str]) -> str:
    """The colour of a covariance among those of one picture.

    >>> colour_of("pca", ["residual", "pca"])
    '#E69F00'
    """
    others = [other for other in names if other not in COLOURS]
    return COLOURS[name] if name in COLOURS else OTHERS[others.index(name) % len(OTHERS)]


def label_of(name: str) -> str:
    """A covariance as pictures name it: "dct|high_frequency" is conditional on the second.

    >>> label_of("dct|high_frequency")
    'dct | high frequency'
    """
    return LABELS.get(name, name.replace("|", " | ").replace("_", " "))


def save(figure: Figure, path: Path) -> Path:
    """Write a picture as PNG, whole or not at all, and close it."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    plt.close(figure)
    return path


def mosaic(x: Float[Tensor, "n c h w"], columns: int, declared: DataRange) -> Float64[np.ndarray, " height width *colours"]:
    """Images in a padded mosaic of values in [0, 1], with colours where c > 1.

    >>> mosaic(torch.zeros(3, 1, 4, 4), columns=2, declared=DataRange(-1.0, 1.0)).shape
    (9, 9)
    """
    images = ((x.float() - declared.lo) / (declared.hi - declared.lo)).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    n, h, w, c = images.shape
    rows = -(-n // columns)
    sheet = np.ones((rows * (h + 1) - 1, columns * (w + 1) - 1, c))
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + 1), (i % columns) * (w + 1)
        sheet[top : top + h, left : left + w] = image
    return sheet[..., 0] if c == 1 else sheet
