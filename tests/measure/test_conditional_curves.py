"""Networks on conditions: the pass, curves per class and what a condition is worth, against a mixture's closed forms."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.data.basis import Pixel
from score_sde_analytic.data.examples import Examples
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.grids.lattice import Lattice
from score_sde_analytic.guidance import ClassifierFree, guidance_price, mutual_information
from score_sde_analytic.measure.by_class import estimate_by
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.draws import Recorder
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.models.conditions import Constant
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import LinearVP


class Interrupted(Exception):
    """What ends a pass in the middle."""


VP = LinearVP()
#: Two dimensions, three components that overlap and differ in shape.
CLASSES = GaussianMixture([0.5, 0.3, 0.2], [[-0.8, 0.2], [0.9, 0.4], [0.1, -1.0]], [[0.05, 0.4], [0.2, 0.1], [0.3, 0.02]])
CONDITIONAL = CLASSES.conditional(VP)
NULL = {"component": 3}
KNOTS = np.linspace(-9.0, 9.0, 19)
FIXED = Budget(tolerance=0.0, min_draws=1000, max_draws=1000, batch_size=250)


def labelled(count=1000, seed=0, shift=0):
    """Examples with their components, or with those of others."""
    x_0, component = CLASSES.labelled(count, seed)
    return Examples(x_0, conditions={"component": component.roll(shift)})


def exact(variances):
    """mean_j snr l_j / (1 + snr l_j), R of a Gaussian, at the knots."""
    power = np.exp(KNOTS)[:, None] * np.asarray(variances)
    return (power / (1.0 + power)).mean(1)


@pytest.fixture(scope="module")
def both():
    """(conditional, unconditional) moments of the same examples."""
    models = CONDITIONAL, CONDITIONAL.given(**NULL)
    return [estimate(model, labelled(), KNOTS, FIXED, progress=False) for model in models]


def test_the_conditional_residual_is_the_closed_form(both):
    """sum_k w_k R_k, within four standard errors at every knot."""
    truth = sum(w * exact(c) for w, c in zip(CLASSES.weights.tolist(), CLASSES.eigenvalues, strict=True))
    assert (np.abs(both[0].residual - truth) < 4.0 * both[0].stderr("residual")).all()


def test_labels_of_other_examples_are_seen(both):
    """What a condition bound by hand did: the examples are permuted, the labels are not."""
    wrong = estimate(CONDITIONAL, labelled(shift=1), KNOTS, FIXED, progress=False)
    apart = (wrong.residual - both[0].residual) / np.hypot(wrong.stderr("residual"), both[0].stderr("residual"))
    assert (apart[6:] > 5.0).all()
    assert wrong.fingerprint["data"] != both[0].fingerprint["data"]


def test_a_constant_condition_stands_before_that_of_the_data(both):
    """R of the null class is that of the mixture; the constant is part of the model's identity, the rows of the data's."""
    for m, log_snr in enumerate(KNOTS[::6]):
        r, error = CLASSES.residual(VP.level_at(log_snr), count=20_000)
        assert both[1].residual[6 * m] == pytest.approx(r, abs=4.0 * math.hypot(error, both[1].stderr("residual")[6 * m]))
    known, null = (moments.fingerprint for moments in both)
    assert known["data"] == null["data"]
    assert "conditions" not in known["model"]
    assert null["model"]["conditions"] == CONDITIONAL.given(component=Constant(torch.tensor(3))).fingerprint()["conditions"]
    assert null["model"] != CONDITIONAL.given(component=2).fingerprint()


def information(x_0, component):
    """log2 p(c | x_0) - log2 w_c of every example."""
    responsibility = CLASSES.responsibilities(x_0, Level(0.0, 1.0, 0.0, math.inf))
    return (responsibility.gather(1, component[:, None])[:, 0] / CLASSES.weights[component]).log2()


@pytest.mark.parametrize("count", [1000, pytest.param(30_000, marks=pytest.mark.slow)])
def test_information_is_the_integral_between_the_curves(count):
    """1/2 integral of (R_u - R_c) = log p(x_0 | c) / p(x_0) / d, on average over the very examples, hence I(x_0; c) / d."""
    budget = Budget(tolerance=0.0, min_draws=count, max_draws=count, batch_size=count // 4)
    models = CONDITIONAL, CONDITIONAL.given(**NULL)
    found = mutual_information(*(estimate(model, labelled(count), KNOTS, budget, progress=False) for model in models))
    of_these, exact = (float(information(*CLASSES.labelled(n, seed)).mean()) / 2 for n, seed in ((count, 0), (200_000, 7)))
    assert found.value == pytest.approx(of_these, abs=4.0 * found.stderr)
    assert found.value == pytest.approx(exact, abs=4.0 * found.stderr)
    assert found.value < -float((CLASSES.weights * CLASSES.weights.log2()).sum()) / 2  # the entropy of the condition
    assert found.stderr < 0.8 / count**0.5


@pytest.mark.parametrize("scale", [0.0, 2.0, 4.0])
def test_the_residual_of_guidance_is_priced(both, scale):
    """E||eps - eps_w||^2 / d = R_c + w^2 G, knot by knot; at scale 0 it is the unconditional model's."""
    guided = estimate(ClassifierFree(CONDITIONAL, scale, NULL), labelled(), KNOTS, FIXED, progress=False)
    predicted = both[0].residual + (scale - 1.0) ** 2 * (both[1].residual - both[0].residual)
    error = np.hypot(guided.stderr("residual"), (scale - 1.0) ** 2 * both[1].stderr("residual"))
    assert (np.abs(guided.residual - predicted) < 4.0 * error + 1e-6).all()
    bits = 0.5 * np.trapezoid(guided.residual - both[0].residual, KNOTS) / math.log(2.0)
    price = guidance_price(*both, scale)
    assert price.value == pytest.approx(bits, abs=4.0 * price.stderr + 0.02 * price.value)


def test_prices_want_the_same_examples_and_knots(both):
    other = estimate(CONDITIONAL, labelled(shift=1), KNOTS, FIXED, progress=False)
    with pytest.raises(ValueError, match="other examples"):
        mutual_information(other, both[1])
    fewer = estimate(CONDITIONAL, labelled(), KNOTS[::2], FIXED, progress=False)
    with pytest.raises(ValueError, match="other knots"):
        guidance_price(fewer, both[1], 2.0)


@pytest.mark.parametrize(
    ("order", "interval", "said"),
    [
        (slice(None, None, -1), None, "beyond its errors: the moments with the condition come first"),
        (slice(None, None, -1), (6.0, 8.0), "within three standard errors of 0"),
    ],
)
def test_information_below_zero_is_told(both, order, interval, said):
    """As where the two are exchanged."""
    with pytest.warns(UserWarning, match=f"is negative, {said}"):
        assert mutual_information(*both[order], interval).value < 0.0


def test_information_above_zero_is_not_remarked(both):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mutual_information(*both)


def test_grids_are_those_of_the_conditional_curve(both):
    """The optimal grid for the measured conditional curve costs what that for the closed form costs, to 1 %."""
    truth = sum(w * exact(c) for w, c in zip(CLASSES.weights.tolist(), CLASSES.eigenvalues, strict=True))
    curves = [NoiseCurve.fit(both[0], warn=False), NoiseCurve.from_residual(KNOTS, truth, warn=False)]
    lattice = Lattice.even_log_snr(VP, 120, 8.0)
    first = np.zeros(len(lattice.times))
    grids: list[Grid] = [lattice.optimal_grids(curve, Isotropic(curve), first, 6)[6] for curve in curves]
    costs = [lattice_cost(grid, curves[1]) for grid in grids]
    assert costs[0] == pytest.approx(costs[1], rel=0.01)


def lattice_cost(grid, curve):
    """Of a grid's transitions under the closed form, nats per dimension."""
    lam = VP.log_snr(np.array(grid.times[:-1]))
    return float(0.5 * np.log1p(np.asarray(curve.residual(lam[:-1])) * np.expm1(np.diff(lam))).sum())


def test_a_curve_per_class():
    """Each class has the closed form of its component; their mean by shares is the curve of all."""
    found = estimate_by(CONDITIONAL, labelled(), "component", KNOTS[::3], FIXED, progress=False)
    assert list(found) == [0, 1, 2]
    for label, moments in found.items():
        gap = np.abs(moments.residual - exact(CLASSES.eigenvalues[label])[::3])
        assert (gap < 4.5 * moments.stderr("residual") + 0.02).all()


def test_an_interrupted_pass_goes_on_with_the_labels_of_its_examples(tmp_path, both):
    """Killed after every few batches, it ends in the same sums to the bit, recorded draws too."""

    class Killed(Recorder):
        calls = 0

        def add(self, *args):
            Killed.calls += 1
            if Killed.calls % 19 == 0:
                raise Interrupted
            super().add(*args)

    path, recorder = tmp_path / "moments.safetensors", Recorder(Pixel())
    for _ in range(10):
        try:
            options = {"path": path, "save_seconds": 0.0, "observers": {"pixel": Killed(Pixel())}, "progress": False}
            resumed = estimate(CONDITIONAL, labelled(), KNOTS, FIXED, **options)
            break
        except Interrupted:
            continue
    whole = estimate(CONDITIONAL, labelled(), KNOTS, FIXED, observers={"pixel": recorder}, progress=False)
    assert Killed.calls > 60
    np.testing.assert_array_equal(resumed.sums, whole.sums)
    np.testing.assert_array_equal(whole.sums, both[0].sums)
    with pytest.raises(ValueError, match="data"):
        estimate(CONDITIONAL, labelled(shift=1), KNOTS, FIXED, **options)


@pytest.mark.parametrize("batch", [100, 250])
def test_batches_keep_labels_beside_examples(batch):
    """The network of a draw is told the component of the very example: x_t minus its noise lies at its mean."""
    tight = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.0)
    seen = []

    class Seen(Recorder):
        def observed(self, examples, eps, prediction):
            x_0 = (prediction.x_t - prediction.level.sigma * eps) / prediction.level.alpha
            seen.append((x_0[:, 0].sign(), 2 * prediction.conditions.rows["component"] - 1))

        def add(self, knot, examples, observed):
            pass

    x_0, component = tight.labelled(300)
    data = [(x, {"component": int(k)}) for x, k in zip(x_0, component, strict=True)]
    budget = Budget(tolerance=0.0, min_draws=600, max_draws=600, batch_size=batch)
    estimate(tight.conditional(VP), data, [0.0], budget, observers={"seen": Seen(Pixel())}, progress=False)
    signs, labels = (torch.cat(part) for part in zip(*seen, strict=True))
    assert len(signs) == 600
    assert torch.equal(signs, labels.double())
