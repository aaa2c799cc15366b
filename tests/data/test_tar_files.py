"""Tar files of pictures: the folder that was packed, row by row, with its labels, by whatever reads them."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from score_sde_analytic import Budget, LinearVP, ScoreModel, images
from score_sde_analytic.data import Examples, cached, split
from score_sde_analytic.data.tar_files import MAPPED, Shards
from score_sde_analytic.errors import InputError
from score_sde_analytic.measure import estimate

pillow = pytest.importorskip("PIL.Image")
COUNT = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 6, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Pictures in folders that are their labels."""
    for i, x in enumerate(PIXELS):
        within = tmp_path / "folder" / ("cat", "dog", "emu")[i // 4]
        within.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(x).save(within / f"{i:02}.png")
    return tmp_path / "folder"


def pack(path, members):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def png(i):
    buffer = io.BytesIO()
    pillow.fromarray(PIXELS[i]).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def shards(folder, tmp_path):
    """The folder, packed in three."""
    files = sorted(folder.rglob("*.png"))
    for shard in range(3):
        members = [(f"./{f.relative_to(folder)}", f.read_bytes()) for f in files[4 * shard : 4 * shard + 4]]
        pack(tmp_path / "shards" / f"{shard:03}.tar", members)
    return tmp_path / "shards"


def test_shards_are_the_folder_that_was_packed(folder, shards):
    ours, theirs = images(shards), images(folder)
    assert len(ours) == len(theirs) == COUNT
    assert ours.labels == theirs.labels
    assert ours.classes == theirs.classes == ("cat", "dog", "emu")
    for i in (11, *range(COUNT)):
        torch.testing.assert_close(ours[i]["image"], theirs[i]["image"], rtol=0, atol=0)
        assert ours[i]["label"] == theirs[i]["label"]
    assert ours.column("name") == [name.removesuffix(".png") for name in theirs.column("name")]


def test_an_index_is_kept_and_is_of_its_file(shards, monkeypatch):
    first = images(shards)
    assert sorted(path.name for path in shards.glob("*.index")) == ["000.tar.index", "001.tar.index", "002.tar.index"]
    with monkeypatch.context() as patched:
        patched.setattr(tarfile, "open", None)  # not needed again
        assert images(shards).labels == first.labels
    pack(shards / "001.tar", [("cow/1.png", png(1))])
    assert images(shards).column("name")[4:] == ["cow/1", "emu/08", "emu/09", "emu/10", "emu/11"]
    (shards / "002.tar.index").write_bytes(b"damaged")
    assert len(images(shards)) == 9


def test_a_memory_map_of_shards(folder, shards, tmp_path):
    rows = cached(images(shards, size=3), tmp_path / "map", progress=False)
    small = images(folder, size=3)
    assert all(torch.equal(rows[i]["image"], small[i]["image"]) for i in range(COUNT))


def test_labels_and_columns_of_webdataset(tmp_path):
    members = [
        (name, content)
        for i in range(3)
        for name, content in (
            (f"train/{i}.cls", str(2 - i).encode()),
            (f"train/{i}.json", json.dumps({"artist": f"a{i % 2}", "year": 1900 + i, "tags": ["x"]}).encode()),
            (f"train/{i}.png", png(i)),
            (f"train/{i}.txt", b"words"),
        )
    ]
    pictures = images(pack(tmp_path / "a.tar", members))
    assert pictures.columns == ("name", "label", "artist", "year")
    assert pictures.labels == [2, 1, 0]
    assert pictures.column("artist") == ["a0", "a1", "a0"]
    assert images(tmp_path / "a.tar", label="year")[1]["label"] == 1901
    parts = split(pictures, (2, 1), 0, pictures.column("artist"))
    assert [sorted(part.indices) for part in parts] == [[0, 2], [1]]


def test_more_files_than_are_mapped_at_a_time(tmp_path):
    for i in range(MAPPED + 3):
        pack(tmp_path / f"{i:03}.tar", [(f"{i}.png", png(i % COUNT))])
    pictures = images(tmp_path)
    for i in (0, MAPPED + 2, 0, *range(MAPPED + 3)):
        assert np.array_equal(pictures[i].numpy().transpose(1, 2, 0), PIXELS[i % COUNT])
    assert len(pictures.source._maps) <= MAPPED
    assert torch.equal(pickle.loads(pickle.dumps(pictures))[5], pictures[5])


def network(x, t):
    return 0.7 * x + 0.1 * x.roll(1, -1)


def test_workers_leave_moments_as_they_are(shards):
    """The order in which examples are visited is the seed's, whoever reads them; parts of parts are read ahead too."""
    pictures = images(shards, label=None)
    model = ScoreModel(network, LinearVP(), fingerprint="mixing")
    options = {"data_range": pictures.data_range, "progress": False}
    budget = Budget(min_draws=16, max_draws=16, batch_size=8, groups=4)
    found = []
    for workers in (0, 2):
        data = Examples(DataLoader(pictures, num_workers=workers), pictures.data_range).part(range(1, 11))
        found.append(estimate(model, data, [-3.0, 0.0, 3.0], budget, **options))
    assert found[0].fingerprint == found[1].fingerprint
    for name in ("counts", "sums", "products", "decoder_sums", "squares"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


@pytest.mark.parametrize(
    ("members", "column", "message"),
    [
        ([("a.txt", b"no")], "", r"holds no \.png, \.jpg"),
        ([("a.png", b""), ("a.seg.png", b"")], "", r"which of png, seg\.png of a of .* column='png'"),
        ([("a.png", b""), ("b.jpg", b"")], "", r"b of .* has no \.png, others have"),
        ([("a.png", png(0)), ("a.cls", b"cat")], "", r"\.cls of a of .* holds 'cat', not the number"),
        ([("a.png", png(0)), ("a.json", b"{")], "", r"\.json of a of .* is damaged"),
        ([("a.png", png(0)), ("a.json", b"[]")], "", r"\.json of a of .* holds list"),
        ([("a.png", b"no picture")], "", r"a of .*: it is damaged or no picture"),
        ([("a.png", b"")], "jpg", r"which of png of a of"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, members, column, message):
    with pytest.raises(InputError, match=message):
        images(pack(tmp_path / "a.tar", members), column)[0]


def test_damaged_and_compressed_files_are_told(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(InputError, match="damaged, compressed or no tar file"):
        images(tmp_path / "a.tar")
    path = pack(tmp_path / "b.tar", [("a.png", png(0)), ("b.png", png(1))])
    source = Shards([path])
    with path.open("r+b") as file:
        file.truncate(600)
    with pytest.raises(InputError, match="shorter than its members"):
        source.row(1, "")
