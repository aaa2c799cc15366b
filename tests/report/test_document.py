"""Pictures inside a page: the same at the size that screens show, or a note of what is wrong with the file."""

import base64
import io

import numpy as np
import pytest
from matplotlib.image import imread, imsave

from score_sde_analytic.report.document import Album


def written(path, height, width):
    """A picture that darkens to the right."""
    imsave(path, np.repeat(np.linspace(0.9, 0.1, width)[None], height, 0), cmap="gray", vmin=0.0, vmax=1.0)
    return path


@pytest.mark.parametrize("width", [40, 900])
def test_a_damaged_picture_is_missing_with_a_note(width, tmp_path):
    """At any width: cut off anywhere, or with another header."""
    whole = written(tmp_path / "whole.png", 60, width).read_bytes()
    album = Album(tmp_path)
    damaged = [whole[:at] for at in (24, 30, 50, len(whole) // 2)]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (17, 22, 24)]
    for data in damaged:
        (tmp_path / "damaged.png").write_bytes(data)
        assert album.sheet("damaged.png") is None
    assert album.notes == ["damaged.png is damaged"] * len(damaged)
    assert album.sheet("whole.png") is not None


@pytest.mark.parametrize("height", [1, 3, 6])
def test_a_flat_picture_is_reduced_to_a_row(height, tmp_path):
    """However few rows it has: the columns of each square are averaged over all of them."""
    written(tmp_path / "flat.png", height, 2000)
    sheet = Album(tmp_path).sheet("flat.png")
    assert (sheet.width, sheet.height) == (192, 1)
    small = imread(io.BytesIO(base64.b64decode(sheet.uri.split(",")[1])))
    assert small.shape[:2] == (1, 333)
    full = imread(tmp_path / "flat.png")[0, :1998, 0]
    assert np.abs(small[0, :, 0] - full.reshape(333, 6).mean(1)).max() < 0.01


def test_a_flat_picture_that_is_not_reduced_has_a_height(tmp_path):
    written(tmp_path / "flat.png", 1, 384)
    assert Album(tmp_path).sheet("flat.png").height == 1
