"""Studies of conditional networks: labelled data go in at the front door; samples, bits and choices are on their conditions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from score_sde_analytic.data.examples import Examples
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.measure.estimation import Budget
from score_sde_analytic.measure.recalibration import recalibrate
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.samplers import DPMSolverPP, TableSampler, generate, matched
from score_sde_analytic.study import Knots, Search, Settings, Study, analyse

VP = LinearVP()
FAR = GaussianMixture([0.4, 0.3, 0.3], [[-2.0, 0.0], [2.0, 0.5], [0.0, 2.0]], [[0.02, 0.2], [0.1, 0.05], [0.1, 0.02]])
MODEL = FAR.conditional(VP)
NULL = {"component": 3}
SETTINGS = Settings(knots=Knots(count=16, most=0), search=Search(points=120, most=10))


def labelled(count, seed=0, shift=0):
    x_0, component = FAR.labelled(count, seed)
    return Examples(x_0, conditions={"component": component.roll(shift)})


def of(samples):
    return torch.cdist(samples.double(), FAR.means).argmin(1)


def analysed(model, data, *record):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return analyse(model, data, record=record, settings=SETTINGS, budget=Budget(max_draws=400), progress=False)


@pytest.fixture(scope="module")
def study():
    return analysed(MODEL, labelled(600), "pixel")


def test_predicted_and_measured_bits_agree(study):
    """Within three standard errors, on the labels of other examples; with wrong labels they are bits apart."""
    test = labelled(300, seed=1)
    for covariance in ("", "pixel"):
        predicted = study.bits(5, covariance=covariance)[5].total
        measured = study.measure(test, 5, covariance=covariance, progress=False)[5].total
        assert abs(predicted.apart(measured)) < 3.0
        assert predicted.stderr < 0.15
    wrong = study.measure(labelled(300, seed=1, shift=1), 5, progress=False)
    assert wrong[5].total.value > predicted.value + 3.0


def test_the_condition_is_worth_bits(study):
    """Conditional bits lie below the unconditional ones by the information of class, nearly the entropy here."""
    unconditional = analysed(MODEL.given(**NULL), labelled(600))
    saved = unconditional.bits(10)[10].total.value - study.bits(10)[10].total.value
    entropy = -float((FAR.weights * FAR.weights.log2()).sum()) / 2
    assert saved == pytest.approx(entropy, abs=0.15)


def test_samples_take_the_conditions_of_the_examples_in_turn(study):
    """Unless they are told; in the shares of the classes; the same whatever the batch."""
    x = study.sample(300, steps=8)
    classes = of(x)
    assert torch.equal(classes, study.conditions["component"][:300])
    assert classes.bincount().tolist() == pytest.approx([120, 90, 90], abs=30)
    assert torch.equal(study.sample(7, steps=8, batch_size=2), x[:7])
    assert (of(study.sample(6, steps=8, conditions={"component": 1})) == 1).all()


def test_a_saved_study_still_knows_them(study, tmp_path):
    study.save(tmp_path)
    loaded = Study.load(tmp_path, MODEL)
    assert torch.equal(loaded.conditions["component"], study.conditions["component"])
    assert torch.equal(loaded.sample(5, steps=6), study.sample(5, steps=6))
    with pytest.raises(ValueError, match="conditions"):
        Study.load(tmp_path, MODEL.given(component=1))


def test_the_fewest_calls(study, tmp_path):
    """Paths and the table are on the examples' conditions, and so are its samples."""
    plan = study.fewest(3, path=tmp_path, progress=False)
    assert torch.equal(of(plan(30)), study.conditions["component"][:30])
    assert torch.equal(study.fewest(3, path=tmp_path, progress=False)(5), plan(5))


@pytest.mark.slow
def test_few_calls_of_a_guided_study_end_where_its_flow_does(study):
    """Its table is near the guided flow, whose samples have less variance than the data; those of the data's are not."""
    guided = study.guided(4.0, NULL)
    plan = guided.fewest(4, progress=False)
    asked = {"seed": 5, "batch_size": 200, "conditions": {"component": torch.arange(200) % 3}}
    flow = generate(DPMSolverPP(guided.model, 2), even_log_snr(VP, 40, VP.time(8.0)), (2,), 200, **asked)
    scaled = TableSampler(guided.model, matched(plan.sampler.table))
    apart = {
        name: float((generate(sampler, plan.grid, (2,), 200, **asked) - flow).square().mean())
        for name, sampler in (("plan", plan.sampler), ("matched", scaled))
    }
    assert apart["plan"] < 0.7 * apart["matched"], apart
    assert study.fewest(4, progress=False).sampler.table.facts["variance_share"] == 1.0


def test_a_guided_study(study):
    """Samples move away from the other classes; curve, grid and variance stay the conditional ones; it says so."""
    guided = study.guided(3.0, NULL)
    assert guided.grid(6).times == study.grid(6).times
    with guided.model.metered() as cost:
        x = guided.sample(60, steps=6)
    assert cost.evaluations == 60 * 6 * 2
    assert torch.equal(of(x), study.conditions["component"][:60])
    with pytest.warns(UserWarning, match="guided with scale 3"):
        bits = guided.measure(labelled(200, seed=1), 6, progress=False)[6].total.value
    assert bits > study.measure(labelled(200, seed=1), 6, progress=False)[6].total.value
    remarks = analysed(guided.model, labelled(600)).remarks
    assert any("guided model" in remark for remark in remarks)
    assert not any("guided model" in remark for remark in study.remarks)


@pytest.mark.slow
def test_a_report_draws_on_them(study, tmp_path):
    """The page of a conditional study is written without further ado."""
    pages = study.report(tmp_path, labelled(60, seed=1), steps=(3, 5), samples_at=(3,), count=8)
    assert (tmp_path / "report.html") in pages


def test_a_network_that_needs_a_condition_says_so():
    """One line, whatever is asked of it: data without labels, in the pass and in bits."""
    x_0 = FAR.sample(100)
    with pytest.raises(ValueError, match=r"needs the condition component: give it by the data, Examples\(data, conditions="):
        analysed(MODEL, x_0)
    assert analysed(FAR.score_model(VP), labelled(100)).conditions == {}  # which takes none


def test_a_repaired_mean_keeps_labels():
    """`recalibrate` fits W on every second example and measures on the rest, with their own labels."""
    better, found = recalibrate(MODEL, labelled(200), draws=64, log_snr=np.array([-2.0, 2.0]), progress=False)
    assert float(found.stack.changes.max()) == 0.0  # an exact score has nothing to gain
    assert torch.equal(
        better(torch.ones(2, 2), 0.5, component=torch.tensor([0, 1])).eps,
        MODEL(torch.ones(2, 2), 0.5, component=torch.tensor([0, 1])).eps,
    )
    _, wrong = recalibrate(MODEL, labelled(200, shift=1), draws=64, log_snr=np.array([-2.0, 2.0]), progress=False)
    assert float(wrong.stack.changes.max()) > 0.3


def test_guided_studies_keep_files_of_their_own(study, tmp_path):
    """Bounds, paths and tables of two scales and of the network lie in one folder; a saved study is the conditional one."""
    test, few = labelled(20, seed=1), {"path": tmp_path / "few", "progress": False}
    studies = [study, study.guided(2.0, NULL), study.guided(3.0, NULL)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bits = [one.measure(test, 4, path=tmp_path / "bounds", progress=False)[4].total.value for one in studies]
        again = [one.measure(test, 4, path=tmp_path / "bounds", progress=False)[4].total.value for one in studies]
    assert bits == again
    assert bits[0] < bits[1] < bits[2]
    assert len({one.fewest(2, **few)(3).sum().item() for one in studies}) == 3
    studies[1].covariance("pixel")
    studies[1].save(tmp_path / "kept")
    assert Study.load(tmp_path / "kept", MODEL).covariance("pixel").fingerprint([], []) is not None
