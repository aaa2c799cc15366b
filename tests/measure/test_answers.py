"""What ends a pass: the error of the answer asked, against closed forms and repeated passes."""

import math

import numpy as np
import pytest

from score_sde_analytic.grids.dynamic import StepCosts, shortest_paths
from score_sde_analytic.grids.optimal import Objective
from score_sde_analytic.measure import Budget, NoiseCurve, estimate, reached
from score_sde_analytic.measure.answers import ANSWERS
from score_sde_analytic.models import GaussianMixture
from score_sde_analytic.process import LinearVP

KNOTS = np.linspace(-8.0, 8.0, 17)
#: Two scales of data, so that levels differ in how much a draw says.
WORLD = GaussianMixture([0.5, 0.5], [[-1.0, 0.5], [1.0, -0.5]], [[0.2, 0.01], [0.2, 0.01]])
DATA = WORLD.sample(4000, seed=3)
MODEL = WORLD.score_model(LinearVP())


def measured(seed=0, **budget):
    return estimate(MODEL, DATA, KNOTS, Budget(batch_size=100, **budget), seed=seed, progress=False)


def limit(moments):
    """1/2 integral R dlam in bits."""
    return 0.5 * np.trapezoid(moments.residual, moments.log_snr) / math.log(2.0)


def optimal(curve):
    """(costs of steps, optimal paths by their number) between the ends."""
    lam = np.linspace(8.0, -8.0, 161)
    costs = StepCosts(lam, curve.residual(lam))
    return costs, shortest_paths(costs, np.where(lam == 8.0, 0.0, np.inf), 17).paths


def test_the_error_of_bits_is_that_of_repeated_passes():
    """12 passes of other noise and examples: the spread within a factor of 2 of what each says (chance below 1 in 1,000)."""
    passes = [measured(seed, min_draws=200, max_draws=200) for seed in range(12)]
    spread = np.std([limit(moments) for moments in passes], ddof=1)
    said = np.mean([ANSWERS["bits"].error(moments) for moments in passes])
    assert 0.5 < spread / said < 2.0


def test_the_error_of_bits_is_the_jackknife():
    moments = measured(min_draws=300, max_draws=300)
    assert ANSWERS["bits"].error(moments) == pytest.approx(moments.jackknife(limit)[1], rel=0.05)


def test_bits_are_as_certain_as_asked_for_and_cheaper_than_every_variance():
    """Levels that hardly count get the fewest draws; the integral is as certain as asked."""
    few = measured(min_draws=100, max_draws=2000, answer="bits", tolerance=0.05)
    assert ANSWERS["bits"].error(few) <= 0.05
    assert few.draws.min() == 100 < few.draws.max() < 2000
    every = measured(min_draws=100, max_draws=2000, tolerance=0.01)
    assert few.evaluations < 0.5 * every.evaluations
    assert few.residual[few.draws.argmax()] > few.residual[few.draws.argmin()]


def test_a_larger_tolerance_never_takes_more_draws():
    for answer in ANSWERS:
        loose, tight = (measured(min_draws=100, max_draws=500, answer=answer, tolerance=each) for each in (0.5, 0.01))
        assert np.all(loose.draws <= tight.draws)


@pytest.mark.slow
@pytest.mark.parametrize("draws", [100, 400])
def test_the_share_of_a_grid_is_what_noise_in_the_curve_costs(draws):
    """Optimal grids of 8 noisy curves, priced by a far better one: their excess is higher by that, within a factor of 2.5."""
    best = measured(min_draws=4000, max_draws=4000)
    costs, paths = optimal(NoiseCurve.fit(best, warn=False))
    added, said = [], []
    for seed in range(8):
        moments = measured(seed, min_draws=draws, max_draws=draws)
        noisy = optimal(NoiseCurve.fit(moments, warn=False))[1]
        added += [
            (costs.of(noisy[k]) - costs.of(paths[k])) / (costs.of(paths[k]) - limit(best) * math.log(2.0)) for k in (5, 10, 16)
        ]
        said.append(ANSWERS["grid"].error(moments))
    assert 0.4 < np.mean(added) / np.mean(said) < 2.5


def test_objectives_of_grids_use_the_same_law():
    """excess = I^2 / (4 n) with I the integral of sqrt(w), which the share is taken of."""
    curve = NoiseCurve.from_residual(KNOTS, measured(min_draws=500, max_draws=500).residual, source="residual", warn=False)
    objective = Objective(curve, -8.0, 8.0)
    lam = objective.levels
    assert objective.root_integral[-1] == pytest.approx(np.trapezoid(np.sqrt(curve.spread(lam)), lam), rel=1e-3)


def test_what_was_reached_is_said():
    assert "bits/dim, asked for 0.5" in reached(measured(min_draws=100, max_draws=200, answer="bits", tolerance=0.5))


def test_an_interrupted_pass_goes_on_to_the_identical_result(tmp_path):
    budget = Budget(batch_size=50, min_draws=100, max_draws=600, answer="bits", tolerance=0.01)
    whole = estimate(MODEL, DATA, KNOTS, budget, progress=False)

    class Stops:
        calls = 0

        def config(self):
            return {}

        def begin(self):
            pass

        def observed(self, examples, eps, prediction):
            return None

        def add(self, knot, examples, observed):
            self.calls += 1
            if self.calls == 60:
                raise KeyboardInterrupt

        def arrays(self):
            return {}

        def restore(self, arrays):
            pass

    stops = Stops()
    with pytest.raises(KeyboardInterrupt):
        estimate(MODEL, DATA, KNOTS, budget, path=tmp_path / "pass", observers={"stops": stops}, progress=False)
    resumed = estimate(MODEL, DATA, KNOTS, budget, path=tmp_path / "pass", observers={"stops": stops}, progress=False)
    np.testing.assert_array_equal(whole.sums, resumed.sums)
