"""Exact arithmetic: sums against rational numbers, functions against their values, layers against float64, and refusals."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from score_sde_analytic.coding import exact_functions as functions
from score_sde_analytic.coding.exact_arithmetic import ExactArithmetic
from score_sde_analytic.coding.exact_sums import Grids, bits_of_products, bits_of_terms, on_grid, total
from score_sde_analytic.errors import RunError, UnsupportedError

#: Of layers whose sums are of few hundred terms.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def exact_sum(products):
    return sum(map(Fraction, products), Fraction(0))


@pytest.mark.parametrize("scale", [1e-90, 1e-6, 1.0, 1e6, 1e90])
def test_products_of_matrices_are_those_of_rational_numbers(scale):
    """No addition rounds: each number equals the sum over fractions of the rounded factors."""
    a, b = random(3, 301, scale=scale), random(301, 2, seed=1) * torch.tensor([1e-8, 1e8], dtype=torch.float64)
    bits = bits_of_products(301)
    x, w = on_grid(a, [1], bits), on_grid(b, [0], bits)
    product = Grids().product(a, b)
    for i in range(3):
        for j in range(2):
            terms = [Fraction(p) * Fraction(q) for p, q in zip(x[i].tolist(), w[:, j].tolist(), strict=True)]
            assert Fraction(float(product[i, j])) == sum(terms)


@pytest.mark.parametrize("terms", [3, 511, 4095])
def test_the_most_bits_that_keep_sums_exact(terms):
    """n (2^b - 1)^2, odd, is a float64 number for b bits and none for two more: the condition n 2^2b <= 2^53 is no guess."""
    bits = bits_of_products(terms)
    for more, exact in ((0, True), (2, False)):
        x = torch.full((terms,), 2.0 ** (bits + more) - 1.0, dtype=torch.float64)
        assert (Fraction(float(x @ x)) == terms * Fraction(2 ** (bits + more) - 1) ** 2) == exact
    x = torch.full((terms,), 2.0 ** bits_of_terms(terms) - 1.0, dtype=torch.float64)
    assert Fraction(float(x.sum())) == terms * Fraction(2 ** bits_of_terms(terms) - 1)


def test_a_grid_is_that_of_its_row():
    """Rounding errors are half a unit of the row's own largest number at most; other rows do not matter."""
    x = random(50, 40) * torch.logspace(-40, 40, 50, dtype=torch.float64)[:, None]
    rounded = on_grid(x, [1], bits=20)
    assert ((rounded - x).abs() <= x.abs().amax(1, keepdim=True) * 2.0**-20).all()
    assert torch.equal(rounded[7:8], on_grid(x[7:8], [1], bits=20))
    assert not torch.equal(rounded, x)
    assert torch.equal(on_grid(torch.zeros(2, 3, dtype=torch.float64), [1], 20), torch.zeros(2, 3, dtype=torch.float64))


def test_sums_do_not_depend_on_their_order():
    """And those of torch do, in the same test."""
    x = random(16, 5000)
    orders = [torch.randperm(5000, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    assert all(torch.equal(total(x[:, order], [1]), total(x, [1])) for order in orders)
    assert not all(torch.equal(x[:, order].sum(1), x.sum(1)) for order in orders)
    assert [float(v) for v in total(x, [1])] == pytest.approx([math.fsum(row) for row in x.tolist()], abs=1e-9)


def test_convolutions_of_many_parts_are_those_of_one(monkeypatch):
    x, weight = random(9, 4, 6, 6), random(5, 4, 3, 3, seed=1)
    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    whole = Grids().convolution(x, weight, False, *geometry)
    monkeypatch.setattr("score_sde_analytic.coding.exact_sums.UNFOLDED", 1)
    assert torch.equal(Grids().convolution(x, weight, False, *geometry), whole)


def test_weights_are_rounded_once_and_anew_where_they_change():
    weight = nn.Parameter(random(4, 3))
    grids = Grids([weight])
    first = grids(weight, [0], 20)
    assert grids(weight, [0], 20) is first
    assert torch.equal(grids(weight.T, [1], 20), first.T)
    with torch.no_grad():
        weight.mul_(0.7)
    assert torch.equal(grids(weight, [0], 20), on_grid(weight.detach(), [0], 20))


REFERENCES = {
    "exp": (math.exp, np.linspace(-30.0, 30.0, 4001), 2e-9),
    "log": (math.log, np.geomspace(1e-290, 1e290, 4001), 2e-12),
    "sin": (math.sin, np.linspace(-5000.0, 5000.0, 4001), 1e-10),
    "cos": (math.cos, np.linspace(-5000.0, 5000.0, 4001), 1e-10),
    "erf": (math.erf, np.linspace(-7.0, 7.0, 4001), 4e-9),
    "tanh": (math.tanh, np.linspace(-30.0, 30.0, 4001), 2e-9),
    "sigmoid": (lambda x: 1.0 / (1.0 + math.exp(-x)), np.linspace(-30.0, 30.0, 4001), 2e-9),
    "silu": (lambda x: x / (1.0 + math.exp(-x)), np.linspace(-30.0, 30.0, 4001), 2e-9),
    "gelu": (lambda x: 0.5 * x * (1.0 + math.erf(x * 0.5**0.5)), np.linspace(-8.0, 8.0, 4001), 2e-8),
}
#: sha256 of their values below: a machine that works out others has other tables, or does not round as IEEE 754 says.
VALUES = "7cd46b5875e4c98e07d37d9f6a994956c975f197d1ebe18dbc07977bd0011974"


def test_functions_have_their_values():
    assert set(REFERENCES) == set(functions.FUNCTIONS)
    for name, (reference, points, bound) in REFERENCES.items():
        value = functions.FUNCTIONS[name](torch.from_numpy(points)).numpy()
        expected = np.array([reference(x) for x in points])
        error = np.abs(value - expected) / (np.maximum(expected, 1e-300) if name == "exp" else 1.0)
        assert error.max() < bound, name


def test_functions_are_the_same_to_the_last_bit_everywhere():
    grid = torch.arange(-3000, 3000, dtype=torch.float64) / 768.0
    sha = hashlib.sha256()
    for name in sorted(functions.FUNCTIONS):
        sha.update(functions.FUNCTIONS[name](grid if name != "log" else grid.abs() + 0.001).numpy().tobytes())
    assert sha.hexdigest() == VALUES


@pytest.mark.parametrize("name", sorted(functions.FUNCTIONS))
def test_a_value_does_not_depend_on_its_place(name):
    x = random(1003, scale=5.0).abs() + 1e-3
    values = functions.FUNCTIONS[name](x)
    assert all(torch.equal(functions.FUNCTIONS[name](x[i : i + 1]), values[i : i + 1]) for i in (0, 1, 501, 1000, 1002))
    strided = functions.FUNCTIONS[name](torch.stack([x, x], 1)[:, 0])
    assert torch.equal(strided, values)


def test_values_of_many_numbers_are_those_of_few(monkeypatch):
    x = random(7, 11, 5).mT
    whole = functions.FUNCTIONS["gelu"](x, approximate="tanh")
    monkeypatch.setattr(functions, "BLOCK", 16)
    blocked = functions.FUNCTIONS["gelu"](x, approximate="tanh")
    assert torch.equal(blocked, whole)
    assert torch.equal(whole, functions.gelu(x, approximate="tanh"))


def test_functions_at_the_ends():
    ends = torch.tensor([-math.inf, -1e300, 0.0, 1e300, math.inf, math.nan], dtype=torch.float64)
    assert functions.exp(ends)[:3].tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-300)
    assert functions.sigmoid(ends)[:5].tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    assert functions.log(torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)).nan_to_num(9.0, neginf=-9.0).tolist() == [
        -9.0,
        0.0,
        9.0,
    ]
    assert all(functions.FUNCTIONS[name](ends[5:]).isnan().all() for name in functions.FUNCTIONS)
    with pytest.raises(RunError, match="angles above"):
        functions.sin(ends[3:4])


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Heads(nn.MultiheadAttention):
    """Attention of tokens to each other."""

    def forward(self, x):
        return super().forward(x, x, x)[0]


TABLE = nn.Embedding(9, 3).double()
IMAGES, TOKENS, VECTORS = (7, 8, 6, 6), (7, 5, 8), (7, 8)
LAYERS = {
    "conv1d": (nn.Conv1d(5, 3, 3, padding=1), TOKENS),
    "conv2d": (nn.Conv2d(8, 6, 3, padding=1), IMAGES),
    "strided": (nn.Conv2d(8, 6, 3, stride=2), IMAGES),
    "dilated": (nn.Conv2d(8, 6, 3, dilation=2, padding="same"), IMAGES),
    "reflected": (nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"), IMAGES),
    "groups": (nn.Conv2d(8, 8, 3, groups=4, bias=False), IMAGES),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8), IMAGES),
    "transposed": (nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), IMAGES),
    "linear": (nn.Linear(8, 16), TOKENS),
    "linear of vectors": (nn.Linear(8, 16, bias=False), VECTORS),
    "group norm": (nn.GroupNorm(4, 8), IMAGES),
    "instance norm": (nn.GroupNorm(8, 8, affine=False), IMAGES),
    "layer norm": (nn.LayerNorm(8), TOKENS),
    "rms norm": (nn.RMSNorm(8), TOKENS),
    "batch norm": (nn.BatchNorm2d(8), IMAGES),
    "SiLU": (nn.SiLU(), IMAGES),
    "GELU": (nn.GELU(), IMAGES),
    "GELU by tanh": (nn.GELU("tanh"), IMAGES),
    "ReLU": (nn.ReLU(inplace=True), IMAGES),
    "leaky ReLU": (nn.LeakyReLU(), IMAGES),
    "ELU": (nn.ELU(), IMAGES),
    "Tanh": (nn.Tanh(), IMAGES),
    "Sigmoid": (nn.Sigmoid(), IMAGES),
    "Softmax": (nn.Softmax(1), IMAGES),
    "dropout": (nn.Dropout(0.5), IMAGES),
    "average": (nn.AvgPool2d(2), IMAGES),
    "padded average": (nn.AvgPool2d(3, 2, 1), IMAGES),
    "global average": (nn.AdaptiveAvgPool2d(1), IMAGES),
    "maximum": (nn.MaxPool2d(2), IMAGES),
    "nearest": (nn.Upsample(scale_factor=2), IMAGES),
    "shuffle": (nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2)), IMAGES),
    "attention": (Call(lambda x: scaled_dot_product_attention(x, x + 1.0, x)), (7, 2, 5, 8)),
    "causal attention": (Call(lambda x: scaled_dot_product_attention(x, x, x, is_causal=True)), (7, 2, 5, 8)),
    "multi-head attention": (Heads(8, 2, batch_first=True), TOKENS),
    "sums": (Call(lambda x: torch.cat([x.sum(1), x.mean(1), x.var(1), x.norm(dim=1), x.amax(1)], 1)), TOKENS),
    "einsum": (Call(lambda x: torch.einsum("bnc,bmc->bnm", x, x)), TOKENS),
    "arithmetic": (
        Call(lambda x: (2 * x - 1) / (x.square() + 3) + torch.lerp(x, -x, 0.3).abs().sqrt().add(1).rsqrt()),
        IMAGES,
    ),
    "fused": (Call(lambda x: torch.add(x, x.flip(1), alpha=0.3).addcmul(x, x, value=0.1).sub(x, alpha=0.7)), IMAGES),
    "in place": (Call(lambda x: x.clone().mul_(0.3).add_(x, alpha=0.7).sigmoid_()), IMAGES),
    "frequencies": (Call(lambda x: torch.sin(x[..., None] * 100.0 ** (-torch.arange(4) / 4))), VECTORS),
    "embedding": (Call(lambda x: TABLE((x.abs() * 2).long().clamp(0, 8))), VECTORS),
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_layers_are_those_of_float64_and_do_not_see_the_batch(name):
    """Within the rounding of their operands; the same for a batch, its reverse, and examples alone."""
    layer, shape = LAYERS[name]
    layer = layer.double().eval()
    x = random(*shape)
    mode = ExactArithmetic([*layer.parameters(), *layer.buffers()])
    with mode:
        y, reverse = layer(x.clone()), layer(x.flip(0))
        alone = torch.cat([layer(part.clone()) for part in x.split(1)])
    torch.testing.assert_close(y, layer(x.clone()), **CLOSE)
    assert torch.equal(y, alone)
    assert torch.equal(y, reverse.flip(0))
    with mode, torch.inference_mode():
        assert torch.equal(layer(x.clone()), y)
    with ExactArithmetic():  # weights rounded at every use
        assert torch.equal(layer(x.clone()), y)


def test_large_and_small_networks_are_as_exact():
    """Errors are relative: no activation leaves a range, whatever its scale."""
    layer, x = nn.Linear(64, 8, bias=False).double(), random(5, 64)
    with torch.no_grad():
        for scale in (1e-60, 1.0, 1e60):
            with ExactArithmetic():
                y = layer(scale * x)
            assert ((y / scale - layer(x)).abs() < 1e-6).all()


REFUSED = {
    "cumsum": (Call(lambda x: x.cumsum(1)), "aten.cumsum, of which Call makes use"),
    "fft": (Call(lambda x: torch.fft.rfft2(x).real), "aten._fft_r2c"),
    "bilinear": (
        nn.Upsample(scale_factor=2, mode="bilinear"),
        "aten.upsample_bilinear2d, of which Upsample .*use nearest",
    ),
    "random": (Call(lambda x: x + torch.randn_like(x)), "aten.randn_like"),
    "dropout": (nn.Dropout(0.5).train(), "aten.bernoulli|aten.native_dropout"),
    "batch norm": (nn.BatchNorm2d(8).double().train(), "call net.eval"),
    "average": (nn.AvgPool2d(4, ceil_mode=True), "windows of different sizes"),
    "power": (Call(lambda x: x.abs() ** 1.7), "aten.pow.*powers other than"),
    "out": (Call(lambda x: torch.mul(x, x, out=torch.empty_like(x))), "aten.mul"),
    "softplus": (nn.Softplus(), "aten.softplus, of which Softplus"),
    "fractions": (Call(lambda x: x[0, 0, 0, 0] * torch.arange(0.0, 1.0, 0.1)), "range of fractions"),
}


@pytest.mark.parametrize("name", REFUSED)
@torch.no_grad()
def test_what_is_not_known_to_be_exact_is_refused(name):
    layer, words = REFUSED[name]
    x = random(*IMAGES)
    with pytest.raises(UnsupportedError, match=words), ExactArithmetic():
        layer(x)


def test_other_places_and_kinds_of_numbers_are_refused():
    for x in (torch.ones(2, device="meta"), torch.ones(2, dtype=torch.complex64)):
        with pytest.raises(UnsupportedError, match="dense tensors on the CPU"), ExactArithmetic():
            x + 1
