"""Data sets of Hugging Face's `datasets`, where that is installed: objects, saved folders, tables and streams."""

import numpy as np
import pytest

from score_sde_analytic import images
from score_sde_analytic.data import DataRange, DataStatistics, cached
from score_sde_analytic.errors import InputError

datasets = pytest.importorskip("datasets")
pillow = pytest.importorskip("PIL.Image")
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
LABELS = [0, 0, 1, 1, 1, 0]
WHO = list("aabbcc")


@pytest.fixture
def saved():
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "who": datasets.Value("string")}
    rows = {"image": [pillow.fromarray(x) for x in COLOURS], "label": LABELS, "who": WHO}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))


def on_disk(data, path):
    data.save_to_disk(path / "saved")
    return path / "saved"


def table(data, path):
    data.to_parquet(str(path / "rows.parquet"))
    return path / "rows.parquet"


def part(data, path):
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(path / "parts")
    return path / "parts" / "train"


@pytest.mark.parametrize("source", [lambda data, path: data, on_disk, table, lambda data, path: table(data, path).parent, part])
def test_pictures_labels_and_columns(saved, tmp_path, source):
    pictures = images(source(saved, tmp_path))
    np.testing.assert_array_equal(np.stack([row["image"] for row in pictures]), COLOURS.transpose(0, 3, 1, 2))
    assert [row["label"] for row in pictures] == LABELS
    assert pictures.classes == ("cat", "dog")
    assert pictures.column("who") == WHO
    assert images(saved, label="who")[2]["label"] == 1
    assert DataStatistics.of(pictures, DataRange(levels=256)).count == 6


def test_parts_and_streams_say_the_way_out(saved, tmp_path):
    parts = datasets.DatasetDict({"train": saved, "test": saved})
    with pytest.raises(InputError, match=r"has the parts test, train: give one, as images\(dataset\['test'\]\)"):
        images(parts)
    parts.save_to_disk(tmp_path / "parts")
    with pytest.raises(InputError, match=r"holds the parts test, train: give one, as images\('.*parts/test'\)"):
        images(tmp_path / "parts")
    stream = saved.to_iterable_dataset()
    with pytest.raises(InputError, match="write it to a memory map first"):
        images(stream)
    kept = cached(stream.remove_columns("who"), tmp_path / "rows", progress=False)
    np.testing.assert_array_equal(images(kept)[4]["image"], COLOURS[4].transpose(2, 0, 1))


def test_of_several_columns_of_pictures_one_is_named(saved):
    two = saved.rename_column("image", "left")
    two = datasets.concatenate_datasets([two, saved.select_columns("image").rename_column("image", "right")], axis=1)
    with pytest.raises(InputError, match="which of 'left', 'right'"):
        images(two)
    np.testing.assert_array_equal(images(two, "right")[1]["image"], COLOURS[1].transpose(2, 0, 1))
