"""Residuals kept draw by draw: what is kept, and that keeping it changes nothing and survives interruptions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from score_sde_analytic.data.basis import Basis, Channel, Pixel, PixelChannel, Scalar
from score_sde_analytic.data.transforms import DCT, PCA, ColourDCT
from score_sde_analytic.files import load_arrays
from score_sde_analytic.measure.draws import Recorder, ResidualDraws
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.statistics import Energy, GradientEnergy, HighFrequency, MeanLevel, Statistic
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.process.schedule import LinearVP

VP = LinearVP()
SHAPE = (3, 5, 4)
KNOTS = np.array([-3.0, 0.0, 4.0])
BUDGET = Budget(min_draws=64, max_draws=64, batch_size=32, groups=16)
OPTIONS = {"budget": BUDGET, "progress": False}
STORED = ("log_snr", "counts", "sums", "products", "decoder_sums", "squares")


def images(count=50, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    smooth = torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64).cumsum(-1) * 0.3
    return smooth.to(dtype)


def network(stop=np.inf, error=KeyboardInterrupt):
    """Mixes neighbouring pixels; raises at one of its calls."""
    calls = 0

    def net(x, t):
        nonlocal calls
        calls += 1
        if calls > stop:
            raise error
        return 0.7 * x + 0.2 * x.roll(1, -1) - 0.1 * x.roll(1, 1)

    return ScoreModel(net, VP, fingerprint="mixing")


def recorders():
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    return {
        "dct": Recorder(DCT(radial=True), {"texture": HighFrequency(), "energy": Energy()}),
        "pixel": Recorder(Pixel(), {"gradient": GradientEnergy(), "mean": MeanLevel()}),
        "channel": Recorder(Channel()),
        "scalar": Recorder(Scalar(), {"energy": Energy()}),
        "colour": Recorder(ColourDCT(rotation, radial=3), {"texture": HighFrequency()}),
        "pca": Recorder(PCA(np.linalg.qr(np.random.default_rng(1).normal(size=(60, 7)))[0].T)),
        "every": Recorder(PixelChannel(), {"energy": Energy()}),
    }


class Spy:
    """Keeps everything as it is, in the order it came."""

    def __init__(self):
        self.seen = []

    def config(self):
        return {}

    def begin(self):
        self.seen = []

    def observed(self, examples, eps, prediction):
        return eps.clone(), prediction

    def add(self, knot, examples, observed):
        self.seen.append((knot, examples.copy(), *observed))

    def arrays(self):
        return {}

    def restore(self, arrays):
        pass


def assert_same(first: Moments, second: Moments):
    for name in STORED:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert first.state == second.state


def assert_same_draws(first: ResidualDraws, second: ResidualDraws):
    for name in ("log_snr", "knot", "example", "rms", "sizes"):
        a, b = getattr(first, name), getattr(second, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert list(first.phi) == list(second.phi)
    for name, values in first.phi.items():
        assert values.dtype == second.phi[name].dtype == np.float32
        np.testing.assert_array_equal(values, second.phi[name], err_msg=name)


# --- what is kept --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[torch.float32, torch.float64])
def recorded(request):
    """(recorders by name, their draws, what a spy saw, the data) of one pass."""
    watching, spy = recorders(), Spy()
    moments = estimate(
        network(),
        images(dtype=request.param),
        KNOTS,
        observers=watching | {"spy": spy},
        **(OPTIONS | {"budget": replace(BUDGET, max_draws=96, tolerance=0)}),
    )
    return watching, {name: r.result(moments.log_snr) for name, r in watching.items()}, spy.seen


def test_draws_are_the_passes_own(recorded):
    _, draws, seen = recorded
    knots = np.concatenate([np.full(len(examples), m) for m, examples, _, _ in seen])
    for d in draws.values():
        assert len(d.knot) == 3 * 96
        np.testing.assert_array_equal(d.log_snr, KNOTS)
        np.testing.assert_array_equal(d.knot, knots)
        np.testing.assert_array_equal(d.example, np.concatenate([examples for _, examples, _, _ in seen]))
        for m in range(3):
            np.testing.assert_array_equal(d.at(m), np.flatnonzero(knots == m))


@pytest.mark.parametrize("name", list(recorders()))
def test_pooled_residuals_are_those_computed_one_by_one(recorded, name):
    """Half precision costs less than 1e-3 of a squared residual, and 3e-4 of the mean of 288 (5 times the rounding)."""
    watching, draws, seen = recorded
    basis, d = watching[name].basis, draws[name]
    labels = basis.labels(SHAPE).ravel()
    assert d.sizes.tolist() == [int((labels == k).sum()) for k in range(labels.max() + 1)]
    residual = torch.cat([basis.forward((eps - p.eps).double()).flatten(1) for _, _, eps, p in seen]).numpy()
    expected = np.stack([(residual[:, labels == k] ** 2).mean(1) for k in range(labels.max() + 1)], 1)
    found = d.square(np.arange(len(d.knot)))
    assert (found.dtype, d.rms.dtype) == (np.float64, np.float16)
    # Rounding of float32 matrix products comes on top where a residual nearly vanishes.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6 * expected.max())
    np.testing.assert_allclose(found.mean(0), expected.mean(0), rtol=3e-4)
    # A basis is orthonormal: the sum over labels is the residual of the moments.
    total = torch.cat([(eps - p.eps).double().square().flatten(1).mean(1) for _, _, eps, p in seen]).numpy()
    np.testing.assert_allclose((found * d.sizes).sum(1) / d.sizes.sum(), total, rtol=1e-3)


def test_statistics_are_kept_as_they_are(recorded):
    watching, draws, seen = recorded
    for name, recorder in watching.items():
        assert list(draws[name].phi) == list(recorder.statistics)
        for key, statistic in recorder.statistics.items():
            values = torch.cat([statistic(p).float().reshape(len(p.x_t), -1) for _, _, _, p in seen]).numpy()
            np.testing.assert_array_equal(draws[name].phi[key], values)
    assert draws["pixel"].phi["gradient"].shape == (288, 20)
    assert draws["pixel"].phi["mean"].shape == (288, 1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_half_precision_is_enough(scale):
    """Below 1e-3 of every squared residual from 1e-8 upwards, as log-SNR -12 leaves of a variance of 0.001."""
    recorder, n = Recorder(PixelChannel()), 500
    eps = scale * torch.randn(n, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps = torch.where(eps.abs() < 1e-4, 1e-4, eps)
    level = VP.level_at(0.0)
    prediction = Prediction(eps, level, torch.zeros_like(eps), "eps")
    recorder.add(0, np.arange(n), recorder.observed(np.arange(n), eps, prediction))
    found = recorder.result(np.zeros(1)).square(np.arange(n))
    assert np.abs(found / eps.numpy() ** 2 - 1).max() < 1e-3


def test_selections(recorded):
    draws = recorded[1]["pixel"]
    rows = draws.example % 3 == 1
    part = draws.take(rows)
    np.testing.assert_array_equal(part.rms, draws.rms[rows])
    np.testing.assert_array_equal(part.knot, draws.knot[rows])
    np.testing.assert_array_equal(part.example, draws.example[rows])
    np.testing.assert_array_equal(part.phi["gradient"], draws.phi["gradient"][rows])
    few = draws.some_labels(4)
    labels = [0, 6, 13, 19]
    np.testing.assert_array_equal(few.rms, draws.rms[:, labels])
    np.testing.assert_array_equal(few.sizes, draws.sizes[labels])
    np.testing.assert_array_equal(few.phi["gradient"], draws.phi["gradient"][:, labels])
    np.testing.assert_array_equal(few.phi["mean"], draws.phi["mean"])
    assert_same_draws(draws.some_labels(100), draws)


# --- the pass ------------------------------------------------------------------------------------------------------------


def test_observers_change_no_moment():
    plain = estimate(network(), images(), KNOTS, **OPTIONS)
    assert_same(estimate(network(), images(), KNOTS, observers=recorders(), **OPTIONS), plain)
    assert plain.fingerprint["observers"] == {}


@pytest.mark.parametrize("stops", [(1,), (4,), (3, 2, 1)])
@pytest.mark.parametrize("fresh", [True, False], ids=["new process", "same objects"])
def test_an_interrupted_pass_resumes_to_the_bit(tmp_path, stops, fresh):
    """Knots finish at different times; the interruption comes out of the network."""
    options = OPTIONS | {"budget": replace(BUDGET, max_draws=160, tolerance=0.009)}
    whole = recorders()
    expected = estimate(network(), images(), KNOTS, observers=whole, **options)
    assert len(set(expected.draws)) > 1
    path, watching = tmp_path / "m", recorders()
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            estimate(network(stop), images(), KNOTS, path=path, save_seconds=0.0, observers=watching, **options)
        watching = recorders() if fresh else watching
    model = network()
    with model.metered() as cost:
        resumed = estimate(model, images(), KNOTS, path=path, save_seconds=0.0, observers=watching, **options)
    assert cost.calls == expected.evaluations / 32 - sum(stops)
    assert_same(resumed, expected)
    for name, recorder in watching.items():
        assert_same_draws(recorder.result(KNOTS), whole[name].result(KNOTS))
    # What lies on disk is the same again.
    again = recorders()
    assert_same(estimate(network(0), images(), KNOTS, path=path, observers=again, **options), expected)
    for name, recorder in again.items():
        assert_same_draws(recorder.result(KNOTS), whole[name].result(KNOTS))
        stored = {k for k in load_arrays(path, "moments")[0] if k.startswith(f"{name}/")}
        assert stored == {
            f"{name}/{k}" for k in ("knot", "example", "rms", "sizes", *(f"phi.{s}" for s in recorder.statistics))
        }


def test_a_finished_file_is_read_and_not_rewritten(tmp_path):
    path = tmp_path / "m"
    estimate(network(), images(), KNOTS, path=path, observers=recorders(), **OPTIONS)
    before, content = path.stat(), path.read_bytes()
    watching, model = recorders(), network(0)
    with model.metered() as cost:
        estimate(model, images(), KNOTS, path=path, save_seconds=0.0, observers=watching, **OPTIONS)
    assert cost.calls == 0
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert path.read_bytes() == content
    assert all(len(recorder.result(KNOTS).knot) == 192 for recorder in watching.values())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: {k: v for k, v in r.items() if k != "pixel"}, r"observers\.pixel: file has .*expected None"),
        (lambda r: r | {"more": Recorder(Scalar())}, r"observers\.more: file has None"),
        (lambda r: r | {"dct": Recorder(DCT(), r["dct"].statistics)}, r"observers\.dct\.basis\.radial: file has True"),
        (lambda r: r | {"scalar": Recorder(Channel(), r["scalar"].statistics)}, r"observers\.scalar\.basis\.name"),
        (lambda r: r | {"scalar": Recorder(Scalar())}, r"observers\.scalar\.statistics\.energy: file has .*expected None"),
        (
            lambda r: r | {"pixel": Recorder(Pixel(), {"gradient": GradientEnergy(window=5), "mean": MeanLevel()})},
            r"observers\.pixel\.statistics\.gradient\.window: file has 3, expected 5",
        ),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_file_of_other_observers_is_refused(tmp_path, change, match, finished):
    path = tmp_path / "m"
    if finished:
        estimate(network(), images(), KNOTS, path=path, observers=recorders(), **OPTIONS)
    else:
        with pytest.raises(KeyboardInterrupt):
            estimate(network(2), images(), KNOTS, path=path, save_seconds=0.0, observers=recorders(), **OPTIONS)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=match):
        estimate(network(0), images(), KNOTS, path=path, observers=change(recorders()), **OPTIONS)
    assert path.read_bytes() == content


def test_a_file_without_observers_is_refused(tmp_path):
    path = tmp_path / "m"
    estimate(network(), images(), KNOTS, path=path, **OPTIONS)
    with pytest.raises(ValueError, match=r"observers\..*: file has None, expected .*HighFrequency"):
        estimate(network(0), images(), KNOTS, path=path, observers=recorders(), **OPTIONS)


def test_an_unfinished_file_keeps_its_draws(tmp_path):
    path = tmp_path / "m"
    with pytest.raises(KeyboardInterrupt):
        estimate(network(3), images(), KNOTS, path=path, save_seconds=0.0, observers=recorders(), **OPTIONS)
    with pytest.raises(ValueError, match="observers"):
        estimate(network(), images(), KNOTS, path=path, **OPTIONS)


def test_a_recorder_serves_one_pass_after_another():
    """As after an interruption before anything was saved, in the same session: no draw may count twice."""
    recorder = Recorder(Scalar())
    for stop in (2, np.inf):
        try:
            estimate(network(stop), images(), KNOTS, observers={"scalar": recorder}, **OPTIONS)
        except KeyboardInterrupt:
            assert stop == 2
    assert len(recorder.result(KNOTS).knot) == 3 * 64


# --- errors --------------------------------------------------------------------------------------------------------------


class Mirrored(Basis):
    def forward(self, x):
        return x.flip(-1)

    def inverse(self, y):
        return y.flip(-1)

    def config(self):
        return {"name": "Mirrored"}


@pytest.mark.parametrize("basis", [Scalar(), Channel(), PixelChannel(), DCT(), DCT(radial=True), Mirrored()])
def test_statistics_per_pixel_need_curves_per_pixel(basis):
    with pytest.raises(ValueError, match=r"'gradient' is per pixel.*Pixel"):
        estimate(network(), images(), KNOTS, observers={"r": Recorder(basis, {"gradient": GradientEnergy()})}, **OPTIONS)


@pytest.mark.parametrize("basis", [DCT(), PCA(np.eye(20)), Mirrored()])
def test_as_many_coefficients_as_pixels_are_not_enough(basis):
    """Grey images: coefficient i of a transform has nothing to do with pixel i."""
    with pytest.raises(ValueError, match=r"'gradient' is per pixel.*Pixel"):
        estimate(network(), images()[:, :1], KNOTS, observers={"r": Recorder(basis, {"gradient": GradientEnergy()})}, **OPTIONS)


@pytest.mark.parametrize("basis", [Pixel(), PixelChannel()])
def test_grey_pixels_are_coordinates(basis):
    recorder = Recorder(basis, {"gradient": GradientEnergy()})
    estimate(network(), images()[:, :1], KNOTS, observers={"r": recorder}, **OPTIONS)
    assert recorder.result(KNOTS).phi["gradient"].shape == (192, 20)


class Broken(Statistic):
    def __call__(self, prediction):
        return prediction.x_0.flatten(1).sum(1) * torch.nan


def test_a_failing_statistic_leaves_the_recorder_whole():
    recorder = Recorder(Scalar(), {"energy": Energy(), "broken": Broken()})
    with pytest.raises(ValueError, match="NaN or inf"):
        estimate(network(), images(), KNOTS, observers={"r": recorder}, **OPTIONS)
    assert set(recorder.arrays()) == {"sizes"}


def test_results_need_draws_and_their_knots():
    recorder = Recorder(Scalar())
    with pytest.raises(ValueError, match="nothing was recorded"):
        recorder.result(KNOTS)
    moments = estimate(network(), images(), KNOTS[::-1].copy(), observers={"r": recorder}, **OPTIONS)
    np.testing.assert_array_equal(recorder.result(moments.log_snr).log_snr, KNOTS)
    for knots in (KNOTS[::-1], KNOTS[:2], np.append(KNOTS, 5.0), KNOTS[:, None]):
        with pytest.raises(ValueError, match="the 3 knots of the draws in ascending order"):
            recorder.result(knots)
