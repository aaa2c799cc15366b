"""Both branches in one pass, against closed forms of mixtures: identities, information, prices, variances of guided chains."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from benchmarks.guidance_worlds import CLASS_OF, CLASSES, EIGHT, NULL, VP, information, labelled
from score_sde_analytic import grids
from score_sde_analytic.covariance.isotropic import BetaTilde, Isotropic
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.data.examples import Examples
from score_sde_analytic.errors import InputError
from score_sde_analytic.guidance import ClassifierFree, estimate_guided, guidance_price, mutual_information
from score_sde_analytic.guidance.conditional import VARIANCES, ConditionalMoments, entropy
from score_sde_analytic.likelihood import Chain, bits_per_dim
from score_sde_analytic.measure import Budget, estimate
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.metrics.frechet import GaussianSummary, frechet_distance, sample_moments
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.samplers import Ancestral, generate

KNOTS = np.linspace(-10.0, 10.0, 41)


def fixed(draws, batch=None):
    return Budget(tolerance=0.0, min_draws=draws, max_draws=draws, batch_size=batch or draws)


def measured_on(count, knots=KNOTS, model=CLASSES, **options):
    return estimate_guided(model, labelled(count), NULL, knots, fixed(count), progress=False, **options)


@pytest.fixture(scope="module")
def some():
    return measured_on(1000, KNOTS[::4])


def test_classes_of_components_are_mixtures_of_them():
    """The score of a class is that of its own mixture; beyond the last it is that of all."""
    x_t = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for label in range(3):
        of = label == CLASS_OF
        spread = torch.stack([EIGHT.component(k).moments()[1] for k in torch.nonzero(of)[:, 0].tolist()])
        own = GaussianMixture(EIGHT.weights[of], EIGHT.means[of], spread)
        expected = own.score_model(VP)(x_t, 0.4).eps
        torch.testing.assert_close(CLASSES(x_t, 0.4, component=label).eps, expected)
    torch.testing.assert_close(CLASSES(x_t, 0.4, **NULL).eps, EIGHT.score_model(VP)(x_t, 0.4).eps)
    with pytest.raises(InputError, match="a whole number from 0 on per component"):
        EIGHT.conditional(VP, [0, 0, 1, 1, 3, 3])


def test_one_pass_is_two(some):
    """R_c and R_u are those of passes of their own, of the same draws; each draw costs two evaluations."""
    plain, null = (
        estimate(model, labelled(1000), KNOTS[::4], fixed(1000), progress=False) for model in (CLASSES, CLASSES.given(**NULL))
    )
    np.testing.assert_allclose(some.moments.sums, plain.sums, rtol=1e-9, atol=1e-9)
    raw = (null.sums - plain.sums)[..., 2].sum(0) / plain.draws
    np.testing.assert_allclose(some.difference, raw, rtol=1e-9, atol=1e-12)
    assert some.moments.cost.evaluations == 2 * some.moments.evaluations
    assert some.moments.fingerprint["model"] == plain.fingerprint["model"]


def test_the_gap_is_the_difference(some):
    """G = R_u - R_c, knot by knot, within four standard errors; beyond them where a network's branches are not its data's."""
    _, size = some.calibration()
    assert np.abs(size).max() < 4.0

    def wrong(x, log_snr, component):
        return CLASSES.net(x, log_snr, component) * torch.where(component[:, None] < 3, 1.15, 1.0).to(x)

    biased = ScoreModel(wrong, VP, times=CLASSES.times, coordinates="vp", conditions=("component",), fingerprint="wrong")
    _, size = measured_on(1000, KNOTS[::4], biased).calibration()
    assert np.abs(size).max() > 10.0


@pytest.mark.parametrize("scale", [0.0, 2.0, 4.0])
def test_the_identities(some, scale):
    """Error of the guided prediction, power of the guided score and trace of the guided field, within 3 standard errors."""
    x_0, component = EIGHT.labelled(2000, seed=3)
    w = scale - 1.0
    guided = ClassifierFree(CLASSES, scale, NULL)
    level = VP.level_at(0.0)
    eps = torch.randn(x_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = guided.predict(level.diffuse(x_0, eps), level, component=CLASS_OF[component])
    own, free = (CLASSES.predict(found.x_t, level, component=c).eps for c in (CLASS_OF[component], torch.full((2000,), 3)))
    r_c, gap = (eps - own).square().mean(1), (own - free).square().mean(1)
    trace = Tweedie(guided).matrix(found).diagonal(dim1=1, dim2=2).mean(1)
    for left, right in (
        ((eps - found.eps).square().mean(1), r_c + VARIANCES["residual"](w) * gap),
        (1.0 - found.eps.square().mean(1), r_c + VARIANCES["score"](w) * gap),
        (trace, r_c + VARIANCES["tweedie"](w) * gap),
    ):
        apart = left - right
        assert abs(float(apart.mean())) < 3.0 * float(apart.std()) / 2000**0.5 + 1e-12
    assert some.curve(scale, "conditional").y.tolist() == NoiseCurve.fit(some.moments, warn=False).y.tolist()
    for name, law in VARIANCES.items():
        found = np.asarray(some.curve(scale, name).residual(some.log_snr))
        expected = np.clip(some.conditional + law(w) * some.gap, 1e-9, 1.0 - 1e-9)
        np.testing.assert_allclose(found, expected, rtol=0.05 if law(w) == 0.0 else 1e-6)


@pytest.mark.slow
def test_information_is_the_integral_of_the_gap():
    """1/2 integral of G = I(x_0; c) / d within 1 %, and so is that of R_u - R_c."""
    exact, error = information(400_000)
    assert error < 0.001 * exact
    many = measured_on(20_000)
    for by in ("gap", "difference"):
        found = many.information(by=by)
        assert found.value == pytest.approx(exact, rel=0.01)
        assert abs(found.value - exact) < 3.0 * math.hypot(found.stderr, error) + 0.003 * exact
    assert many.information().value < many.ceiling


def test_one_pass_prices_as_two_do(some):
    """`price` and `information` beside those of two curves; within an interval; w^2 of it."""
    null = estimate(CLASSES.given(**NULL), labelled(1000), KNOTS[::4], fixed(1000), progress=False)
    two, one = mutual_information(some.moments, null), some.information(by="difference")
    assert one.value == pytest.approx(two.value, rel=0.02)
    levels = np.linspace(-8.0, 7.0, 12)
    for options in ({}, {"interval": (-2.0, 2.0)}, {"levels": levels}, {"levels": levels, "interval": (-2.0, 2.0)}):
        both = guidance_price(some.moments, null, 3.0, **options)
        assert some.price(3.0, **options).value == pytest.approx(both.value, rel=0.06)
    assert some.price(1.0).value == 0.0
    assert some.price(4.0).value == pytest.approx(9.0 * some.price(2.0).value)
    assert some.information((-3.0, 2.0)).value < some.information().value


@pytest.mark.parametrize("scale", [2.0, pytest.param(4.0, marks=pytest.mark.slow)])
def test_the_bits_of_a_guided_chain_are_predicted(some, scale):
    """The rise of its transitions, on data of their class, within three standard errors of the price."""
    grid = grids.even_log_snr(VP, 10, VP.time(7.0))
    chain = Chain(grid, Isotropic(some.curve()), 0.1)
    test = labelled(1000, seed=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guided, plain = (
            bits_per_dim(model, test, chain, progress=False) for model in (ClassifierFree(CLASSES, scale, NULL), CLASSES)
        )
    rise = (guided.terms - plain.terms)[:, 1:-1].sum(1)
    price = some.price(scale, levels=VP.log_snr(np.array(grid.times[:-1])))
    assert abs(rise.mean() - price.value) < 3.0 * math.hypot(rise.std() / len(rise) ** 0.5, price.stderr)
    assert price.value > 20.0 * price.stderr


def drawn(model, grid, covariance, label, count, seed):
    x = generate(
        Ancestral(model, covariance),
        grid,
        (8,),
        count,
        seed=seed,
        batch_size=count,
        dtype=torch.float64,
        conditions={"component": label},
    )
    return GaussianSummary.of(*sample_moments(x))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
def test_the_variance_of_a_guided_chain(some, scale):
    """The distance to its own limit of 150 steps: by the conditional curve at most 0.6 of beta-tilde's, at 10 and 25 steps."""
    model, count = ClassifierFree(CLASSES, scale, NULL), 4000
    made = {steps: grids.even_log_snr(VP, steps, VP.time(7.0)) for steps in (10, 25, 150)}
    apart = dict.fromkeys([(k, name) for k in (10, 25) for name in ("conditional", "beta_tilde")], 0.0)
    for label in (0, 1):
        limit = drawn(model, made[150], BetaTilde(), label, count, 11)
        for k, name in apart:
            covariance = Isotropic(some.curve(scale)) if name == "conditional" else BetaTilde()
            apart[k, name] += frechet_distance(drawn(model, made[k], covariance, label, count, 1), limit)
    for k in (10, 25):
        assert apart[k, "conditional"] < 0.6 * apart[k, "beta_tilde"], apart


def test_a_pass_that_was_stopped_goes_on(tmp_path):
    """The file holds both branches: read again, and by another null refused."""
    path = tmp_path / "both.safetensors"
    first = measured_on(100, KNOTS[::8], path=path)
    again = measured_on(100, KNOTS[::8], path=path)
    assert np.array_equal(first.sums, again.sums)
    assert first.information() == again.information()
    with pytest.raises(InputError, match="null"):
        estimate_guided(CLASSES, labelled(100), {"component": 2}, KNOTS[::8], fixed(100), progress=False, path=path)


def test_knots_that_are_added_keep_their_gaps():
    """Sums follow the knots where the pass adds some in doubt, out of order."""
    budget = Budget(tolerance=0.0, min_draws=200, max_draws=200, batch_size=200, most_knots=9)
    found = estimate_guided(CLASSES, labelled(200), NULL, [-6.0, 0.0, 6.0], budget, progress=False)
    assert len(found.log_snr) > 3
    fixed_knots = estimate_guided(CLASSES, labelled(200), NULL, found.log_snr, fixed(200), progress=False)
    np.testing.assert_allclose(found.gap, fixed_knots.gap, rtol=0.5, atol=0.02)


def test_more_than_can_be_known_is_remarked(some):
    """A ceiling below what is claimed warns; the entropy is that of the classes, none where a condition is no class."""
    low = ConditionalMoments(some.moments, some.sums, 0.5 * some.information().value)
    with pytest.warns(UserWarning, match="more than the .* of the entropy of its condition"):
        low.information()
    assert some.ceiling == pytest.approx(math.log2(3) / 8, rel=1e-2)
    pairs = Examples(torch.zeros(4, 1), conditions={"a": [0, 0, 1, 1], "b": [0, 1, 0, 1], "picture": torch.zeros(4, 2)})
    assert entropy(pairs, ["a", "b"]) == 2.0
    assert entropy(pairs, ["picture"]) == entropy(pairs, ["c"]) == math.inf


def test_variances_have_names(some):
    with pytest.raises(InputError, match="variance of a guided chain"):
        some.curve(2.0, "guided")
    with pytest.raises(InputError, match="ascending"):
        some.price(2.0, levels=[1.0, 0.0])
