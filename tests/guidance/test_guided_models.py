"""Guided models: the extrapolation and its costs, classifiers with exact scores, clamps, intervals, Jacobians, identity."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.guidance import Classifier, ClassifierFree
from score_sde_analytic.models.conditions import Constant
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.networks import LearnedRange
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import LinearVP, RectifiedFlow

VP = LinearVP()
MIXTURE = GaussianMixture([0.5, 0.3, 0.2], [[-0.8, 0.2], [0.9, 0.4], [0.1, -1.0]], [[0.05, 0.4], [0.2, 0.1], [0.3, 0.02]])
CONDITIONAL, UNCONDITIONAL = MIXTURE.conditional(VP), MIXTURE.score_model(VP)
NULL = {"component": 3}
FREE = LinearDenoiser.of(torch.randn(50, 2, dtype=torch.float64)).score_model(VP)
LABELS = torch.tensor([0, 2, 1, 1])


def states(n=4, seed=0):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_prob(x_t, level, component):
    """log p(c | x_t) of variance-preserving states, exact."""
    return MIXTURE.responsibilities(x_t, level).log().gather(1, component[:, None])[:, 0]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_guidance_extrapolates_from_the_unconditional_branch(scale, t):
    """eps_u + scale (eps_c - eps_u), and the same for x_0; two evaluations a sample in one call, one at scale 1."""
    guided = ClassifierFree(CONDITIONAL, scale, NULL)
    with guided.metered() as cost, CONDITIONAL.metered() as inside:
        prediction = guided(states(), t, component=LABELS)
    own, free = CONDITIONAL(states(), t, component=LABELS), UNCONDITIONAL(states(), t)
    torch.testing.assert_close(prediction.eps, free.eps + scale * (own.eps - free.eps))
    torch.testing.assert_close(prediction.x_0, free.x_0 + scale * (own.x_0 - free.x_0))
    assert cost == inside
    assert (cost.calls, cost.evaluations) == (1, 4 if scale == 1.0 else 8)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_classifier_of_exact_scores_is_the_same_guidance(scale):
    """grad log p(c | x_t) = (eps_u - eps_c) / sigma: scale s on the unconditional model is classifier-free guidance of scale s,
    and on the conditional one w = s."""
    by_classifier, around = Classifier(UNCONDITIONAL, log_prob, scale), ClassifierFree(CONDITIONAL, scale, NULL)
    for t in (0.02, 0.5, torch.tensor([0.1, 0.2, 0.5, 0.9], dtype=torch.float64)):
        expected = around(states(), t, component=LABELS).eps
        torch.testing.assert_close(by_classifier(states(), t, component=LABELS).eps, expected)
    both = Classifier(CONDITIONAL, log_prob, scale)
    expected = ClassifierFree(CONDITIONAL, scale + 1.0, NULL)(states(), 0.5, component=LABELS).eps
    torch.testing.assert_close(both(states(), 0.5, component=LABELS).eps, expected)


@pytest.mark.parametrize(
    "guide", [lambda i: ClassifierFree(CONDITIONAL, 3.0, NULL, i), lambda i: Classifier(CONDITIONAL, log_prob, 2.0, i)]
)
def test_an_interval_guides_within_it_alone(guide):
    """Sample by sample where levels differ; a call outside is one evaluation a sample."""
    always, within = guide(None), guide((-2.0, 2.0))
    t = torch.from_numpy(VP.time(torch.tensor([-5.0, -1.9, 1.9, 2.1], dtype=torch.float64).numpy()))
    found = within(states(), t, component=LABELS).eps
    plain, full = (model(states(), t, component=LABELS).eps for model in (CONDITIONAL, always))
    torch.testing.assert_close(found, torch.stack([plain[0], full[1], full[2], plain[3]]))
    with within.metered() as cost:
        within.given(component=LABELS).predict(states(), VP.level_at(3.0))
    assert cost.evaluations == 4


def test_the_clamp_comes_last():
    """x_0 is confined after the branches are put together, not each of them before."""
    clamped = ScoreModel(CONDITIONAL.net, VP, times=CONDITIONAL.times, coordinates="vp", clamp=(-0.5, 0.5))
    raw = ClassifierFree(CONDITIONAL, 4.0, NULL)(states(), 0.4, component=LABELS).x_0
    for guided in (ClassifierFree(clamped, 4.0, NULL), Classifier(clamped, log_prob, 3.0)):
        torch.testing.assert_close(guided(states(), 0.4, component=LABELS).x_0, raw.clamp(-0.5, 0.5))
        torch.testing.assert_close(guided.unclamped()(states(), 0.4, component=LABELS).x_0, raw)


def test_the_believed_variance_is_below_the_conditional_one():
    """The mean trace of I - sigma d eps_w / dx is R_c - w G (theorem of the guided field): E over x_t of the class's data."""
    x_0, component = MIXTURE.labelled(400)
    level = VP.level(0.45)
    x_t = level.diffuse(x_0, states(400, seed=1))
    traces = {}
    for scale in (0.0, 1.0, 2.0, 3.0):
        guided = ClassifierFree(CONDITIONAL, scale, NULL)
        prediction = guided.predict(x_t, level, component=component)
        traces[scale] = float(Tweedie(guided).matrix(prediction).diagonal(dim1=1, dim2=2).mean())
    gap = traces[0.0] - traces[1.0]
    assert traces[3.0] == pytest.approx(traces[1.0] - 2.0 * gap, abs=1e-12)
    assert gap > 0.01
    snr = math.exp(level.log_snr)
    of_each = (MIXTURE.eigenvalues * snr / (1.0 + MIXTURE.eigenvalues * snr)).mean(1)
    exact = float(of_each[component].mean())
    assert traces[1.0] == pytest.approx(exact, rel=1e-10)


def test_gradients_pass_through_a_classifier():
    """Jacobians of a model that is guided by a gradient are second derivatives of the classifier: as of the other form."""
    level, x_t = VP.level(0.5), states()
    forms = ClassifierFree(CONDITIONAL, 2.5, NULL), Classifier(UNCONDITIONAL, log_prob, 2.5)
    one, other = (Tweedie(g).matrix(g.predict(x_t, level, component=LABELS)) for g in forms)
    torch.testing.assert_close(one, other)


def test_where_alpha_is_zero():
    """v of both branches: guidance of a network of v is as exact at pure noise as it is below."""
    schedule = RectifiedFlow()

    def net(x, labels, component):
        return torch.where(component[:, None] < 3, 2.0 * x, 0.5 * x)

    model = ScoreModel(net, schedule, "velocity")
    guided = ClassifierFree(model, 3.0, NULL)(states(), 1.0, component=LABELS)
    torch.testing.assert_close(guided.x_0, -(2.0 + 2.0 * 1.5 - 1.0) * states())


def test_what_identifies_it():
    """Scale, null and interval; the classifier's own weights or a name."""
    many = [
        CONDITIONAL,
        ClassifierFree(CONDITIONAL, 2.0, NULL),
        ClassifierFree(CONDITIONAL, 3.0, NULL),
        ClassifierFree(CONDITIONAL, 2.0, {"component": 2}),
        ClassifierFree(CONDITIONAL, 2.0, NULL, (-1.0, 1.0)),
        Classifier(CONDITIONAL, log_prob, 2.0, fingerprint="exact"),
        Classifier(CONDITIONAL, log_prob, 2.0, fingerprint="another"),
    ]
    assert all(one.fingerprint() != other.fingerprint() for one, other in itertools.combinations(many, 2))
    assert ClassifierFree(CONDITIONAL, 2.0, NULL).given(component=LABELS).fingerprint() == many[1].fingerprint()
    with pytest.raises(ValueError, match="pass fingerprint="):
        Classifier(CONDITIONAL, log_prob, 2.0).fingerprint()
    assert [bool(model.guidance) for model in many] == [False, *[True] * 6]


def test_embeddings_and_learned_variance():
    """The null may be a tensor, such as an empty prompt's embedding; a learned variance is the conditional branch's."""

    def net(x, labels, prompt):
        return x.repeat(1, 2) * prompt.mean((1, 2))[:, None]

    model = ScoreModel(LearnedRange(torch.nn.Identity()), VP, fingerprint="x")
    model.net.wrapped.forward = net
    prompt = torch.arange(4.0, dtype=torch.float64)[:, None, None].expand(4, 5, 2)
    guided = ClassifierFree(model, 2.0, {"prompt": Constant(torch.ones(5, 2))})
    prediction = guided(states(), 0.5, prompt=prompt)
    torch.testing.assert_close(prediction.eps, (2.0 * prompt[:, :1, 0] - 1.0) * states())
    torch.testing.assert_close(prediction.learned_range, prompt[:, :1, 0] * states())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassifierFree(CONDITIONAL, 2.0, {}), "null names the conditions that stand for none"),
        (lambda: ClassifierFree(CONDITIONAL, 2.0, {"component": LABELS}), "null names the conditions that stand for none"),
        (lambda: ClassifierFree(CONDITIONAL, 2.0, {"label": 3}), "takes no condition 'label'"),
        (lambda: ClassifierFree(CONDITIONAL, float("nan"), NULL), "scale"),
        (lambda: ClassifierFree(CONDITIONAL, 2.0, NULL, (1.0, -1.0)), "lo < hi"),
        (lambda: ClassifierFree(CONDITIONAL, 2.0, NULL)(states(), 0.5), "guidance needs the condition component"),
        (
            lambda: ClassifierFree(LinearDenoiser.of(states(50)).score_model(VP), 2.0, NULL),
            "takes no condition 'component' but none",
        ),
        (
            lambda: Classifier(CONDITIONAL, lambda x, level, component: x, 2.0)(states(), 0.5, component=LABELS),
            "one number per sample",
        ),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_levels_are_the_schedule_s():
    """A classifier is shown the level of the states, of which it reads what it was trained on."""
    seen: list[Level] = []

    def log_prob_of(x_t, level):
        seen.append(level)
        return -x_t.square().sum(1)

    Classifier(UNCONDITIONAL, log_prob_of, 1.0)(states(), 0.25)
    assert seen[0].t == 0.25
    assert seen[0].log_snr == VP.level(0.25).log_snr
