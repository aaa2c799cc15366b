"""Files: whole or absent, and errors that say what to do."""

import errno
import json
import os
import resource
import signal
from contextlib import suppress

import numpy as np
import pytest
from safetensors.numpy import load, save_file

from score_sde_analytic.declared import reading, require_arrays, require_shape, shape_of
from score_sde_analytic.errors import InputError, MissingFileError, UserError, WriteError
from score_sde_analytic.files import (
    atomic,
    differences,
    load_arrays,
    plain,
    read_json,
    require_match,
    save_arrays,
    sweep,
    write_json,
    write_text,
)
from score_sde_analytic.study import Settings


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="halfway"), atomic(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError("halfway")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "file", "text")
    assert (tmp_path / "a" / "b" / "file").read_text() == "text"


def test_a_vanished_temporary_file_does_not_hide_the_error(tmp_path):
    with pytest.raises(KeyError), atomic(tmp_path / "file") as temporary:
        temporary.unlink()
        raise KeyError


def test_arrays_round_trip(tmp_path):
    path = tmp_path / "arrays"
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.zeros((0, 2)), "c": np.array([1, 2])}
    save_arrays(path, arrays, {"kind": "test", "nested": {"x": [1.5, None]}})
    loaded, metadata = load_arrays(path, "test")
    assert metadata == {"kind": "test", "nested": {"x": [1.5, None]}}
    for name, value in arrays.items():
        np.testing.assert_array_equal(loaded[name], value)
        assert loaded[name].dtype == value.dtype


@pytest.mark.parametrize("content", [b"", b"text", b"\x00" * 100, b"PK\x03\x04" + b"x" * 50])
def test_other_content_is_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        load_arrays(path, "test")


def test_absent_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no test file"):
        load_arrays(tmp_path / "absent", "test")
    with pytest.raises(FileNotFoundError):
        load_arrays(tmp_path, "test")
    save_arrays(tmp_path / "file", {"a": np.zeros(1)}, {"kind": "other"})
    with pytest.raises(ValueError, match="holds 'other', not 'test'"):
        load_arrays(tmp_path / "file", "test")


def test_differences_are_named():
    found, expected = {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}, {"a": 1, "b": {"c": 5, "d": 3}, "f": 6}
    assert differences(found, expected) == [
        "b.c: file has 2, expected 5",
        "e: file has 4, expected None",
        "f: file has None, expected 6",
    ]
    assert differences({"a": {}}, {"a": 1}) == ["a: file has {}, expected 1"]
    assert differences({"a": None}, {}) == ["a: the file alone has it"]
    assert differences({}, {"a": None}) == ["a: what is expected alone has it"]


def test_matching_ignores_what_json_cannot_tell_apart():
    require_match("path", {"a": [1, 2]}, {"a": (1, 2)})
    with pytest.raises(ValueError, match=r"path was made for something else \(a: file has 1, expected 2\)"):
        require_match("path", {"a": 1}, {"a": 2})


def test_a_missing_array_is_named(tmp_path):
    save_arrays(tmp_path / "a", {"x": np.zeros(2)}, {"kind": "test"})
    with pytest.raises(ValueError, match="lacks y"):
        load_arrays(tmp_path / "a", "test", {"x": "float64 n", "y": "float64 n"})


def test_plain_data_are_what_json_has():
    content = {1: np.array([[1.0, np.inf]]), "pair": (np.float32(0.5), -np.inf), "text": "NaN", "count": np.int64(3)}
    made = plain(content)
    assert made == {"1": [[1.0, None]], "pair": [0.5, None], "text": "NaN", "count": 3}
    assert json.loads(json.dumps(made, allow_nan=False)) == made


# --- writes --------------------------------------------------------------------------------------------------------------


def killed_while_writing(path):
    """A process dies by SIGKILL with half a file on disk."""
    child = os.fork()
    if not child:
        with atomic(path) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_the_next_write_sweeps_what_a_killed_run_left(tmp_path):
    write_text(tmp_path / "a", "old")
    killed_while_writing(tmp_path / "a")
    assert len(os.listdir(tmp_path)) == 2
    assert (tmp_path / "a").read_text() == "old"
    write_text(tmp_path / "b", "new")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_a_living_process_writes_and_what_is_the_users_is_not_swept(tmp_path):
    (tmp_path / ".a.notes").touch()
    with atomic(tmp_path / "a") as temporary:
        temporary.write_text("one")
        sweep(tmp_path)
        write_text(tmp_path / "b", "two")
        assert temporary.read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == [".a.notes", "a", "b"]


def test_a_file_too_large_names_itself_and_leaves_the_old_one(tmp_path):
    save_arrays(tmp_path / "a", {"x": np.zeros(2)}, {"kind": "test"})
    before = (tmp_path / "a").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WriteError, match=rf"{tmp_path}/a cannot be written \(File too large\)"):
            save_arrays(tmp_path / "a", {"x": np.zeros(2000)}, {"kind": "test"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a").read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(WriteError, match=r"a cannot be written \(No space left on device\); make room"), atomic(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file_is_named(tmp_path):
    write_text(tmp_path / "a", "")
    with pytest.raises(UserError, match=r"a/b cannot be written"):
        write_text(tmp_path / "a" / "b", "")


# --- content -------------------------------------------------------------------------------------------------------------


def test_the_same_content_is_the_same_file(tmp_path):
    arrays = {"b": np.zeros(3, np.int8), "a": np.ones(2), "c": np.float32(1.0)}
    contents = set()
    for order in (arrays, dict(reversed(arrays.items()))):
        for _ in range(5):
            save_arrays(tmp_path / "a", order, {"kind": "test", "n": 1})
            contents.add((tmp_path / "a").read_bytes())
    assert len(contents) == 1
    assert load(contents.pop())["c"].shape == ()


def test_every_bit_of_a_small_file_counts(tmp_path):
    path = tmp_path / "a"
    save_arrays(path, {"x": np.arange(3.0)}, {"kind": "test", "dim": 2})
    whole = path.read_bytes()
    for at in range(0, 8 * len(whole), 7):
        changed = bytearray(whole)
        changed[at // 8] ^= 1 << at % 8
        path.write_bytes(changed)
        with pytest.raises(InputError):
            load_arrays(path, "test")
    for other in (whole[:-1], whole + b"\0", whole + b" "):
        path.write_bytes(other)
        with pytest.raises(InputError):
            load_arrays(path, "test")


def test_every_bit_of_a_json_file_counts(tmp_path):
    path = tmp_path / "a"
    content = {"times": [1.0, 0.25, 0.0], "objective": "é"}
    write_json(path, "grid", content)
    whole = path.read_bytes()
    assert read_json(path, "grid", {"times": [float]}) == content
    for at in range(0, 8 * len(whole), 3):
        changed = bytearray(whole)
        changed[at // 8] ^= 1 << at % 8
        path.write_bytes(changed)
        with suppress(InputError):
            assert read_json(path, "grid") == content  # the case of an escape's digit


def test_other_versions_are_refused(tmp_path):
    save_file({"x": np.zeros(2)}, tmp_path / "a", {"json": '{"kind": "test"}', "sha256": "0"})
    with pytest.raises(InputError, match="another version or another programme, and cannot be vouched for; delete it"):
        load_arrays(tmp_path / "a", "test")
    (tmp_path / "b").write_text('{"kind": "grid", "times": [1.0, 0.0]}')
    with pytest.raises(InputError, match="another version or another programme"):
        read_json(tmp_path / "b", "grid")
    write_json(tmp_path / "c", "grid", {})
    with pytest.raises(InputError, match="holds 'grid', not 'cell'"):
        read_json(tmp_path / "c", "cell")
    with pytest.raises(MissingFileError, match="no grid file"):
        read_json(tmp_path, "grid")


@pytest.mark.parametrize("text", ["", "{", "[1]", "NaN", '{"a": Infinity}', "[" * 100_000, '{"a": 1e999}'])
def test_what_is_not_json_is_refused(tmp_path, text):
    (tmp_path / "a").write_text(text)
    with pytest.raises(InputError, match="delete it"):
        read_json(tmp_path / "a", "grid")


# --- shapes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shape", "fault"),
    [
        ({}, {"a": int}, "it lacks a"),
        ({"a": True}, {"a": int}, "a is True, not a whole number"),
        ({"a": 1.5}, {"a": int}, "a is 1.5, not a whole number"),
        ({"a": float("inf")}, {"a": float}, "a is inf, not a number"),
        ({"a": -1}, {"a": range(10)}, "a is -1, not a whole number from 0 to 9"),
        ({"a": {"b": [1, "x"]}}, {"a": {"b": [float]}}, r"a\.b\.1 is 'x', not a number"),
        ({"a": "c"}, {"a": {"b", "d"}}, "a is 'c', not one of b, d"),
        ({"a": []}, {"a": {"b": int}}, r"a is \[\], not a mapping"),
        ({"a": {}}, {"a": [int]}, "a is {}, not a list"),
        ({"a": {"x": None}}, {"a": {str: str}}, r"a\.x is None, not text"),
        ({"a": 0}, {"a": None}, "a is 0, not null"),
        ({"a": "x", "b": "y"}, {"a": str, str: int}, "b is 'y', not a whole number"),
        ([], {"a": int}, r"its content is \[\], not a mapping"),
    ],
)
def test_faults_of_shape_are_named(value, shape, fault):
    with pytest.raises(InputError, match=f"file is not what it should be: {fault}; do so"):
        require_shape(value, shape, "file", "do so")


def test_what_has_its_shape_passes():
    shape = {"a": (float, None), "b?": str, "c": object, "d": shape_of(tuple[int, ...])}
    for value in ({"a": 1, "c": [], "d": []}, {"a": None, "b": "x", "c": None, "d": [1, 2]}):
        require_shape(value, shape, "file")
    assert shape_of(Settings)["knots"] == {"low": float, "high": float, "count": int, "most": int}


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (np.zeros(2, np.float32), r"y is float32 \(2,\), not float64 m"),
        (np.zeros(3), r"y is float64 \(3,\), not float64 m with m=2"),
        (np.zeros((2, 1)), "y is"),
        (np.array([0.0, np.nan]), "holds NaN or inf in y"),
    ],
)
def test_faults_of_arrays_are_named(array, fault):
    with pytest.raises(InputError, match=fault):
        require_arrays({"x": np.zeros(2), "y": array}, {"x": "float64 m", "y": "float64 m", "z?": "int64 _"}, "file")


def test_making_an_object_of_a_file_names_the_file():
    for error in (KeyError("a"), TypeError("b"), RuntimeError("size\nmismatch"), ZeroDivisionError(), InputError("c")):
        with pytest.raises(InputError, match="folder/file"), reading("folder/file"):
            raise error
