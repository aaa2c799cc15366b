"""DALL-E 2's way of sampling, on the shipped prior: the config in its modes, prices, and what a better grid is worth."""

import warnings

import numpy as np
import pytest
from score_sde_analytic.configs import dalle2
from score_sde_analytic.runners import datasets, modes, sampling
from score_sde_analytic.runners.experiment import Experiment
from score_sde_analytic.runners.settings import validate

from score_sde_analytic.covariance import Beta, BetaTilde, Isotropic
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays
from score_sde_analytic.grids import Grid, Objective, even, refined, transition_costs
from score_sde_analytic.likelihood import BITS, Chain, ContinuousTime, bits_per_dim, price
from score_sde_analytic.process import NoDecoder
from score_sde_analytic.study import few
from score_sde_analytic.uncertainty import Estimate

FIRST = 1e-3
NULL = {"class_labels": 10}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    config = dalle2.get_config()
    config.device = "cpu"
    config.estimate.min_draws = config.estimate.max_draws = 300
    config.estimate.knots = config.estimate.most_knots = 40
    config.grid.points, config.grid.max_steps = 200, 16
    config.sample.steps, config.sample.grids, config.sample.variances = (4,), ("even",), ("beta", "residual")
    config.sample.count = config.sample.batch_size = 30
    made = Experiment(config, tmp_path_factory.mktemp("dalle2"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert made.study
    return made


@pytest.fixture(scope="module")
def study(experiment):
    return experiment.study


def excess(study, covariance, grid):
    """Bits/dim over infinitely many steps between the same ends, by the curve."""
    lam = np.linspace(*(float(study.schedule.log_snr(t)) for t in (1.0, FIRST)), 4001)
    limit = 0.5 * np.trapezoid(study.curve.residual(lam), lam)
    return float(BITS * (transition_costs(study.schedule, study.curve, covariance, grid).sum() - limit))


@pytest.mark.parametrize("of", ["features", pytest.param("digits", marks=pytest.mark.slow)])
def test_both_configs_are_right(of, tmp_path):
    """Every field is known, strided steps begin at 1/1000, and samples are guided."""
    config = dalle2.get_config(of)
    validate(config)
    made = Experiment(config, tmp_path)
    modes.check(made)
    assert float(made.schedule.log_snr(FIRST)) == pytest.approx(config.grid.log_snr_max, abs=1e-3)
    assert config.sample.guidance > 1.0
    assert 64 in config.sample.steps


def test_the_data_are_features_that_keep_their_class(experiment):
    """Of mean 0 and mean variance 1 on the training part; the classifier still tells held-out ones."""
    embedding, parts = datasets.digit_features(experiment.config)
    assert parts[0].mean(0).abs().max() < 1e-5
    assert float(parts[0].square().mean()) == pytest.approx(1.0, abs=1e-4)
    labels = experiment.splits.conditions("test")["class_labels"]
    assert float((embedding.logits(experiment.splits.held("test")).argmax(1) == labels).float().mean()) > 0.97


def test_samples_are_guided(experiment):
    """By the scale of the config: two evaluations a call, and of the class that was asked for."""
    embedding, _ = datasets.digit_features(experiment.config)
    guided = experiment.sampled
    with guided.model.metered() as cost:
        x = guided.sample(60, steps=4, grid="even")
    assert cost.evaluations == 60 * 4 * 2
    assert guided.model.scale == experiment.config.sample.guidance
    assert (embedding.logits(x).argmax(1) == guided.conditions["class_labels"][:60]).all()


@pytest.mark.slow
def test_the_sheets_of_the_mode_are_those_samples(experiment):
    sampling.run(experiment)
    x = load_arrays(experiment.workdir / "samples_even.safetensors", "samples")[0]["residual_K4"]
    assert np.array_equal(x, experiment.sampled.sample(30, 4, batch_size=30, grid="even").numpy())


def test_the_analytic_variance_is_the_best_of_every_step(study):
    """On every grid, by at least what it wins over both handcrafted ones in each transition."""
    own = Isotropic(study.curve)
    for steps in (4, 8, 16, 64):
        grid = even(steps, FIRST)
        best = transition_costs(study.schedule, study.curve, own, grid)
        for other in (Beta(), BetaTilde()):
            assert (transition_costs(study.schedule, study.curve, other, grid) >= best - 1e-12).all()


def test_half_of_the_steps_on_the_best_grid_do_the_work_of_64_strided(study):
    """And 64 on it pay less than half of the excess; infinitely many pay none on either."""
    own, low, high = Isotropic(study.curve), *(float(study.schedule.log_snr(t)) for t in (1.0, FIRST))
    objective = Objective(study.curve, low, high)

    def best(steps: int) -> Grid:
        return refined(study.schedule, objective, steps)

    strided = excess(study, own, even(64, FIRST))
    assert excess(study, own, best(32)) < strided < excess(study, own, best(12))
    assert excess(study, own, best(64)) < 0.5 * strided
    assert excess(study, Beta(), even(64, FIRST)) > 2.0 * strided
    assert abs(excess(study, own, even(20_000, FIRST))) < 1e-3


def test_predicted_bits_of_strided_steps_are_measured(experiment, study):
    """Transitions of 16 steps and of infinitely many, test split, within three standard errors."""
    limit = ContinuousTime(FIRST, NoDecoder(), 16, study.curve)
    grid = even(16, FIRST)
    chains = {"beta": Chain(grid, Beta(), NoDecoder()), "analytic": Chain(grid, Isotropic(study.curve), NoDecoder())}
    methods = {**chains, "limit": limit}
    predicted = price(study.moments, study.schedule, methods, study.statistics)
    measured = bits_per_dim(study.model, experiment.splits.test, methods, experiment.splits.data_range, progress=False)
    for name in methods:
        known, found = predicted[name].parts["transitions"], measured[name].parts["transitions"]
        assert abs(known.apart(found)) < 3.0
        assert found.stderr < 0.12
    paid = {name: bound.part("transitions") for name, bound in measured.items()}
    assert (paid["beta"] - paid["analytic"]).mean() > 0.3  # bits/dim; the prices say 0.42


def test_a_table_of_few_calls_serves_one_scale(study, tmp_path):
    """On fresh samples it is as near to the flow of its own scale as its certificate says, and no other model takes it."""
    studies, tables = {scale: study.guided(scale, NULL) for scale in (1.5, 4.0)}, {}
    for scale, guided in studies.items():
        settings = few.settings(guided, None, {"path": tmp_path, "progress": False, "count": 60})
        paths = few.paths(guided, settings)
        tables[scale], fine = (few.table(guided, steps, settings, paths) for steps in (3, 12))
        assert paths.cost.evaluations == 60 * 32 * 2
        ends = [few.of_table(guided, table)(200, seed=4, batch_size=200) for table in (tables[scale], fine)]
        found = Estimate.of((ends[0] - ends[1]).double().square().mean(1).numpy())
        facts = tables[scale].facts
        assert abs(found.apart(Estimate(facts["certificate"], facts["certificate_stderr"]))) < 3.0
    assert len(list(tmp_path.glob("paths-*"))) == len(list(tmp_path.glob("fewest_3-*"))) == 2
    with pytest.raises(InputError):
        few.of_table(studies[4.0], tables[1.5])
