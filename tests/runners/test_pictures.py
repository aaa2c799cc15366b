"""Pictures as they lie, to the last bit, and the modes that code them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from score_sde_analytic.configs import digits_vp, patches
from score_sde_analytic.runners import coding, main
from score_sde_analytic.runners.experiment import Experiment
from score_sde_analytic.runners.pictures import Pictures, require_target

from score_sde_analytic.data import digits, photographs
from score_sde_analytic.errors import InputError, MissingFileError, UnsupportedError

PIL = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)


def saved(path, mode, size=(5, 7)):
    """A picture of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "I;16": ()}[mode]
    dtype = np.uint16 if mode == "I;16" else np.uint8
    PIL.fromarray(RNG.integers(0, 256, (*size, *channels)).astype(dtype)).save(path)


@pytest.mark.parametrize("layout", ["nhw", "nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_come_back_as_they_lay(tmp_path, layout, dtype):
    shape = {"nhw": (4, 5, 7), "nchw": (4, 3, 5, 7), "nhwc": (4, 5, 7, 3)}[layout]
    stack = RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    np.savez(tmp_path / "in.npz", stack=stack, label=np.arange(4))
    pictures = Pictures.read(tmp_path / "in.npz")
    assert pictures.arrays[0].shape == ((1, 5, 7) if layout == "nhw" else (3, 5, 7))
    pictures.write(tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as archive:
        assert archive.files == ["stack"]
        assert archive["stack"].dtype == dtype
        assert np.array_equal(archive["stack"], stack)


def test_folders_come_back_as_they_lay(tmp_path):
    saved(tmp_path / "in" / "a.png", "RGB")
    saved(tmp_path / "in" / "b" / "c.bmp", "RGB", (16, 3))
    pictures = Pictures.read(tmp_path / "in")
    pictures.write(tmp_path / "out")
    for before, after in (("a.png", "a.png"), ("b/c.bmp", "b/c.png")):
        pair = [np.asarray(PIL.open(tmp_path / place)) for place in (f"in/{before}", f"out/{after}")]
        assert np.array_equal(*pair)
    assert Pictures.sizes(pictures.about, 2, (16, 16)) == [(5, 7), (16, 3)]


@pytest.mark.parametrize(("mode", "message"), [("RGBA", "mode RGBA"), ("I;16", "mode I;16")])
def test_pictures_of_other_kinds_are_refused(tmp_path, mode, message):
    saved(tmp_path / "in" / "a.png", mode)
    with pytest.raises(InputError, match=message):
        Pictures.read(tmp_path / "in")


def test_what_is_no_picture_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="there is no"):
        Pictures.read(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures"):
        Pictures.read(tmp_path / "empty")
    (tmp_path / "empty" / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be read"):
        Pictures.read(tmp_path / "empty")
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="no file of numpy"):
        Pictures.read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 3, 3), np.float32))
    with pytest.raises(InputError, match="need one array of uint8"):
        Pictures.read(tmp_path / "b.npz")


def test_an_array_and_one_picture_are_read_too(tmp_path):
    stack = RNG.integers(0, 256, (4, 5, 7)).astype(np.uint8)
    np.save(tmp_path / "in.npy", stack)
    Pictures.read(tmp_path / "in.npy").write(tmp_path / "out.npy")
    assert np.array_equal(np.load(tmp_path / "out.npy"), stack)
    saved(tmp_path / "in" / "a.png", "RGB")
    saved(tmp_path / "in" / "b.png", "RGB")
    Pictures.read(tmp_path / "in" / "a.png").write(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    assert np.array_equal(*(np.asarray(PIL.open(tmp_path / folder / "a.png")) for folder in ("in", "out")))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_objects_are_refused_without_advice_to_run_them(tmp_path, suffix):
    objects = np.array([{}, None], dtype=object)
    (np.save if suffix == "npy" else np.savez)(tmp_path / f"a.{suffix}", objects)
    with pytest.raises(InputError, match="no file of numpy") as refused:
        Pictures.read(tmp_path / f"a.{suffix}")
    assert "pickle" not in str(refused.value)
    assert "unsafe" not in str(refused.value)


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.npz").mkdir()
    sizes = [(5, 7), (16, 3)]
    for place, message in (
        ("file", "is a file, where a folder is to be"),
        ("file/below", "is a file and no folder"),
        ("folder.npz", "is a folder, where a file is to be"),
        ("a.npz", "of several sizes"),
        ("a.npy", "of several sizes"),
    ):
        with pytest.raises(InputError, match=message):
            require_target(tmp_path / place, sizes)
    for place in ("new", "new/below", "folder.npz/new"):
        require_target(tmp_path / place, sizes)
    require_target(tmp_path / "a.npz", sizes[:1] * 2)


def test_two_files_of_one_name_are_refused(tmp_path):
    for suffix in ("png", "bmp"):
        saved(tmp_path / "in" / f"a.{suffix}", "L")
    with pytest.raises(InputError, match="two files of the name a"):
        Pictures.read(tmp_path / "in")


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "", ".", "a\\b", "C:a", 7])
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(InputError):
        Pictures.sizes({"folder": [[name, 5, 5]]}, 1, (5, 5))
    with pytest.raises(InputError):
        about = {"name": name, "dtype": "uint8", "layout": "nhw", "height": 5, "width": 5}
        Pictures.sizes({"npz": about}, 1, (5, 5))


@pytest.mark.parametrize("entry", [["a", 0, 5], ["a", 5], ["a", 2**30, 2**30], [], "abc"])
def test_sizes_that_are_none_are_refused(entry):
    with pytest.raises(InputError):
        Pictures.sizes({"folder": [entry]}, 1, (5, 5))


def small(config, tmp_path, source, target, **settings):
    """An experiment of few draws, which codes from `source` to `target`."""
    config.estimate.knots, config.estimate.most_knots = 16, 0
    config.estimate.min_draws = config.estimate.max_draws = 60
    config.grid.points = 100
    config.evaluate.variances = config.sample.variances = ()
    config.evaluate.predicted_steps = config.sample.steps = (5,)
    config.code.input, config.code.output = str(tmp_path / source), str(tmp_path / target)
    config.code.steps = 3
    for name, value in settings.items():
        config.code[name] = value
    return Experiment(config, tmp_path / "work")


@pytest.mark.parametrize(("arithmetic", "covariance"), [("float32", ""), ("exact", "pca")])
def test_files_come_back_with_other_threads(tmp_path, arithmetic, covariance, capsys):
    """Principal components follow the number of threads, and so does the digest of a chain that has some."""
    stack = np.asarray(digits()).astype(np.uint8)[:1]
    np.save(tmp_path / "in.npy", stack)
    chosen = {"arithmetic": arithmetic, "covariance": covariance}
    before = torch.get_num_threads()
    try:
        coding.compress(small(digits_vp.get_config(), tmp_path, "in.npy", "a.ssac", **chosen))
        assert "1 picture, 1 tile of 1x8x8: " in capsys.readouterr().out
        config = digits_vp.get_config()
        config.threads = 2
        coding.decompress(small(config, tmp_path, "a.ssac", "out.npy"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert "1 picture came back, and the checksum of the pixels holds" in capsys.readouterr().out
    assert np.array_equal(np.load(tmp_path / "out.npy"), stack)
    assert len(list((tmp_path / "work").glob("moments*"))) == 1


def test_files_of_another_pass_are_refused(tmp_path):
    np.save(tmp_path / "in.npy", np.asarray(digits()).astype(np.uint8)[:1])
    coding.compress(small(digits_vp.get_config(), tmp_path, "in.npy", "a.ssac"))
    (tmp_path / "work").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"from the pass of another workdir.*code\.embed=True.*holds no finished pass"):
        coding.decompress(small(digits_vp.get_config(), tmp_path, "a.ssac", "none.npy"))
    assert not (tmp_path / "work").exists()
    config = digits_vp.get_config()
    config.seed = 1
    coding.compress(small(config, tmp_path, "in.npy", "b.ssac"))
    with pytest.raises(InputError, match=r"a\.ssac: its chain is not in it, and comes from the pass of another workdir"):
        coding.decompress(small(config, tmp_path, "a.ssac", "none.npy"))
    assert not (tmp_path / "none.npy").exists()


@pytest.mark.slow
def test_the_best_covariance_is_found_by_the_pass_that_chose_it(tmp_path):
    np.save(tmp_path / "in.npy", np.asarray(digits()).astype(np.uint8)[:1])
    coding.compress(small(digits_vp.get_config(), tmp_path, "in.npy", "a.ssac", covariance="auto"))
    coding.decompress(small(digits_vp.get_config(), tmp_path, "a.ssac", "out.npy"))
    assert len(list((tmp_path / "work").glob("moments*"))) == 1


def test_places_are_checked_before_the_pass(tmp_path):
    np.save(tmp_path / "in.npy", np.asarray(digits()).astype(np.uint8)[:1])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="is a file and no folder"):
        coding.compress(small(digits_vp.get_config(), tmp_path, "in.npy", "file/a.ssac"))
    assert not (tmp_path / "work").exists()


def test_a_covariance_that_codes_nothing_is_refused_for_that(tmp_path):
    np.save(tmp_path / "in.npy", np.asarray(digits()).astype(np.uint8)[:1])
    with pytest.raises(UnsupportedError, match="diagonal in no fixed basis"):
        coding.compress(small(digits_vp.get_config(), tmp_path, "in.npy", "a.ssac", covariance="tweedie"))


@pytest.mark.slow
@pytest.mark.parametrize("embed", [False, True])
def test_levels_of_digits_come_back(tmp_path, embed, capsys):
    stack = np.asarray(digits()).astype(np.uint8)[:30]
    np.savez(tmp_path / "in.npz", x=stack)
    coding.compress(small(digits_vp.get_config(), tmp_path, "in.npz", "a.ssac", embed=embed))
    assert "bits/dim" in capsys.readouterr().out
    if embed:  # a network and the file are enough
        (tmp_path / "work").rename(tmp_path / "elsewhere")
    coding.decompress(small(digits_vp.get_config(), tmp_path, "a.ssac", "out.npz", steps=7))
    with np.load(tmp_path / "out.npz") as archive:
        assert np.array_equal(archive["x"], stack)
    assert (tmp_path / "work" / "moments.safetensors").exists() != embed


@pytest.mark.slow
def test_photographs_come_back_by_tiles(tmp_path):
    config = patches.get_config()
    for name, part in (("a", np.s_[:37, :50]), ("b/c", np.s_[100:116, 30:46])):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.fromarray(np.asarray(photographs()[0])[part]).save(tmp_path / "in" / f"{name}.png")
    config.data.split = (400, 300, 100)
    coding.compress(small(config, tmp_path, "in", "a.ssac"))
    coding.decompress(small(config, tmp_path, "a.ssac", "out"))
    for name in ("a", "b/c"):
        assert np.array_equal(*(np.asarray(PIL.open(tmp_path / folder / f"{name}.png")) for folder in ("in", "out")))
    damaged = bytearray((tmp_path / "a.ssac").read_bytes())
    damaged[100] ^= 1
    (tmp_path / "b.ssac").write_bytes(damaged)
    with pytest.raises(InputError, match=r"b\.ssac: it is damaged"):
        coding.decompress(small(config, tmp_path, "b.ssac", "none"))
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="another network"):
        coding.decompress(small(digits_vp.get_config(), tmp_path, "a.ssac", "none"))


@pytest.mark.slow
def test_pictures_of_too_many_levels_or_channels_are_refused(tmp_path):
    saved(tmp_path / "grey" / "a.png", "L", (8, 8))
    with pytest.raises(InputError, match="knows the 17 levels"):
        coding.compress(small(digits_vp.get_config(), tmp_path, "grey", "a.ssac"))
    saved(tmp_path / "colour" / "a.png", "RGB", (8, 8))
    with pytest.raises(InputError, match="3 channels"):
        coding.compress(small(digits_vp.get_config(), tmp_path, "colour", "a.ssac"))


def test_paths_are_asked_for(tmp_path, capsys):
    for arguments in (["--mode=compress"], ["--mode=decompress"], ["--mode=compress", "--config.code.input=x"]):
        with pytest.raises(SystemExit) as ended:
            main.cli(["--config=digits_vp", f"--workdir={tmp_path}", *arguments])
        assert ended.value.code == 2
        assert "is not set; pass --config.code." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.cli(["--config=digits_vp", f"--workdir={tmp_path}", "--mode=decompress", *_paths(tmp_path, "nothing.ssac", "out")])
    assert "no compressed file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.cli(["--config=digits_vp", f"--workdir={tmp_path}", "--mode=compress", *_paths(tmp_path, "in", "out.png")])
    assert "name a file .ssac" in capsys.readouterr().err


def _paths(folder, source, target):
    return [f"--config.code.input={folder / source}", f"--config.code.output={folder / target}"]
