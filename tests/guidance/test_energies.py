"""Guidance by energies: the published step of EGSDE, closed forms, its noise whatever the batch, and no energy at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from score_sde_analytic import grids
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.guidance import ClassifierFree, CosineFeatures, Energies, LowPass
from score_sde_analytic.guidance.reference import shown
from score_sde_analytic.models.conditions import Conditions, Constant
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import ZeroBased
from score_sde_analytic.process.noise import SampleNoise, stream_seed
from score_sde_analytic.process.schedule import LinearVP, Tabulated
from score_sde_analytic.samplers import Ancestral, DPMSolverPP, Heun, generate

VP = LinearVP()
SHAPE = (1, 4, 4)
PLAIN = Tabulated.linear()
BETAS = np.linspace(1e-4, 0.02, 1000)
ABAR = np.cumprod(1.0 - BETAS)
#: Of the experts, as published for pictures of 256 x 256.
REALISM, FAITH = 500.0, 2.0


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


WEIGHT = numbers(16, 16, seed=5) / 16.0
FILTERS = numbers(3, 1, 2, 2, seed=6)


def network(x, index):
    """Some eps of a state and its time."""
    bent = torch.tanh(x.flatten(1) @ WEIGHT.to(x)) * (1.0 + index[:, None].to(x) / 1000.0)
    return (0.8 * x.flatten(1) + bent).reshape(x.shape)


def features(x, level):
    return nn.functional.conv2d(x, FILTERS).tanh()


MODEL = ScoreModel(network, PLAIN, times=ZeroBased(1000), fingerprint="some")
EXPERTS = [(CosineFeatures(features, "filters"), REALISM), (LowPass(2), FAITH)]


def published_gradient(y, x_t):
    """grad of REALISM mean cos(f(y), f(x_t)) + FAITH ||P y - P x_t||^2, written anew."""
    y = y.detach().requires_grad_()
    own, theirs = nn.functional.conv2d(y, FILTERS).tanh(), nn.functional.conv2d(x_t, FILTERS).tanh()
    cosine = (own * theirs).sum(1) / (own.square().sum(1).sqrt() * theirs.square().sum(1).sqrt())
    (realism,) = torch.autograd.grad(cosine.mean((1, 2)).sum(), y)
    blocks = (y - x_t).detach().reshape(-1, 1, 2, 2, 2, 2).mean((3, 5), keepdim=True)
    faith = 2.0 * blocks.expand(-1, 1, 2, 2, 2, 2).reshape(-1, 1, 4, 4)
    return REALISM * realism + FAITH * faith


class TestPublished:
    """EGSDE, a chain of 1000 steps begun at 500, on stored numbers: betas, a network's answers and one noise for all steps."""

    @staticmethod
    def chain(y, x_0, e, z, first, last, small_step):
        """The states from index `first` down to `last`: y <- 1/sqrt(1 - beta) (y + beta (s - grad E)) + sqrt(beta) z.

        Args:
            small_step: the gradient by the variance, as the public code has it, in place of beta / sqrt(1 - beta).
        """
        for i in range(first, last, -1):
            beta, index = BETAS[i], torch.full((len(y),), float(i), dtype=torch.float64)
            score = -network(y, index) / np.sqrt(1.0 - ABAR[i])
            gradient = published_gradient(y, np.sqrt(ABAR[i]) * x_0 + np.sqrt(1.0 - ABAR[i]) * e)
            mean = (y + beta * score) / np.sqrt(1.0 - beta)
            mean = mean - (beta if small_step else beta / np.sqrt(1.0 - beta)) * gradient
            y = mean if i == 0 else mean + np.sqrt(beta) * z(i)
        return y

    @pytest.mark.parametrize("i", [0, 1, 250, 499])
    def test_a_step(self, i):
        """To 1e-12 the formula of the paper; to beta / 2 of the gradient's share that of the code."""
        x_0, y, z = (numbers(2, *SHAPE, seed=seed) for seed in (1, 2, 3))
        streams = torch.tensor([11, 12])
        e = SampleNoise.of_streams(streams.tolist()).draw(x_0)
        expected, code = (self.chain(y, x_0, e, lambda _: z, i, i - 1, small) for small in (False, True))
        guided = Energies(MODEL, EXPERTS, "shared").given(reference=x_0, reference_stream=streams)
        sampler = Ancestral(guided, Beta())
        step = sampler.plan(Grid(tuple(np.arange(i + 1, -1, -1) / 1000.0)))[0]

        class Given:
            def draw(self, like):
                return z

        found = sampler.step(y, step, None, Given())[0]
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-10)
        gradient = BETAS[i] * published_gradient(y, np.sqrt(1.0 - ABAR[i]) * e + np.sqrt(ABAR[i]) * x_0)
        torch.testing.assert_close(code - expected, (1.0 / np.sqrt(1.0 - BETAS[i]) - 1.0) * gradient, rtol=0.0, atol=1e-10)
        assert float((code - expected).abs().max()) < 0.51 * BETAS[i] * float(gradient.abs().max())

    def test_the_chain(self):
        """From the picture at 500 to the end: its first noise is the reference's at every step, as in the public code."""
        x_0 = 0.5 * numbers(2, *SHAPE, seed=4)
        noise = SampleNoise(7, range(2))
        e = noise.draw(x_0).clone()
        first = np.sqrt(ABAR[59]) * x_0 + np.sqrt(1.0 - ABAR[59]) * e
        expected = self.chain(first, x_0, e, lambda _: noise.draw(x_0), 59, -1, False)
        found = generate(
            Ancestral(Energies(MODEL, EXPERTS, "shared"), Beta()),
            Grid(tuple(np.arange(60, -1, -1) / 1000.0)),
            SHAPE,
            2,
            seed=7,
            dtype=torch.float64,
            start=(x_0, float(PLAIN.log_snr(0.06))),
            conditions={"reference": x_0},
        )
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


def pictures(n, seed=0):
    return 0.5 * numbers(n, *SHAPE, seed=seed)


GRID = grids.even_log_snr(PLAIN, 5, 0.001, top=0.5)
START = float(PLAIN.log_snr(0.5))


@pytest.mark.parametrize("reference", ["fresh", "shared"])
@pytest.mark.parametrize("rule", [lambda m: Ancestral(m, BetaTilde()), Heun, lambda m: DPMSolverPP(m, order=2)])
def test_equal_seeds_give_equal_samples_whatever_the_batch(rule, reference):
    """The reference's noise belongs to the sample and the level; other seeds have other noise."""
    x_0 = pictures(5)
    model = Energies(MODEL, EXPERTS, reference)

    def draw(count, batch, rows, seed=3):
        options = {"seed": seed, "batch_size": batch, "dtype": torch.float64}
        return generate(rule(model), GRID, SHAPE, count, start=(rows, START), conditions={"reference": rows}, **options)

    whole = draw(5, 5, x_0)
    torch.testing.assert_close(draw(5, 2, x_0), whole, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(draw(range(3, 5), 1, x_0[3:]), whole[3:], rtol=0.0, atol=1e-12)
    assert float((draw(5, 5, x_0, seed=4) - whole).abs().max()) > 1e-3


def test_fresh_noise_is_fresh():
    """N(0, I) at every level, independent at any two of a chain, the same at the same level; shared noise is one draw."""
    x_0 = torch.zeros(1, 50_000, dtype=torch.float64)
    given = Conditions.of({"reference": x_0, "reference_stream": torch.tensor([stream_seed(0, 1)])})
    levels = [PLAIN.level(n / 1000.0) for n in (500, 499, 500)]
    one, other, again = (shown(given, x_0, level, shared=False) / level.sigma for level in levels)
    assert torch.equal(one, again)
    assert float((one * other).mean()) == pytest.approx(0.0, abs=0.02)
    assert float(one.square().mean()) == pytest.approx(1.0, abs=0.02)
    one, other = (shown(given, x_0, level, shared=True) / level.sigma for level in levels[:2])
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one, SampleNoise(0, [1]).draw(x_0))


def test_levels_of_their_own():
    """A batch of levels is shown what each sample would be shown alone."""
    x_0, y = pictures(3), numbers(3, *SHAPE, seed=9)
    guided = Energies(MODEL, EXPERTS)
    t = torch.tensor([0.1, 0.3, 0.7], dtype=torch.float64)
    together = guided(y, t, reference=x_0).eps
    alone = [guided(y[i : i + 1], float(t[i]), reference=x_0[i : i + 1]).eps for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("energies", [[], [(LowPass(2), 0.0), (CosineFeatures(features, "filters"), 0.0)]])
def test_no_energy_is_the_model_bit_for_bit(energies):
    """SDEdit, then: samples, identity, guidance; and no energy is asked, which needs no reference."""
    x_0 = pictures(4).float()
    options = {"seed": 1, "start": (x_0, START)}
    for model in (MODEL, ScoreModel(network, PLAIN, times=ZeroBased(1000), fingerprint="some", clamp=(-1.0, 1.0))):
        net = Energies(model, energies)
        plain, with_none = (generate(Ancestral(m, BetaTilde()), GRID, SHAPE, 4, **options) for m in (model, net))
        assert torch.equal(plain, with_none)
        assert net.fingerprint() == model.fingerprint()
        assert net.guidance == ""


def test_costs_are_those_of_the_model():
    """A call, and as many evaluations, whatever the energies; around classifier-free guidance two evaluations."""
    classes = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1).conditional(VP)

    def toward(y, reference, level):
        return 0.5 * (y - reference).square().sum(1)

    guided = Energies(ClassifierFree(classes, 3.0, {"component": 2}), [(toward, 1.0)])
    y = numbers(6, 1)
    with guided.metered() as cost:
        found = guided(y, 0.5, component=1, reference=torch.zeros(6, 1))
    assert (cost.calls, cost.evaluations, cost.vector_products) == (1, 12, 0)
    level = VP.level(0.5)
    streamless = Conditions.of({"reference": torch.zeros(6, 1)})
    gradient = y - shown(streamless, y, level, shared=False)
    expected = ClassifierFree(classes, 3.0, {"component": 2})(y, 0.5, component=1).eps + level.sigma * gradient
    torch.testing.assert_close(found.eps, expected)


def test_a_quadratic_energy_is_another_gaussian():
    """Its Jacobian too: I - sigma d eps_E / dy = I - sigma (d eps / dy + sigma w I)."""
    mixture = GaussianMixture([1.0], [[0.2, -0.1]], 0.3)
    model = mixture.score_model(VP)
    guided = Energies(model, [(lambda y, reference, level: 0.5 * (y - reference).square().sum(1), 0.7)])
    level, y = VP.level(0.4), numbers(3, 2)
    reference = Constant(torch.zeros(2, dtype=torch.float64))
    own, plain = (
        Tweedie(m).matrix(p)
        for m, p in ((guided, guided.predict(y, level, reference=reference)), (model, model.predict(y, level)))
    )
    torch.testing.assert_close(plain - own, (0.7 * level.sigma**2 * torch.eye(2, dtype=torch.float64)).expand(3, 2, 2))


@pytest.mark.parametrize("expert", range(2))
def test_each_expert_moves_its_own_metric(expert):
    """Monotonically in its weight: the low-pass image comes nearer, the features' cosine falls."""
    x_0 = pictures(40, seed=8)
    model = GaussianMixture([1.0], torch.zeros(1, 16), 0.2).score_model(PLAIN)
    flat = ScoreModel(
        lambda x, log_snr: model.net(x.flatten(1), log_snr).reshape(x.shape),
        PLAIN,
        times=model.times,
        coordinates="vp",
        fingerprint="flat",
    )
    energy = EXPERTS[expert][0]
    left = []
    for weight in (0.0, 0.3, 1.0, 3.0):
        guided = Energies(flat, [(energy, weight)])
        options = {"start": (x_0, START), "conditions": {"reference": x_0}, "dtype": torch.float64, "batch_size": 40}
        x = generate(Ancestral(guided, BetaTilde()), grids.even_log_snr(PLAIN, 20, 0.001, top=0.5), SHAPE, 40, **options)
        left.append(float(energy(x, x_0, PLAIN.level(0.001)).mean()))
    assert left == sorted(left, reverse=True)
    assert left[0] - left[-1] > 0.2 * abs(left[0])


def test_what_identifies_it():
    known = [
        MODEL.fingerprint(),
        Energies(MODEL, EXPERTS).fingerprint(),
        Energies(MODEL, EXPERTS, "shared").fingerprint(),
        Energies(MODEL, EXPERTS[:1]).fingerprint(),
        Energies(MODEL, [(LowPass(4), 2.0)]).fingerprint(),
        Energies(MODEL, [(LowPass(4), 1.0)]).fingerprint(),
        Energies(MODEL, [(LowPass(4), 1.0)]).given(reference=Constant(torch.zeros(SHAPE))).fingerprint(),
        Energies(MODEL, [(features, 1.0)], fingerprint="mine").fingerprint(),
    ]
    assert all(one != other for i, one in enumerate(known) for other in known[:i])
    assert Energies(MODEL, EXPERTS).guidance == "guided by energies of weights 500, 2"


def row(y, reference, level):
    return y.flatten(1).sum(1)


def asked(energy):
    return Energies(MODEL, [(energy, 1.0)])(pictures(2), 0.5, reference=pictures(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Energies(MODEL, [LowPass(2)]), "pairs"),
        (lambda: Energies(MODEL, [(LowPass(2), float("nan"))]), "the weight of an energy"),
        (lambda: Energies(MODEL, EXPERTS, "both"), "reference"),
        (lambda: Energies(MODEL, EXPERTS)(pictures(2), 0.5), "compare with a reference"),
        (lambda: Energies(MODEL, EXPERTS)(pictures(2), 0.5, reference=pictures(2)[:, :, :2]), "of the shape of the states"),
        (lambda: Energies(MODEL, EXPERTS)(pictures(2), 0.5, reference=pictures(3)), "3 rows for 2 examples"),
        (
            lambda: Energies(MODEL, [(lambda y, r, level: y, 1.0)])(pictures(2), 0.5, reference=pictures(2)),
            "one number per sample",
        ),
        (lambda: asked(lambda y, reference, level: row(y.detach(), reference, level)), "carries no gradient"),
        (lambda: asked(LowPass(3)), "multiples of 3"),
        (lambda: LowPass(0), "factor"),
        (lambda: Energies(MODEL, [(row, 1.0)]).fingerprint(), "pass fingerprint="),
        (lambda: asked(CosineFeatures(lambda x, level: x.flatten(1).sum(1))), "positions"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
