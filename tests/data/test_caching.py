"""Rows in a memory map: the same rows, whatever interrupts the writing, and no others."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from score_sde_analytic.data import DataRange, DataStatistics, Examples, cached, images
from score_sde_analytic.data.caching import INDEX, ROWS, Cached
from score_sde_analytic.errors import InputError, MissingFileError

QUIET = {"progress": False}


def rows(count=10, seed=0):
    """As a reader of shards gives them."""
    generator = np.random.default_rng(seed)
    for i in range(count):
        yield {"image": generator.integers(0, 256, (1, 3, 4), dtype=np.uint8), "label": i, "weight": 0.5 * i}


def same(one, other):
    return all(np.array_equal(np.asarray(one[name]), np.asarray(other[name])) for name in one)


class Stream(IterableDataset):
    def __iter__(self):
        return rows()


@pytest.mark.parametrize("source", [rows, Stream, lambda: DataLoader(Stream(), batch_size=None)])
def test_rows_come_back_as_they_were(tmp_path, source):
    kept = cached(source(), tmp_path / "rows", **QUIET)
    assert len(kept) == 10
    assert all(same(one, other) for one, other in zip(kept, rows(), strict=True))
    assert isinstance(kept[3]["label"], int)
    assert kept[3]["image"].dtype == torch.uint8
    assert same(kept[-1], kept[9])
    assert same(pickle.loads(pickle.dumps(kept))[4], kept[4])


@pytest.mark.parametrize(
    "row",
    [torch.arange(6.0).reshape(2, 3), (np.zeros((2, 2)), 3), torch.ones(3, dtype=torch.int32)],
)
def test_rows_of_other_kinds(tmp_path, row):
    kept = cached([row] * 3, tmp_path / "rows", **QUIET)[1]
    parts = zip(kept, row, strict=True) if isinstance(row, tuple) else [(kept, row)]
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in parts)
    assert type(kept) is type(row)


def test_parts_are_known_by_their_names_in_whatever_order_they_come(tmp_path):
    kept = cached(iter([{"label": 1, "group": 7}, {"group": 8, "label": 2}]), tmp_path / "rows", **QUIET)
    assert [kept[0], kept[1]] == [{"label": 1, "group": 7}, {"label": 2, "group": 8}]


def test_a_memory_map_is_data_like_any_other(tmp_path):
    kept, known = cached(rows(), tmp_path / "rows", **QUIET), DataRange(levels=256)
    pixels = torch.stack([known.encode(row["image"]) for row in rows()])
    assert torch.equal(Examples(kept, known).take(range(10)), pixels)
    assert DataStatistics.of(kept, known).digest == DataStatistics.of(pixels, known).digest
    assert images(kept, size=2)[3]["label"] == 3


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_interrupted_writing_goes_on_to_the_same_file(tmp_path, stop):
    def breaking():
        for i, row in enumerate(rows()):
            if i == stop:
                raise OSError("the line is dead")
            yield row

    with pytest.raises(OSError, match="dead"):
        cached(breaking(), tmp_path / "cut", **QUIET)
    if stop:
        with pytest.raises(InputError, match="not finished"):
            Cached(tmp_path / "cut")
    cached(rows(), tmp_path / "cut", **QUIET)
    cached(rows(), tmp_path / "whole", **QUIET)
    for name in (ROWS, INDEX):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_source_that_skips_is_not_asked_for_what_is_there(tmp_path):
    asked = []

    def after(done):
        asked.append(done)
        for row in list(rows())[done:]:
            if row["label"] == 6 and len(asked) == 1:
                raise OSError("the line is dead")
            yield row

    with pytest.raises(OSError, match="dead"):
        cached(after, tmp_path / "rows", **QUIET)
    kept = cached(after, tmp_path / "rows", **QUIET)
    assert asked == [0, 6]
    assert all(same(one, other) for one, other in zip(kept, rows(), strict=True))
    cached(after, tmp_path / "rows", **QUIET)
    assert asked == [0, 6]


def test_another_source_is_refused(tmp_path):
    cached(rows(), tmp_path / "rows", **QUIET)
    with pytest.raises(InputError, match="row 0 is not the one in"):
        cached(rows(seed=1), tmp_path / "rows", **QUIET)
    with pytest.raises(InputError, match="made for something else"):
        cached(rows(), tmp_path / "rows", identity={"seed": 1}, **QUIET)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "gave no rows"),
        ([torch.zeros(2), torch.zeros(3)], r"row 1 is x_0 float32 \(3,\), the first x_0 float32 \(2,\)"),
        ([torch.zeros(2), torch.zeros(2).double()], "row 1 is"),
        ([{"x": torch.zeros(2)}, torch.zeros(2)], "row 1 is"),
        (["a.png"], "only tensors, arrays, pictures and numbers"),
        ([{"x": [[1, 2], [3]]}], "x of a row is list: only tensors"),
        ([torch.zeros(2, dtype=torch.float8_e4m3fn)], "x_0 of a row is torch.float8_e4m3fn: only"),
        ([np.zeros(2, np.longdouble)], "convert it"),
        ([{0: torch.zeros(2), 1: 3}], "called by words, not 0"),
        ([{"": 3}], "called by words, not ''"),
        ([{}], "first row holds no numbers"),
        ([torch.zeros(0)], "first row holds no numbers"),
    ],
)
def test_rows_that_are_not_alike_are_refused(tmp_path, source, message):
    with pytest.raises(InputError, match=message):
        cached(source, tmp_path / "rows", **QUIET)


@pytest.mark.parametrize("shorter", [lambda: rows(3), lambda: lambda done: list(rows(3))[done:]])
def test_a_source_that_has_become_shorter_is_refused(tmp_path, shorter):
    def breaking():
        yield from rows(6)
        raise OSError("the line is dead")

    with pytest.raises(OSError, match="dead"):
        cached(breaking(), tmp_path / "rows", **QUIET)
    with pytest.raises(InputError, match=r"has 3 rows, 6 are in .*: the source changed"):
        cached(shorter(), tmp_path / "rows", total=3, **QUIET)
    assert len(cached(rows(6), tmp_path / "rows", **QUIET)) == 6


def test_bfloat16_becomes_float32(tmp_path):
    x = torch.linspace(0, 1, 5, dtype=torch.bfloat16, requires_grad=True)
    assert torch.equal(cached([x], tmp_path / "rows", **QUIET)[0], x.detach().float())


@pytest.mark.parametrize("name", [ROWS, INDEX])
def test_damage_is_told(tmp_path, name):
    cached(rows(), tmp_path / "rows", **QUIET)
    path = tmp_path / "rows" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is not what was written|damaged"):
        list(Cached(tmp_path / "rows"))
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"bytes that were written|damaged|truncated"):
        Cached(tmp_path / "rows")


def test_absent_rows(tmp_path):
    with pytest.raises(MissingFileError):
        Cached(tmp_path / "absent")
