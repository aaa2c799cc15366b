"""Files are refused for what is wrong with them, and hold nothing that makes a reader do too much."""

import json
import zlib

import numpy as np
import pytest
import torch
from worlds import DECLARED, codec, smooth, study

from score_sde_analytic import DataRange, LinearVP
from score_sde_analytic.coding import Codec, container, header_of
from score_sde_analytic.coding.plan import Plan, seed
from score_sde_analytic.errors import InputError
from score_sde_analytic.models import LinearDenoiser

IMAGES = smooth(6, 20)


@pytest.fixture(scope="module")
def content() -> bytes:
    return codec().encode(IMAGES)


def forged(content: bytes, change) -> bytes:
    """A file whose header was changed, with the checksums that it should have."""
    header, words, checksum = container.unpack(content)
    change(header)
    body = container.pack(header, words, np.zeros(1))[:-8] + checksum
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_every_flipped_byte_is_seen(content):
    one = codec()
    for place in range(len(content)):
        for flip in (1, 128, 255):
            damaged = bytearray(content)
            damaged[place] ^= flip
            with pytest.raises(InputError):
                one.decode(bytes(damaged))


def test_every_truncation_is_seen(content):
    for length in range(len(content)):
        with pytest.raises(InputError):
            codec().decode(content[:length])
    with pytest.raises(InputError, match="checksum"):
        codec().decode(content + b"\0")


def test_every_flipped_bit_of_the_words_is_seen_without_checksums_too(content):
    """What checksums let through on purpose decodes to other pixels, or to what no images are put on."""
    one, (header, words, checksum) = codec(), container.unpack(content)
    for place in range(0, len(words), 3):
        damaged = words.copy()
        damaged[place] ^= np.uint32(1 << (place % 31))
        body = container.pack(header, damaged, np.zeros(1))[:-8] + checksum
        with pytest.raises(InputError):
            one.decode(body + zlib.crc32(body).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(network="000000"), "another network"),
        (lambda h: h.update(chain="000000"), "another chain"),
        (lambda h: h.update(levels=256), "another levels"),
        (lambda h: h.update(range=[0.0, 1.0]), "another range"),
        (lambda h: h.update(range=[1.0, 0.0]), "no range"),
        (lambda h: h["arithmetic"]["float32"].update(probe="000000"), "not the encoder's"),
        (lambda h: h["arithmetic"]["float32"].update(probe="0", torch="1.0"), "torch 1.0 there"),
        (lambda h: h.update(arithmetic={"exact": {"probe": "0"}}), "in exact arithmetic"),
        (lambda h: h.update(arithmetic={}), "not what it should be"),
        (lambda h: h.update(ratio=0.0), "ratio"),
        (lambda h: h.update(ratio=0.25), "."),
        (lambda h: h.update(shape=[2**21, 2**21]), "too large"),
        (lambda h: h.update(shape=[0]), "not what it should be"),
        (lambda h: h.update(shape=[]), "none, or too large"),
        (lambda h: h.update(batches=[[2**40, 1]]), "plan"),
        (lambda h: h.update(batches=[[1, 2**40]]), "plan"),
        (lambda h: h.update(batches=[[-(2**40), 1]]), "plan"),
        (lambda h: h.update(batches=[]), "plan"),
        (lambda h: h.update(batches=[[0, 1]]), "plan"),
        (lambda h: h.update(batches=[[1]]), "plan"),
        (lambda h: h.update(raw=[[0, 2**40]]), "plan"),
        (lambda h: h.update(raw=[[99, 1]]), "plan"),
        (lambda h: h.update(count=99), "count"),
        (lambda h: h.update(random=7), "put on"),
        (lambda h: h.pop("network"), "lacks network"),
    ],
)
def test_what_does_not_fit_is_refused(content, change, message):
    with pytest.raises(InputError, match=message):
        codec().decode(forged(content, change))


def test_forging_alone_changes_nothing(content):
    assert torch.equal(codec().decode(forged(content, lambda header: None)), IMAGES)


def test_other_versions_and_files_are_refused(content):
    with pytest.raises(InputError, match="version 2"):
        codec().decode(content[:4] + b"\2" + content[5:])
    with pytest.raises(InputError, match="does not begin with SSAC"):
        codec().decode(b"\x89PNG" + content[4:])
    with pytest.raises(InputError, match="does not begin with SSAC"):
        codec().decode(b"")


def test_another_network_or_chain_is_refused(content):
    other = LinearDenoiser.of(smooth(300, 99)).score_model(LinearVP())
    with pytest.raises(InputError, match="another network"):
        Codec(other, codec().chain, DECLARED).decode(content)
    with pytest.raises(InputError, match="another chain"):
        codec("isotropic", 4).decode(content)
    with pytest.raises(InputError, match="another levels"):
        Codec(study().model, codec().chain, DataRange(levels=33)).decode(content)


def test_a_header_that_unfolds_to_much_is_not_unfolded():
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=container.COMMON)
    bomb = deflate.compress(b" " * (2 * container.MOST_HEADER)) + deflate.flush()
    body = container.MAGIC + bytes([container.VERSION]) + bomb + b"\0" * 4
    with pytest.raises(InputError):
        container.unpack(body + zlib.crc32(body).to_bytes(4, "little"))


def test_headers_say_what_files_are(content):
    header = header_of(content)
    assert header["shape"] == [3, 4, 4]
    assert header["count"] == 6
    assert header["arithmetic"]["float32"]["torch"] == torch.__version__
    assert json.loads(json.dumps(header)) == header


def test_threads_are_those_of_the_encoder(content):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(codec().decode(content), IMAGES)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- plans ---


def test_plans_come_back():
    plan = Plan([-2, 1, 1, 2, -1, 2], [0, 1, 7])
    assert plan.count == 9
    back = Plan.of_content(json.loads(json.dumps(plan.content())), dim=4)
    assert (back.entries, back.raw) == (plan.entries, plan.raw)
    indices = np.concatenate([index for _, index in plan.parts()])
    assert sorted(indices.tolist()) == list(range(9))


@pytest.mark.parametrize("needed", [50.0, 250.0, 300.0, 900.0])
@pytest.mark.parametrize("net", [20.0, 120.0, 250.0, 400.0])
def test_a_file_begins_with_the_least_waste(needed, net):
    """Against all mixtures of raw images and random words."""
    raw = 260.0

    def cost(images: int, words: int) -> float:
        return images * (raw - net) + 32.0 * words

    images, words = seed(needed, net, raw, 100)
    assert images * raw + 32 * words >= needed
    if net < raw:
        mixtures = [(i, w) for i in range(8) for w in range(40) if i * raw + 32 * w >= needed]
        assert cost(images, words) <= min(cost(*mixture) for mixture in mixtures) + 1e-9
