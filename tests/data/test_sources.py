"""Data: declared ranges, statistics, splits and file formats."""

import gzip
import struct

import numpy as np
import pytest
import torch
from score_sde_analytic.configs import emoji as config_of_emoji
from score_sde_analytic.configs import mixture as config_of_mixture
from score_sde_analytic.configs import patches as config_of_patches
from score_sde_analytic.runners import datasets
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, random_split

from score_sde_analytic.data import emoji, sources
from score_sde_analytic.data.examples import as_dataset, batches
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.data.sources import digits, part_mask, patches, photographs, read_idx_images, read_idx_labels
from score_sde_analytic.data.splits import split
from score_sde_analytic.data.statistics import DataStatistics
from score_sde_analytic.errors import InputError

PARTS = ("train", "validation", "test")


def test_encoding_fills_the_range():
    x = DataRange(-1, 1, 256).encode(np.arange(256).reshape(4, 1, 8, 8))
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1.0, 1.0)
    DataRange(-1, 1, 256).check(x)
    assert DataRange(0, 4, 5).bin_width == 1.0
    assert DataRange(-1, 1, 2).encode(np.zeros((0, 3), dtype=int)).shape == (0, 3)


@pytest.mark.parametrize("values", [[-1, 0], [0, 17]])
def test_integers_must_fit(values):
    with pytest.raises(ValueError, match="do not fit 17 levels"):
        DataRange(levels=17).encode(np.array(values))


@pytest.mark.parametrize(
    ("values", "data_range", "match"),
    [
        ([0.0, np.nan], DataRange(), "NaN"),
        ([0.0, np.inf], DataRange(), "NaN or inf"),
        ([0.0, 1.1], DataRange(), "declared range"),
        ([-1.1, 0.0], DataRange(), "declared range"),
        ([0.0, 0.5], DataRange(levels=3), "grid of 3 levels"),
    ],
)
def test_undeclared_values_are_refused(values, data_range, match):
    with pytest.raises(ValueError, match=match):
        data_range.check(torch.tensor([values]))


@pytest.mark.parametrize("options", [{"lo": 1.0, "hi": 1.0}, {"lo": float("nan")}, {"levels": 1}])
def test_bad_ranges_are_refused(options):
    with pytest.raises(ValueError, match=r"lo|levels"):
        DataRange(**options)


def test_continuous_data_have_no_bins():
    with pytest.raises(ValueError, match="no bins"):
        _ = DataRange().bin_width


@pytest.mark.parametrize(
    ("lo", "hi", "levels", "width"),
    [(-1, 1, 256, 2 / 255), (-1, 1, 2, 2.0), (0, 1, 17, 1 / 16), (0, 255, 256, 1.0), (-3, 0.5, 8, 0.5)],
)
def test_bins(lo, hi, levels, width):
    """The outermost levels are the ends of the range, so that there is one bin less between them than levels."""
    data_range = DataRange(lo, hi, levels)
    assert data_range.bin_width == pytest.approx(width, rel=1e-15)
    integers = np.arange(levels).reshape(-1, 1)
    x = data_range.encode(integers)
    assert (float(x[0]), float(x[-1])) == (lo, hi)
    np.testing.assert_array_equal(data_range.index(x), integers)
    np.testing.assert_array_equal(data_range.index(x.double() + 0.49 * width), integers)


def test_histogram_of_levels():
    """Shares of the levels over all coordinates and batches; continuous data have none."""
    data_range, integers = DataRange(-1, 1, 5), np.random.default_rng(0).integers(0, 4, (50, 1, 2, 3))
    histogram = DataStatistics.of(data_range.encode(integers), data_range, batch_size=7).histogram
    np.testing.assert_allclose(histogram, np.bincount(integers.ravel(), minlength=5) / integers.size)
    assert histogram[4] == 0.0
    assert histogram.sum() == pytest.approx(1.0)
    assert DataStatistics.of(data_range.encode(integers), DataRange()).histogram is None
    assert DataStatistics.of(data_range.encode(integers)).histogram is None


def test_containers_of_data():
    x = torch.arange(12.0).reshape(6, 2)
    pairs = TensorDataset(x, torch.zeros(6))
    for data in (x, pairs, DataLoader(pairs, batch_size=4, shuffle=True)):
        rows = torch.cat(list(batches(as_dataset(data), range(6), 4)))
        assert torch.equal(rows, x)

    class Plain(Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return x[index]

    assert [len(b) for b in batches(Plain(), [5, 0, 1], 2)] == [2, 1]
    assert torch.equal(torch.cat(list(batches(Plain(), [5, 0], 2))), x[[5, 0]])


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: DataLoader(d, batch_size=2)])
def test_a_subset_stays_a_subset(wrap):
    """The parent data set of a Subset must not leak in."""
    x = torch.arange(10.0)[:, None]
    subset = wrap(Subset(TensorDataset(x), [7, 2, 3]))
    dataset = as_dataset(subset)
    assert len(dataset) == 3
    assert torch.cat(list(batches(dataset, range(3), 2))).flatten().tolist() == [7.0, 2.0, 3.0]
    train, test = random_split(TensorDataset(x), [6, 4], generator=torch.Generator().manual_seed(0))
    assert DataStatistics.of(train).count == 6
    assert DataStatistics.of(test).count == 4


@pytest.mark.parametrize("data", [torch.zeros(0, 3), TensorDataset(torch.zeros(0, 3))])
def test_empty_data_are_refused(data):
    with pytest.raises(ValueError, match="empty"):
        as_dataset(data)


def test_unsized_data_are_refused():
    with pytest.raises(ValueError, match="map-style"):
        as_dataset(iter([torch.zeros(1)]))


@pytest.mark.parametrize("shape", [(50, 4), (50, 1, 2, 2)])
def test_statistics_match_numpy(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2 + 1
    stats, flat = DataStatistics.of(x, batch_size=7), x.double().flatten(1).numpy()
    assert stats.count == 50
    assert stats.mean.shape == shape[1:]
    np.testing.assert_allclose(stats.mean.flatten(), flat.mean(0), rtol=1e-12)
    assert stats.second_moment == pytest.approx((flat**2).mean())
    covariance = np.cov(flat.T, bias=True)
    assert stats.variance == pytest.approx(np.trace(covariance) / 4)
    np.testing.assert_allclose(stats.eigenvalues, np.linalg.eigvalsh(covariance), rtol=1e-9)
    assert DataStatistics.of(x, max_eigen=3).eigenvalues is None


def test_digest_identifies_examples_and_order():
    x = torch.randn(20, 3)
    digests = [DataStatistics.of(d).digest for d in (x, x.flip(0), x.double(), x[:, :, None], x[:19], x.clone())]
    assert digests[0] == digests[-1]
    assert len(set(digests)) == 5


def test_statistics_check_the_range():
    with pytest.raises(ValueError, match="declared range"):
        DataStatistics.of(3 * torch.ones(4, 2), DataRange())
    with pytest.raises(ValueError, match="NaN"):
        DataStatistics.of(torch.full((4, 2), torch.nan))
    with pytest.raises(ValueError, match="empty"):
        DataStatistics.of(torch.zeros(0, 2))


def test_split_is_a_seeded_partition():
    x = torch.arange(10.0)
    parts = split(x, (5, 3), seed=1)
    assert [len(p) for p in parts] == [5, 3]
    assert len(torch.cat(parts).unique()) == 8
    assert all(torch.equal(a, b) for a, b in zip(parts, split(x, (5, 3), seed=1), strict=True))
    assert not torch.equal(parts[0], split(x, (5, 3), seed=2)[0])
    with pytest.raises(ValueError, match="needs 11 examples"):
        split(x, (5, 6), seed=0)


def test_digits():
    pytest.importorskip("sklearn")
    images = digits()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min(), images.max()) == (0, 16)
    assert DataRange(levels=17).encode(images).shape == images.shape


def index_images(height: int = 120, width: int = 150) -> list[np.ndarray]:
    """Two pictures whose every pixel has a colour of its own."""
    index = np.arange(2 * height * width).reshape(2, height, width)
    return list(np.stack([index // 65536, index // 256 % 256, index % 256], -1).astype(np.uint8))


def pixel_indices(x: np.ndarray) -> np.ndarray:
    """(n, 3, size, size) patches of `index_images` -> index of every pixel, (n, size, size)."""
    return (x.astype(np.int64) * np.array([65536, 256, 1])[:, None, None]).sum(1)


@pytest.mark.parametrize("size", [4, 16])
def test_patches_of_different_parts_share_no_pixel(size):
    """Every patch there is, of every part."""
    seen = {}
    for part in PARTS:
        with pytest.raises(ValueError, match="positions") as error:
            patches(index_images(), size, 10**9, part, 0)
        everything = pixel_indices(patches(index_images(), size, int(str(error.value).split()[4]), part, 0))
        assert len(np.unique(everything[:, 0, 0])) == len(everything)  # no patch twice
        assert (np.diff(everything, axis=2) == 1).all()  # contiguous
        assert (np.diff(everything, axis=1) == 150).all()
        seen[part] = set(np.unique(everything).tolist())
        assert len({index // (120 * 150) for index in seen[part]}) == 2  # both pictures
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_parts_partition_the_pixels():
    masks = np.stack([part_mask(427, 640, 32, part) for part in PARTS])
    assert (masks.sum(0) == 1).all()
    assert masks[0].mean() == pytest.approx(5 / 7, abs=0.02)
    tiles = masks[:, ::32, ::32]
    assert tiles.any(1).all()  # each part in every row and column of at least seven tiles
    assert tiles.any(2).all()


def test_patches_are_functions_of_seed_and_part():
    images = index_images()
    one = patches(images, 8, 50, "train", 0)
    assert one.shape == (50, 3, 8, 8)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, patches(images, 8, 50, "train", 0))
    np.testing.assert_array_equal(one[:20], patches(images, 8, 20, "train", 0))
    assert not np.array_equal(one, patches(images, 8, 50, "train", 1))
    assert patches(images, 8, 0, "test", 0).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("size", "count", "part", "match"),
    [
        (0, 1, "train", "at least 1"),
        (200, 1, "train", "has 0 positions for patches of size 200"),
        (60, 1, "test", "the test part has 0 positions"),
        (8, 10**6, "validation", "1000000 are needed"),
        (8, 1, "rest", "part must be one of"),
    ],
)
def test_impossible_patches_are_refused(size, count, part, match):
    with pytest.raises(ValueError, match=match):
        patches(index_images(), size, count, part, 0)


@pytest.mark.parametrize("size", [16, 32])
def test_patches_of_the_photographs(size):
    pytest.importorskip("sklearn")
    images = photographs()
    assert [image.shape for image in images] == [(427, 640, 3)] * 2
    for part in PARTS:
        x = patches(images, size, 300, part, 0)
        assert x.shape == (300, 3, size, size)
        assert x.min() < 20  # the colours are spread over 0..255
        assert x.max() > 230
        assert DataRange(levels=256).encode(x).shape == x.shape


@pytest.mark.parametrize(("name", "configs"), [("patches", config_of_patches), ("mixture", config_of_mixture)])
def test_data_that_are_drawn_have_no_shares(name, configs):
    config = configs.get_config()
    config.data.split = (0.8, 0.1, 0.1)
    with pytest.raises(InputError, match=rf"examples of '{name}' are drawn, so data.split \(0.8, 0.1, 0.1\) must be numbers"):
        datasets.splits(config)


def test_shares_of_emoji_are_of_their_bases():
    from_shares, bases = emoji().split((0.5, 0.1, 0), 0), emoji().base.max() + 1
    from_numbers = emoji().split((bases // 2, bases // 10, 0), 0)
    assert [part.tolist() for part in from_shares] == [part.tolist() for part in from_numbers]
    config = config_of_emoji.get_config()
    config.data.split = (0.8, 0.1, 0.1)
    assert len(datasets.labels(config)[1]) == bases // 10
    with pytest.raises(InputError, match=r"\(0.8, 0.9\) needs .* base emoji, there are"):
        emoji().split((0.8, 0.9), 0)


def idx(images: np.ndarray, magic: int = 0x803) -> bytes:
    return struct.pack(">IIII", magic, *images.shape) + images.astype(np.uint8).tobytes()


@pytest.mark.parametrize("name", ["images-idx3-ubyte", "images-idx3-ubyte.gz"])
def test_idx_images(tmp_path, name):
    images, path = np.random.default_rng(0).integers(0, 256, (3, 4, 5)), tmp_path / name
    path.write_bytes(gzip.compress(idx(images)) if name.endswith("gz") else idx(images))
    np.testing.assert_array_equal(read_idx_images(path), images[:, None])


@pytest.mark.parametrize(
    ("name", "damage", "match"),
    [
        ("f", lambda b: b[:-1], "truncated: 59 bytes"),
        ("f", lambda b: b[:10], "damaged"),
        ("f", lambda b: b"\x00" * 100, "not an IDX image file"),
        ("f.gz", lambda b: gzip.compress(b)[:-12], "damaged"),
        ("f.gz", lambda b: b, "damaged"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, name, damage, match):
    path = tmp_path / name
    path.write_bytes(damage(idx(np.zeros((3, 4, 5)))))
    with pytest.raises(ValueError, match=match):
        read_idx_images(path)


@pytest.mark.parametrize("name", ["f", "f.gz"])
def test_an_idx_file_is_read_as_far_as_it_declares(tmp_path, name, monkeypatch):
    """A small archive may unpack to gigabytes."""
    read = []
    monkeypatch.setattr(sources, "_at_most", lambda stream, size: read.append(size) or stream.read(size))
    content = idx(np.zeros((3, 4, 5))) + bytes(1 << 22)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ValueError, match="goes on after 3 images of 4x5"):
        read_idx_images(tmp_path / name)
    with pytest.raises(ValueError, match="not an IDX label file"):
        read_idx_labels(tmp_path / name)
    assert read == [61]


def test_sizes_that_are_not_there_take_no_memory(tmp_path):
    (tmp_path / "f").write_bytes(struct.pack(">IIII", 0x803, *(3 * [2**32 - 1])))
    with pytest.raises(ValueError, match="truncated: 0 bytes"):
        read_idx_images(tmp_path / "f")


def test_absent_idx_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no IDX file"):
        read_idx_images(tmp_path / "absent")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(4, 2, dtype=torch.uint8), "DataRange.encode converts"),
        (torch.zeros(4), "at least one dimension"),
    ],
)
def test_examples_that_are_no_data_are_refused(data, message):
    """Integers would round the noise that is added to them."""
    with pytest.raises(ValueError, match=message):
        DataStatistics.of(TensorDataset(data))


def test_bfloat16_data_have_statistics():
    assert DataStatistics.of(TensorDataset(torch.ones(4, 2, dtype=torch.bfloat16))).second_moment == 1.0
