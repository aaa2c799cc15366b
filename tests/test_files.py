"""Files: whole or absent, and errors that say what to do."""

import json

import numpy as np
import pytest

from score_sde_analytic.files import atomic, differences, load_arrays, plain, require_match, save_arrays, write_text


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
