"""CIFAR-10's own batches, for C and for Python as Python 2 pickled them: the same pictures, and nothing is run."""

import pickle
import struct

import numpy as np
import pytest

from malicious import Malicious
from score_sde_analytic import images
from score_sde_analytic.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
LABELS = [3, 8, 0, 6]


def word(text: bytes) -> bytes:
    """A string of Python 2."""
    return b"U" + bytes([len(text)]) + text


def python_2(pixels: np.ndarray, labels: list[int]) -> bytes:
    """{"data": array, "labels": list} by protocol 2, byte for byte as numpy and Python 2 wrote it."""
    rows = pixels.reshape(len(pixels), -1)
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + word(b"b") + b"\x87R"
    minus = b"J\xff\xff\xff\xff"
    kind = b"cnumpy\ndtype\n" + word(b"u1") + b"K\x00K\x01\x87R(K\x03" + word(b"|") + b"NNN" + minus + minus + b"K\x00tb"
    shape = b"K" + bytes([len(rows)]) + b"M" + struct.pack("<H", rows.shape[1]) + b"\x86"
    data = b"T" + struct.pack("<I", rows.nbytes) + rows.tobytes()
    array = empty + b"(K\x01" + shape + kind + b"\x89" + data + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + word(b"data") + array + word(b"labels") + numbers + b"u."


def for_c(pixels: np.ndarray, labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + x.tobytes() for x, label in zip(pixels, labels, strict=True))


def as_numpy_writes(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A column-major array, by this Python."""
    return pickle.dumps({"data": np.asfortranarray(pixels.reshape(len(pixels), -1)), "labels": labels})


WRITERS = {"test_batch": python_2, "data_batch_1.bin": for_c, "data_batch_1": as_numpy_writes}


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_and_classes(name, tmp_path):
    (tmp_path / name).write_bytes(WRITERS[name](PIXELS, LABELS))
    found = images(tmp_path / name)
    np.testing.assert_array_equal(np.stack([np.asarray(row["image"]) for row in found]), PIXELS)
    assert [row["label"] for row in found] == LABELS


def test_a_folder_holds_several(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(python_2(PIXELS[:1], LABELS[:1]))
    (tmp_path / "data_batch_2").write_bytes(python_2(PIXELS[1:], LABELS[1:]))
    (tmp_path / "batches.meta").write_bytes(b"names")
    found = images(tmp_path)
    np.testing.assert_array_equal(np.stack([np.asarray(row["image"]) for row in found]), PIXELS)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("test_batch.bin", b"\x00" * 3072, "no whole number of rows"),
        ("test_batch.bin", b"", "no whole number of rows"),
        ("test_batch", python_2(PIXELS, LABELS)[:-40], "damaged"),
        ("test_batch", pickle.dumps({"labels": [1]}), "no batch of CIFAR-10"),
        ("test_batch", pickle.dumps([1, 2]), "no batch of CIFAR-10"),
        ("test_batch", python_2(PIXELS, LABELS[:3]), "no batch of CIFAR-10"),
        ("test_batch", pickle.dumps({"data": PIXELS.astype(float), "labels": LABELS}), "not of uint8"),
    ],
)
def test_what_is_no_batch_is_told(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        images(tmp_path / name)


def test_a_malicious_file_is_refused(tmp_path):
    target = tmp_path / "created"
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": Malicious(target), "labels": [0]}))
    with pytest.raises(InputError, match="holds more than plain data"):
        images(tmp_path / "test_batch")
    assert not target.exists()
