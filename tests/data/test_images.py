"""Pictures from wherever they lie: the same pixels from every kind of source, and one line where there are none."""

import gzip
import struct
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from score_sde_analytic.configs import mnist
from score_sde_analytic.runners import datasets
from torch.utils.data import Dataset, IterableDataset, Subset

from score_sde_analytic import images
from score_sde_analytic.data import DataRange, DataStatistics, Examples, cached, split
from score_sde_analytic.data.pictures import Form
from score_sde_analytic.errors import InputError, MissingExtraError, MissingFileError

pillow = pytest.importorskip("PIL.Image")
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
CLASSES = ["cat", "cat", "dog", "dog", "dog", "emu"]
LABELS = [0, 0, 1, 1, 1, 2]
PIXELS = torch.from_numpy(COLOURS).permute(0, 3, 1, 2)


@pytest.fixture
def folder(tmp_path):
    for i, (x, name) in enumerate(zip(COLOURS, CLASSES, strict=True)):
        (tmp_path / name).mkdir(exist_ok=True)
        pillow.fromarray(x).save(tmp_path / name / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


class Pairs(Dataset):
    """As torchvision's: a picture of Pillow and a class."""

    def __len__(self):
        return len(COLOURS)

    def __getitem__(self, index):
        return pillow.fromarray(COLOURS[index]), LABELS[index]


def npz(path):
    np.savez(path / "a.npz", x=COLOURS, label=LABELS, names=CLASSES)
    return path / "a.npz"


def npy(path):
    np.save(path / "a.npy", COLOURS)
    return path / "a.npy"


@pytest.mark.parametrize(
    "source",
    [
        lambda path: COLOURS,
        lambda path: PIXELS,
        lambda path: {"x": PIXELS, "y": torch.tensor(LABELS)},
        lambda path: Pairs(),
        lambda path: Subset(Pairs(), range(6)),
        lambda path: [pillow.fromarray(x) for x in COLOURS],
        lambda path: [{"image": x, "label": y} for x, y in zip(COLOURS, LABELS, strict=True)],
        npz,
        lambda path: str(npz(path)),
        npy,
    ],
)
def test_sources_give_the_same_pictures(tmp_path, source):
    pictures = images(source(tmp_path))
    assert len(pictures) == 6
    rows = [row if isinstance(row, torch.Tensor) else row["image"] for row in pictures]
    assert torch.equal(torch.stack(rows), PIXELS)
    if pictures.label:
        assert [row["label"] for row in pictures] == LABELS
    assert pictures.data_range == DataRange(-1, 1, 256)
    x = Examples(pictures, pictures.data_range).take(range(6))
    assert torch.equal(x, DataRange(levels=256).encode(PIXELS.numpy()))


def test_a_folder_of_folders(folder):
    pictures = images(folder)
    assert torch.equal(torch.stack([row["image"] for row in pictures]), PIXELS)
    assert [row["label"] for row in pictures] == LABELS
    assert pictures.classes == ("cat", "dog", "emu")
    assert pictures.column("name")[2] == "dog/2.png"
    assert isinstance(images(folder, label=None)[0], torch.Tensor)
    assert images(folder / "dog").columns == ("name",)


def test_links_that_lead_back_are_not_followed(folder):
    """Others are: to a folder beside, and to one that lies elsewhere."""
    names = images(folder).column("name")
    (folder / "loop").symlink_to(folder)
    (folder / "cat" / "up").symlink_to(folder.parent, target_is_directory=True)
    (folder / "dog" / "self").symlink_to(folder / "dog")
    assert images(folder).column("name") == names
    (folder / "cat" / "other").symlink_to(folder / "emu")
    (folder / "emu" / "other").symlink_to(folder / "cat")
    assert images(folder).column("name") == sorted([*names, "cat/other/5.png", "emu/other/0.png", "emu/other/1.png"])


def idx(path, x, magic):
    path.write_bytes(gzip.compress(struct.pack(f">I{x.ndim}I", magic, *x.shape) + x.tobytes()))


def test_a_folder_of_idx_files(tmp_path):
    for name, part in (("t10k", slice(0, 2)), ("train", slice(2, 6))):
        idx(tmp_path / f"{name}-images-idx3-ubyte.gz", COLOURS[part, :, :, 0], 0x803)
        idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", np.array(LABELS, dtype=np.uint8)[part], 0x801)
    pictures = images(tmp_path)
    assert torch.equal(torch.stack([row["image"] for row in pictures]), PIXELS[:, :1])
    assert [row["label"] for row in pictures] == LABELS
    assert len(images(tmp_path / "t10k-images-idx3-ubyte.gz")) == 2


def idx_pair(path, name, pictures, labels, side=5):
    idx(path / f"{name}-images-idx3-ubyte.gz", np.zeros((pictures, 4, side), np.uint8), 0x803)
    idx(path / f"{name}-labels-idx1-ubyte.gz", np.zeros(labels, np.uint8), 0x801)


@pytest.mark.parametrize(("counts", "side"), [([(2, 4), (4, 2)], 5), ([(2, 2), (4, 3)], 5), ([(2, 2), (4, 4)], 6)])
def test_labels_are_those_of_a_files_own_pictures(tmp_path, counts, side):
    """Equal totals are not enough: the pictures of one file would have the labels of another."""
    idx_pair(tmp_path, "t10k", *counts[0])
    idx_pair(tmp_path, "train", *counts[1], side)
    held = r"pictures of 4x5 and 4x6: keep one size" if side == 6 else rf"hold \[2, 4\] pictures and \[{counts[0][1]}, "
    with pytest.raises(InputError, match=held):
        images(tmp_path)
    config = mnist.get_config()
    config.data.directory, config.data.split = str(tmp_path), (2, 1, 1)
    for read in (datasets.splits, datasets.labels):
        with pytest.raises(InputError, match=held):
            read(config)


def test_idx_files_that_lie_there_gzipped_too_are_read_once(tmp_path):
    idx_pair(tmp_path, "train", 4, 4)
    for zipped in list(tmp_path.glob("*.gz")):
        zipped.with_suffix("").write_bytes(gzip.decompress(zipped.read_bytes()))
    assert len(images(tmp_path)) == len(images(tmp_path).labels) == 4
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert len(images(tmp_path).labels) == 4
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    assert images(tmp_path).columns == ()
    config = mnist.get_config()
    config.data.directory, config.data.split = str(tmp_path), (2, 1, 1)
    with pytest.raises(MissingFileError, match="lacks some of train-labels-idx1-ubyte"):
        datasets.labels(config)


# --- one form -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resample", ["box", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("shape", "cut"), [((40, 60), (slice(0, 40), slice(10, 50))), ((61, 40), (slice(10, 50), slice(0, 40)))]
)
def test_the_middle_is_cut_out_and_resized(shape, cut, resample):
    x = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    expected = pillow.fromarray(x[cut]).resize((10, 10), getattr(pillow.Resampling, resample.upper()))
    found = Form(10, resample=resample)(x)
    np.testing.assert_array_equal(found.transpose(1, 2, 0), np.array(expected))


def test_a_reduction_averages():
    """Blocks of equal pixels, halved by "box": themselves. A picture of the right size is left alone."""
    x = np.random.default_rng(2).integers(0, 65536, (3, 4, 4)).astype(np.uint16)
    for kind in (np.uint16, np.uint8, np.float32):
        large = (x.astype(kind)).repeat(2, 1).repeat(2, 2)
        np.testing.assert_array_equal(Form(4, resample="box")(large), x.astype(kind))
        np.testing.assert_array_equal(Form((4, 4))(x.astype(kind)), x.astype(kind))


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [(np.int16, -1000, 500), (np.int32, -(2**31), 2**31 - 1), (np.float32, 0, 1), (np.float64, -3, 0.1), (bool, 0, 1)],
)
@pytest.mark.parametrize("side", [5, 20])
def test_resized_numbers_stay_within_those_of_the_picture(kind, low, high, side):
    """Bicubic filters overshoot, at edges by a sixth; integers may be negative."""
    x = np.full((10, 10), low, kind)
    x[:, 5:] = high
    found = Form(side)(x)
    assert found.dtype == kind
    assert (found.min(), found.max()) == (x.min(), x.max())
    assert len(images(x[None], size=side)) == 1


@pytest.mark.parametrize("kind", [">u2", ">i2", ">f4", ">f8"])
def test_arrays_of_the_other_order_of_bytes(tmp_path, kind):
    """As files of FITS have them."""
    there = np.arange(60).reshape(3, 1, 4, 5).astype(kind)
    here = there.astype(there.dtype.newbyteorder("="))
    expected = torch.from_numpy(here)
    np.save(tmp_path / "a.npy", there)
    for found in (images(there), images(tmp_path / "a.npy"), images(there, size=2)):
        assert torch.equal(found[1].double(), images(here, size=found.form.size)[1].double())
        assert found.levels == (65536 if kind == ">u2" else None)
    assert torch.equal(cached(there, tmp_path / "rows", progress=False)[2], expected[2])
    rows = [{"x": x, "y": x[0, 0]} for x in there]
    for found in (Examples(there), Examples(list(there)), Examples(rows)):
        assert torch.equal(found.take([2, 0]), expected[[2, 0]])
    columns = Examples(there, conditions={"y": there[:, 0, 0, 0]}).batch([1]).conditions
    assert columns["y"] == Examples(rows, conditions={"y": "y"}).batch([1]).conditions["y"][0, 0] == 20


def test_sixteen_bits_keep_all_their_levels(tmp_path):
    x = np.random.default_rng(3).integers(0, 65536, (5, 6)).astype(np.uint16)
    pillow.fromarray(x).save(tmp_path / "deep.png")
    pictures = images(tmp_path)
    assert pictures.data_range.levels == 65536
    found = Examples(pictures, pictures.data_range)[0]
    np.testing.assert_array_equal(pictures.data_range.index(found)[0], x)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes_of_pillow_become_channels(mode, channels):
    picture = pillow.fromarray(COLOURS[0]).convert(mode if mode not in ("I;16", "F") else "L")
    if mode in ("I;16", "F"):
        picture = pillow.fromarray(np.array(picture).astype(np.uint16 if mode == "I;16" else np.float32))
    assert Form(channels=channels)(picture).shape == (channels, 4, 5)


def test_what_is_transparent_lies_on_white():
    opacity = np.zeros((4, 5, 1), np.uint8)
    picture = pillow.fromarray(np.concatenate([COLOURS[0], opacity], 2))
    assert Form()(picture).min() == 255
    assert Form(channels=4)(picture).shape == (4, 4, 5)
    opaque = pillow.fromarray(np.concatenate([COLOURS[0], opacity + 255], 2))
    np.testing.assert_array_equal(Form()(opaque), PIXELS[0])


def test_pictures_of_several_kinds(tmp_path):
    pillow.fromarray(COLOURS[0]).save(tmp_path / "a.png")
    pillow.fromarray(np.zeros((7, 9, 3), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b.png is 3x7x9 of uint8, .*a.png 3x4x5 of uint8: pass size="):
        list(images(tmp_path))
    assert {tuple(x.shape) for x in images(tmp_path, size=(4, 5))} == {(3, 4, 5)}
    pillow.fromarray(COLOURS[0, :, :, 0]).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="pass channels="):
        list(images(tmp_path))
    assert len(list(images(tmp_path, channels=1))) == 2


# --- what is refused -------------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Pairs())


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (lambda path: path / "absent", {}, "there is no .*absent; give a folder of pictures"),
        (lambda path: path, {}, "holds nothing, no .png"),
        (lambda path: path.parent, {}, "holds only .*, no .png"),
        (lambda path: [], {}, "empty"),
        (lambda path: Stream(), {}, r"write it to a memory map first, as in images\(cached\("),
        (lambda path: [{"a": COLOURS[0], "b": COLOURS[1]}], {}, r"which of 'a', 'b' .* name it, as in images"),
        (lambda path: [{"a": "words", "b": 1}], {"column": "a"}, "row 0, column 'a',: it is str, not a picture"),
        (lambda path: {"x": np.zeros(3)}, {}, r"holds x \(3,\), no pictures"),
        (lambda path: npz(path), {"column": "z"}, "which of 'x'"),
        (lambda path: npz(path), {"label": "z"}, "no column 'z' of labels; choose one of label, names"),
        (lambda path: {"train": [1], "test": [2]}, {}, "no pictures"),
    ],
)
def test_other_sources_are_refused_with_the_way_out(tmp_path, source, options, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises((InputError, MissingFileError), match=message) as told:
        images(source(empty), **options)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["a.png", "a.npz", "a.npy"])
def test_damaged_files_are_told(tmp_path, name):
    (tmp_path / name).write_bytes(b"not what it says")
    with pytest.raises(InputError, match="damaged"):
        images(tmp_path if name == "a.png" else tmp_path / name)


def test_without_pillow_or_datasets(tmp_path, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match="Pillow"):
        images(folder)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(MissingExtraError, match=r"score_sde_analytic\[hub\]"):
        images(tmp_path / "a.parquet")


# --- parts ----------------------------------------------------------------------------------------------------------------


def test_parts_of_a_data_set_are_views(folder):
    """The same examples as of a tensor with the same seed; nothing is read."""
    pictures = images(folder)
    for part, expected in zip(split(pictures, (3, 2), seed=1), split(torch.arange(6), (3, 2), seed=1), strict=True):
        assert isinstance(part, Subset)
        assert part.indices == expected.tolist()
    assert [len(part) for part in split(pictures, (0.5, 0.34), seed=1)] == [3, 2]


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together(seed):
    """No group in two parts; a part lacks fewer examples than the largest group has, as long as some are left."""
    groups = np.random.default_rng(seed).integers(0, 60, 400).tolist()
    parts = split(list(range(400)), (300, 50), seed=seed, groups=groups)
    held = [{groups[i] for i in part.indices} for part in parts]
    assert not held[0] & held[1]
    largest = max(map(groups.count, set(groups)))
    for part, size in zip(parts, (300, 50), strict=True):
        assert size - largest < len(part) <= size
    assert parts[0].indices != split(list(range(400)), (300, 50), seed=seed + 1, groups=groups)[0].indices


@pytest.mark.parametrize(
    ("sizes", "groups", "message"),
    [
        ((5, 2), None, "needs 7 examples, the data set has 6"),
        ((3, 3), "aabb", "4 groups for 6 examples"),
        ((1, 1), "aaabbb", "no group fits into a part of 1"),
        ((2.5, 2), None, "share of them below 1"),
    ],
)
def test_impossible_parts_are_refused(sizes, groups, message):
    with pytest.raises(InputError, match=message):
        split(torch.zeros(6), sizes, 0, groups)


def test_statistics_of_pictures_are_those_of_their_pixels(folder):
    pictures = images(folder)
    known = pictures.data_range
    assert DataStatistics.of(pictures, known).digest == DataStatistics.of(known.encode(PIXELS.numpy()), known).digest


class Rows(list):
    """As a data set of Hugging Face's `datasets` looks from outside."""

    column_names: ClassVar = ["photo", "label", "who"]
    features: ClassVar = {"photo": type("Image", (), {})(), "label": type("ClassLabel", (), {"names": ["cat", "dog", "emu"]})()}

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


@pytest.mark.parametrize("place", ["saved", "parts/train", "rows.parquet", "tables"])
def test_what_datasets_saved_is_opened_by_it(tmp_path, monkeypatch, place):
    """Asked for as its documentation has it: load_from_disk(folder), Dataset.from_parquet(files)."""
    rows = Rows(
        {"photo": pillow.fromarray(x), "label": y, "who": name} for x, y, name in zip(COLOURS, LABELS, CLASSES, strict=True)
    )
    asked = []
    table = SimpleNamespace(from_parquet=lambda files: asked.append(files) or rows)
    stub = SimpleNamespace(load_from_disk=lambda folder: asked.append(folder) or rows, Dataset=table)
    monkeypatch.setitem(sys.modules, "datasets", stub)
    source = tmp_path / place
    if place == "rows.parquet":
        source.touch()
    else:
        source.mkdir(parents=True)
        (source / ("a.parquet" if place == "tables" else "state.json")).touch()
    pictures = images(source)
    assert torch.equal(torch.stack([row["image"] for row in pictures]), PIXELS)
    assert pictures.classes == ("cat", "dog", "emu")
    assert pictures.column("who") == CLASSES
    assert pictures.labels == LABELS
    files = {"rows.parquet": [str(source)], "tables": [str(source / "a.parquet")]}
    assert asked == [files.get(place, str(source))]
