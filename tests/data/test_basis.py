"""Bases: orthonormal maps, exact diagonalisation, labels without gaps, files that give the same map back."""

import json
import math
import pickle

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.utils.data import TensorDataset

from score_sde_analytic.data.bases import from_config, to_arrays
from score_sde_analytic.data.basis import Basis, Channel, Pixel, PixelChannel, Scalar
from score_sde_analytic.data.transforms import DCT, PCA, ColourDCT
from score_sde_analytic.files import load_arrays, save_arrays

SHAPES = [(5,), (4, 6), (1, 8, 8), (3, 16, 16), (3, 5, 7)]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def orthonormal(rows, columns, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(columns, rows)))[0].T


def bases(shape):
    """Every kind of basis that takes examples of this shape."""
    d = math.prod(shape)
    found = [Pixel(), PixelChannel(), Channel(), Scalar(), DCT(), DCT(radial=True), DCT(radial=4)]
    found += [PCA(orthonormal(rank, d)) for rank in sorted({1, d // 2, d})]
    if len(shape) == 3:
        found += [ColourDCT(orthonormal(shape[0], shape[0]), radial) for radial in (False, True, 3)]
    return found


EVERY = [pytest.param(b, shape, id=f"{b.config()['name']}-{i}-{shape}") for shape in SHAPES for i, b in enumerate(bases(shape))]


def matrix(basis, *shape):
    """U as a dense matrix."""
    d = math.prod(shape)
    return basis.forward(torch.eye(d, dtype=torch.float64).reshape(d, *shape)).flatten(1).T


def coefficient_variances(basis, covariance, shape):
    """diag(U Cov U^T), exact."""
    u = matrix(basis, *shape)
    return torch.einsum("ij,jk,ik->i", u, covariance, u)


def mixed_data(n=400, shape=(3, 4, 5), seed=1):
    """Data whose covariance has no symmetry."""
    mix = draw(math.prod(shape), math.prod(shape), seed=seed)
    return (draw(n, math.prod(shape), seed=seed + 1) @ mix + 3.0).reshape(n, *shape)


@pytest.mark.parametrize(("basis", "shape"), EVERY)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_maps_are_orthonormal(basis, shape, dtype, tolerance):
    x, other = draw(4, *shape, dtype=dtype), draw(4, *shape, seed=1, dtype=dtype)
    kept = x.clone()
    y = basis.forward(x)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    assert (basis.inverse(x).shape, basis.inverse(x).dtype) == (x.shape, dtype)
    close = {"rtol": tolerance, "atol": tolerance * math.sqrt(math.prod(shape))}
    torch.testing.assert_close(basis.inverse(y), x, **close)
    torch.testing.assert_close(basis.forward(basis.inverse(x)), x, **close)
    torch.testing.assert_close(y.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), **close)
    # The inverse is the transpose: <U x, z> = <x, U^T z>.
    torch.testing.assert_close((y * other).flatten(1).sum(1), (x * basis.inverse(other)).flatten(1).sum(1), **close)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(("basis", "shape"), EVERY)
def test_labels_count_from_zero_without_gaps(basis, shape):
    labels = basis.labels(shape)
    assert (labels.shape, labels.dtype) == (shape, np.int64)
    assert labels.flags.writeable
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    np.testing.assert_array_equal(basis.labels(torch.Size(shape)), labels)
    np.testing.assert_array_equal(basis.labels(list(shape)), labels)


@pytest.mark.parametrize(
    ("basis", "counts"),
    [
        (Scalar(), (1, 1, 1, 1, 1)),
        (Channel(), (1, 1, 1, 3, 3)),
        (Pixel(), (5, 24, 64, 256, 35)),
        (PixelChannel(), (5, 24, 64, 768, 105)),
        (DCT(), (5, 24, 64, 768, 105)),
        (DCT(radial=2), (2, 2, 2, 6, 6)),
    ],
)
def test_numbers_of_curves(basis, counts):
    assert tuple(len(np.unique(basis.labels(shape))) for shape in SHAPES) == counts


def test_labels_of_identities():
    shape = (3, 2, 2)
    np.testing.assert_array_equal(Channel().labels(shape), np.arange(3)[:, None, None] * np.ones((1, 2, 2)))
    np.testing.assert_array_equal(Pixel().labels(shape), np.ones((3, 1, 1)) * np.arange(4).reshape(2, 2))
    for basis in (Pixel(), PixelChannel(), Channel(), Scalar()):
        x = draw(2, *shape)
        assert basis.forward(x) is x
        assert basis.inverse(x) is x


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([True, 2, 3, 5, 8]))
def test_rings_hold_equal_radii(c, h, w, radial):
    labels = DCT(radial).labels((c, h, w))
    radius = np.hypot(np.arange(h)[:, None] / h, np.arange(w) / w)
    per_channel = len(np.unique(labels[0]))
    for channel in range(c):
        np.testing.assert_array_equal(labels[channel], labels[0] + channel * per_channel)
    ring = labels[0]
    assert ring[0, 0] == 0
    order = np.argsort(radius, axis=None, kind="stable")
    assert (np.diff(ring.flatten()[order])[np.diff(radius.flatten()[order]) > 1e-9] >= 0).all()
    for value in range(per_channel):
        inside = radius[ring == value]
        if value == 0:
            assert inside.tolist() == [0.0]  # the mean alone
        elif radial is True:
            assert np.ptp(inside) < 1e-9
        else:
            assert np.ptp(inside) <= radius.max() / (radial - 1) + 1e-6
    if radial is True:
        assert per_channel == len(np.unique(radius.round(9)))
        if h == w:
            np.testing.assert_array_equal(ring, ring.T)
    else:
        assert per_channel <= radial


@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 4, 5), (1,), (2, 1, 3), (1, 1, 1)])
def test_cosines_are_scipys(shape):
    x = draw(3, *shape)
    axes = (-1,) if len(shape) == 1 else (-2, -1)
    torch.testing.assert_close(
        DCT().forward(x), torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=axes, norm="ortho")), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        DCT().inverse(x), torch.from_numpy(scipy.fft.idctn(x.numpy(), axes=axes, norm="ortho")), rtol=1e-12, atol=1e-12
    )
    traced = x.clone().requires_grad_()  # by products of matrices, as on devices
    for function in (DCT().forward, DCT().inverse):
        torch.testing.assert_close(function(traced).detach(), function(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("basis", "shape"), EVERY)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_energies_are_those_of_the_coefficients(basis, shape, dtype, tolerance):
    x = draw(4, *shape, dtype=dtype)
    labels = torch.from_numpy(basis.labels(shape).ravel())
    count = int(labels.max()) + 1
    square = basis.forward(x.double()).flatten(1).square()
    expected = torch.stack([square[:, labels == label].sum(1) for label in range(count)], 1)
    found = basis.energies(x, labels, count)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * math.prod(shape))


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-4])
def test_little_beside_the_components_keeps_its_energy(spread):
    """Where they explain nearly all, in float32, and row by row."""
    basis, y = PCA(orthonormal(8, 64)), draw(6, 64)
    y[:, 8:] *= spread
    y[0] *= 0.0
    y[1, :8] *= 1e-6
    x = basis.inverse(y).float()
    labels = torch.from_numpy(basis.labels((64,)))
    found = basis.energies(x, labels, 9)
    torch.testing.assert_close(found[:, 8], y[:, 8:].square().sum(1), rtol=2e-2 if spread < 1e-3 else 1e-3, atol=1e-13)
    assert torch.equal(found[2:], basis.energies(x[2:], labels, 9))


@pytest.mark.parametrize("basis", [DCT(), ColourDCT(orthonormal(3, 3))])
def test_derivatives_forward(basis):
    """A linear map's is itself; numpy's transforms would have none."""
    x, v = draw(2, 3, 5, 7), draw(2, 3, 5, 7)
    value, slope = torch.func.jvp(basis.forward, (x,), (v,))
    torch.testing.assert_close((value, slope), (basis.forward(x), basis.forward(v)))
    with forward_ad.dual_level():
        slope = forward_ad.unpack_dual(basis.inverse(forward_ad.make_dual(x, v))).tangent
        torch.testing.assert_close(slope, basis.inverse(v))
    torch.testing.assert_close(torch.vmap(basis.forward)(x[:, None])[:, 0], basis.forward(x))


def test_long_cosines_keep_their_digits():
    x = draw(1, 3001)
    matrices = DCT().forward(x.clone().requires_grad_()).detach()
    torch.testing.assert_close(matrices, torch.from_numpy(scipy.fft.dct(x.numpy(), norm="ortho")), rtol=0, atol=3e-14)


def test_colour_rotation_decorrelates_channels():
    x = mixed_data()
    basis = ColourDCT.of(x)
    rotated = torch.einsum("ij,njhw->nihw", torch.tensor(basis.rotation), x)
    covariance = torch.cov(rotated.movedim(1, 0).flatten(1))
    spread = covariance.diagonal()
    assert (covariance - spread.diag()).abs().max() < 1e-12 * spread.max()
    assert (spread.diff() < 0).all()
    torch.testing.assert_close(basis.forward(x), DCT().forward(rotated), rtol=1e-12, atol=1e-11)
    # In float32 and from a data set of pairs: the same rotation up to rounding, signs included.
    again = ColourDCT.of(TensorDataset(x.float(), torch.zeros(len(x))))
    np.testing.assert_allclose(again.rotation, basis.rotation, atol=1e-4)


def test_signs_do_not_hang_on_ties():
    """Opponent channels have entries of equal size."""
    grey = draw(200, 1, 4, 4)
    x = torch.cat([grey, grey], 1) + 0.1 * torch.cat([draw(200, 1, 4, 4, seed=1), draw(200, 1, 4, 4, seed=2)], 1)
    x = torch.cat([x, x.flip(1)])  # channels exchangeable
    expected = np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    for data in (x, -x, x.flip(0), x.float()):
        np.testing.assert_allclose(ColourDCT.of(data).rotation, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4)])
def test_components_diagonalise_the_covariance(shape):
    x = mixed_data(300, shape)
    basis = PCA.of(x)
    covariance = torch.cov(basis.forward(x).flatten(1).T, correction=0)
    values = covariance.diagonal()
    assert (covariance - values.diag()).abs().max() < 1e-10 * values.max()
    assert (values.diff() <= 0).all()
    expected = torch.linalg.eigvalsh(torch.cov(x.flatten(1).T, correction=0)).flip(0)
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-10 * float(expected[0]))


def test_rank_cuts_the_components():
    x = mixed_data(300, (6,))
    whole, cut = PCA.of(x), PCA.of(x, rank=2)
    np.testing.assert_array_equal(cut.components, whole.components[:2])
    assert cut.labels((6,)).tolist() == [0, 1, 2, 2, 2, 2]
    assert cut.labels((1, 2, 3)).tolist() == [[[0, 1, 2], [2, 2, 2]]]
    assert whole.labels((6,)).tolist() == list(range(6))
    assert PCA.of(x[:4]).components.shape == (3, 6)  # all that four examples determine
    # Outside these components four examples have no variance.
    torch.testing.assert_close(PCA.of(x[:4]).forward(x[:4] - x[:4].mean(0))[:, 3:], torch.zeros(4, 3).double())


def test_randomised_components_find_the_leading_subspace():
    x = (draw(500, 300) * 0.85 ** torch.arange(300)) @ torch.tensor(orthonormal(300, 300)) + 1.0
    exact, found = PCA.of(x, rank=20), PCA.of(x, rank=20, max_exact=100)
    np.testing.assert_allclose(found.components.T @ found.components, exact.components.T @ exact.components, atol=1e-8)
    np.testing.assert_allclose(found.components[:10], exact.components[:10], atol=1e-6)
    assert PCA.of(x, rank=20, max_exact=100) == found
    other = PCA.of(x, rank=20, max_exact=100, seed=1)
    np.testing.assert_allclose(other.components.T @ other.components, exact.components.T @ exact.components, atol=1e-8)
    # As many as the examples determine: the span of the centred data, found in one pass.
    few = PCA.of(x[:12], rank=11, max_exact=100)
    centred = x[:12] - x[:12].mean(0)
    assert few.forward(centred)[:, 11:].abs().max() < 1e-12


@pytest.mark.parametrize(("rank", "dim"), [(1, 1), (1, 7), (3, 7), (6, 7), (7, 7), (40, 200)])
def test_reflectors_complete_the_components(rank, dim):
    rows = orthonormal(rank, dim, seed=rank)
    u = matrix(PCA(rows), dim)
    torch.testing.assert_close(u @ u.T, torch.eye(dim).double(), rtol=0, atol=1e-13 * dim)
    torch.testing.assert_close(u[:rank], torch.tensor(rows), rtol=0, atol=1e-13)
    # The same map as LAPACK's product of reflectors, up to the signs of the given rows.
    factors, tau = torch.geqrf(torch.tensor(rows.T))
    q = torch.ormqr(factors, tau, torch.eye(dim).double())
    torch.testing.assert_close(u[rank:], q.T[rank:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 3], [3, 1], [0, 1, 2, 3], [3, 2, 1, 0], [1]])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_unit_vectors_are_completed(order, sign):
    """Reflectors that do nothing and pivots that are zero."""
    rows = sign * np.eye(4)[order]
    u = matrix(PCA(rows), 4)
    torch.testing.assert_close(u[: len(order)], torch.tensor(rows), rtol=0, atol=1e-15)
    torch.testing.assert_close(u @ u.T, torch.eye(4).double(), rtol=0, atol=1e-14)


def test_large_dimensions_take_thin_matrices():
    """A dense map of 200,000 coordinates would take 320 GB."""
    basis, x = PCA(orthonormal(3, 200_000)), draw(2, 2, 100, 1000)
    torch.testing.assert_close(basis.inverse(basis.forward(x)), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(basis.forward(x).norm(), x.norm(), rtol=1e-13, atol=0)
    assert basis.labels((2, 100, 1000)).max() == 3


@pytest.mark.parametrize("length", [2.0, 8.0])
def test_smooth_fields_concentrate_in_few_cosines(length):
    """log det Cov <= sum log Var(y_i) for every basis (Hadamard): principal components attain it, cosines come near."""
    shape = (1, 12, 12)
    grid = torch.cartesian_prod(torch.arange(12.0), torch.arange(12.0)).double()
    covariance = torch.exp(-torch.cdist(grid, grid) / length)
    components = PCA(torch.linalg.eigh(covariance).eigenvectors.T.flip(0).numpy())
    bases = {"pixel": PixelChannel(), "dct": DCT(), "pca": components}
    variances = {name: coefficient_variances(basis, covariance, shape) for name, basis in bases.items()}
    for values in variances.values():
        assert float(values.sum()) == pytest.approx(144.0)  # the trace is kept
    logs = {name: float(values.log().mean()) for name, values in variances.items()}
    assert logs["pca"] == pytest.approx(float(covariance.logdet()) / 144)
    assert logs["pca"] < logs["dct"] < logs["pixel"] - 0.3
    assert logs["dct"] - logs["pca"] < 0.1 * (logs["pixel"] - logs["dct"])
    top = {name: float(values.sort(descending=True).values[:14].sum()) / 144 for name, values in variances.items()}
    assert top["dct"] > 4 * top["pixel"]
    # Pooling costs: a ring has the mean variance of its members.
    order = [DCT(), DCT(radial=True), DCT(radial=6), Scalar()]
    costs = []
    for basis in order:
        label = torch.from_numpy(basis.labels(shape)).flatten()
        values = coefficient_variances(DCT(), covariance, shape)
        pooled = torch.bincount(label, values) / torch.bincount(label)
        costs.append(float(pooled[label].log().mean()))
    assert costs == sorted(costs)
    assert costs[2] < costs[3] - 0.2


@pytest.mark.parametrize(("basis", "shape"), [e for e in EVERY if e.values[1] == (3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(basis, shape, dtype):
    x = draw(2, *shape).to(dtype)
    for function in (basis.forward, basis.inverse):
        assert function(x).dtype == dtype
        assert torch.equal(function(x), function(x.float()).to(dtype))


@pytest.mark.parametrize(("basis", "shape"), [e for e in EVERY if e.values[1] == (3, 5, 7)])
def test_devices_empty_batches_layouts_copies_and_gradients(basis, shape):
    assert basis.forward(torch.zeros(2, *shape, device="meta")).device.type == "meta"
    assert basis.inverse(torch.zeros(0, *shape)).shape == (0, *shape)
    x = draw(4, *shape)
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(basis.forward(last), basis.forward(x), rtol=0, atol=1e-12)
    fresh = pickle.loads(pickle.dumps(basis))
    assert fresh == basis
    assert hash(fresh) == hash(basis)
    z = x.float().requires_grad_()
    fresh.forward(z).square().sum().backward()  # d ||U z||^2 = 2 z
    torch.testing.assert_close(z.grad, 2 * z.detach(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("make", [DCT, lambda: ColourDCT(orthonormal(3, 3)), lambda: PCA(orthonormal(2, 897))])
def test_gradients_pass_after_inference(make):
    """Matrices first cast in inference mode serve autograd later."""
    basis, x = make(), draw(2, 3, 13, 23, dtype=torch.float32).requires_grad_()
    with torch.inference_mode():
        basis.forward(x)
    basis.inverse(basis.forward(x)).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x), rtol=0, atol=1e-4)


def test_equality_is_that_of_the_config():
    assert DCT() == DCT(False) != DCT(True)
    assert DCT() != PixelChannel() != Pixel()
    rows = orthonormal(2, 5)
    assert PCA(rows) == PCA(rows.copy()) != PCA(rows[::-1])
    assert len({DCT(), DCT(), DCT(3), PCA(rows), PCA(rows)}) == 3
    assert DCT() != "DCT"
    assert PCA(rows).components.flags.writeable is False


class Haar(Basis):
    """Sums and differences of neighbours in the last dimension, one curve each."""

    def forward(self, x):
        a, b = x[..., ::2], x[..., 1::2]
        return torch.cat([a + b, a - b], -1) / math.sqrt(2)

    def inverse(self, y):
        a, b = y.chunk(2, -1)
        return torch.stack([a + b, a - b], -1).flatten(-2) / math.sqrt(2)

    def labels(self, shape):
        return np.broadcast_to(np.arange(2).repeat(shape[-1] // 2), shape)

    def config(self):
        return {"name": "Haar"}


class Mirrored(Basis):
    def forward(self, x):
        return -x.flip(-1)

    def inverse(self, y):
        return -y.flip(-1)

    def config(self):
        return {"name": "Mirrored"}


@pytest.mark.parametrize("basis", [Haar(), Mirrored()])
def test_a_basis_of_ones_own(basis, tmp_path):
    x = draw(4, 3, 6, 8)
    torch.testing.assert_close(basis.inverse(basis.forward(x)), x)
    torch.testing.assert_close(basis.forward(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    assert basis.labels((3, 6, 8)).max() == (1 if isinstance(basis, Haar) else 143)
    assert to_arrays(basis) == {}
    with pytest.raises(ValueError, match=r"not built in .* pass the object"):
        from_config(basis.config(), {})
    assert from_config(basis.config(), {}, basis) is basis


def test_a_basis_without_config_is_incomplete():
    class Half(Basis):
        def forward(self, x):
            return x

        def inverse(self, y):
            return y

    with pytest.raises(TypeError, match="config"):
        Half()


@pytest.mark.parametrize(("basis", "shape"), [e for e in EVERY if e.values[1] in ((5,), (3, 5, 7))])
def test_saved_bases_come_back(basis, shape, tmp_path):
    path = tmp_path / "basis"
    save_arrays(path, {"other": np.zeros(2), **to_arrays(basis)}, {"kind": "basis", "basis": basis.config()})
    arrays, metadata = load_arrays(path, "basis")
    back, x = from_config(metadata["basis"], arrays), draw(2, *shape)
    assert type(back) is type(basis)
    assert back == basis
    assert torch.equal(back.forward(x), basis.forward(x))
    np.testing.assert_array_equal(back.labels(shape), basis.labels(shape))
    assert from_config(metadata["basis"], {}, basis) is basis


def test_other_bases_are_not_taken_for_the_saved_one():
    one, two = PCA(orthonormal(2, 5)), PCA(orthonormal(2, 5, seed=1))
    config = json.loads(json.dumps(one.config()))
    with pytest.raises(ValueError, match="lacks components"):
        from_config(config, {})
    with pytest.raises(ValueError, match="not the one it was saved as"):
        from_config(config, to_arrays(two))
    with pytest.raises(ValueError, match="not the one it was saved as"):
        from_config(config, {}, two)
    with pytest.raises(ValueError, match="name: file has 'PCA', expected 'Haar'"):
        from_config(config, {}, Haar())
    with pytest.raises(ValueError, match="not orthonormal"):
        from_config(config, {"components": 2 * one.components})
    with pytest.raises(ValueError, match="lacks radial"):
        from_config({"name": "DCT"}, {})
    with pytest.raises(ValueError, match="None is not built in"):
        from_config({}, {})


@pytest.mark.parametrize("radial", [1, 0, -3, 2.5, "rings", None])
def test_bad_rings_are_refused(radial):
    with pytest.raises(ValueError, match="False, True or a number of rings from 2"):
        DCT(radial)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ColourDCT(np.ones((3, 3))), r"rotation are not orthonormal .* np.linalg.qr"),
        (lambda: ColourDCT(np.full((2, 2), np.nan)), "NaN or inf"),
        (lambda: ColourDCT(np.eye(3)[:2]), r"must be \(c, c\)"),
        (lambda: ColourDCT(np.ones(3)), "must be a matrix"),
        (lambda: PCA(np.ones((2, 5))), "components are not orthonormal"),
        (lambda: PCA(np.zeros((0, 5))), "at most as many rows"),
        (lambda: PCA(np.eye(5)[:, :3]), "at most as many rows"),
        (lambda: PCA(orthonormal(3, 9).astype(np.float32)), "off by"),
        (lambda: PCA.of(torch.zeros(0, 3)), "empty"),
        (lambda: PCA.of(torch.full((4, 3), torch.inf)), "NaN or inf"),
        (lambda: PCA.of(torch.zeros(4, 3, dtype=torch.int64)), "floating-point"),
        (lambda: PCA.of(torch.zeros(4, 3), rank=4), r"= 3 components, not 4; change the rank"),
        (lambda: PCA.of(torch.zeros(3, 9), rank=3), r"= 2 components, not 3; .* more examples"),
        (lambda: PCA.of(torch.zeros(3, 9), rank=0), "not 0"),
        (lambda: PCA.of(torch.zeros(1, 9)), "= 0 components"),
        (lambda: PCA.of(torch.zeros(3, 9), max_exact=8), "give a rank"),
        (lambda: ColourDCT.of(torch.zeros(0, 3, 2, 2)), "empty"),
        (lambda: ColourDCT.of(torch.full((4, 3, 2, 2), torch.nan)), "NaN or inf"),
        (lambda: ColourDCT.of(torch.zeros(4, 3)), r"need images .* use DCT or PCA"),
    ],
)
def test_what_cannot_be_a_basis_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("basis", "shape", "match"),
    [
        (DCT(), (), "at least one dimension"),
        (ColourDCT(np.eye(3)), (1, 8, 8), r"3 channels needs examples \(3, height, width\), got \(1, 8, 8\)"),
        (ColourDCT(np.eye(3)), (3,), "use DCT"),
        (PCA(np.eye(3, 6)), (7,), r"components of 6 dimensions met examples of shape \(7,\)"),
    ],
)
def test_examples_that_do_not_fit_are_refused(basis, shape, match):
    for call in (basis.forward, basis.inverse):
        with pytest.raises(ValueError, match=match):
            call(torch.zeros(2, *shape))
    with pytest.raises(ValueError, match=match):
        basis.labels(shape)


@pytest.mark.parametrize("basis", [DCT(), PCA(np.eye(3, 6))])
def test_integers_are_refused(basis):
    """A cosine matrix cast to integers would be zero."""
    with pytest.raises(ValueError, match=r"floating-point values, got torch.int64"):
        basis.forward(torch.ones(2, 6, dtype=torch.int64))


@pytest.mark.parametrize("basis", [DCT(), ColourDCT(orthonormal(3, 3))])
def test_coefficients_of_a_sample_do_not_depend_on_its_batch(basis):
    x = draw(7, 3, 16, 16, dtype=torch.float32)
    for function in (basis.forward, basis.inverse):
        assert torch.equal(torch.cat([function(x[:1]), function(x[1:4]), function(x[4:])]), function(x))


def test_constant_data_have_components():
    """No variance at all: any orthonormal rows will do, and they are orthonormal."""
    for max_exact in (2, 100):
        basis = PCA.of(torch.ones(8, 6), rank=3, max_exact=max_exact)
        np.testing.assert_allclose(basis.components @ basis.components.T, np.eye(3), atol=1e-12)
