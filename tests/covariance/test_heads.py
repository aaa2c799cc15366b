"""Heads: exact conditional variances of mixtures, formulas by hand and by torch.distributions, files, wrappers, the runner."""

import copy
import json
import math
import threading

import numpy as np
import pytest
import torch
from score_sde_analytic.configs import digits_vp
from score_sde_analytic.configs import mixture as mixture_config
from score_sde_analytic.runners import evaluate, networks, sampling, train_head
from score_sde_analytic.runners.experiment import Experiment
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from score_sde_analytic.covariance.head_calibration import calibrate, held_out_draws, transition_bits
from score_sde_analytic.covariance.head_networks import HEADS, hats, load_head
from score_sde_analytic.covariance.head_training import Draw, HeadTrainer, Recipe, _call, chain_nats, draw, new_head, score
from score_sde_analytic.covariance.heads import Interpolated, LearnedDiagonal, covariance_of
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde
from score_sde_analytic.files import read_json, write_json
from score_sde_analytic.grids.grid import even_log_snr
from score_sde_analytic.likelihood import Chain, bits_per_dim
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.mixture import GaussianMixture, preserving_level
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.networks import LearnedRange, WithFeatures
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process.kernel import reverse_kernel
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import VE, LinearVP
from score_sde_analytic.samplers import Ancestral, generate

LINEAR = LinearVP()


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Tiny(nn.Module):
    """An image network with a last layer named conv_out."""

    def __init__(self, outputs=1, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv_in = nn.Conv2d(1, 6, 3, padding=1)
        self.conv_out = nn.Conv2d(6, outputs, 3, padding=1)

    def forward(self, x, labels):
        return self.conv_out(torch.tanh(self.conv_in(x) + 0.1 * labels[:, None, None, None]))


def image_model(net, schedule=LINEAR, clamp=None):
    return ScoreModel(net, schedule, "eps", LogSNR(), "vp", clamp)


@pytest.fixture(scope="module")
def model():
    return image_model(WithFeatures(Tiny().eval()), clamp=(-1.0, 1.0))


def rough_head(kind, model, seed=3, **settings):
    """A head whose answers vary from place to place and state to state."""
    head = new_head(kind, model, torch.zeros(1, 1, 4, 4), Recipe(), seed, features=6, hidden=8, **settings)
    generator = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return head.eval()


@pytest.fixture(scope="module")
def heads(model):
    return {kind: rough_head(kind, model) for kind in HEADS}


def states(model, level, count=6, seed=0):
    """(x_0, prediction) at one level."""
    x_0 = noise(count, 1, 4, 4, seed=seed, dtype=torch.float32).clamp(-1, 1)
    return x_0, model.predict(level.alpha * x_0 + level.sigma * noise(*x_0.shape, seed=seed + 1).float(), level)


# --- what the heads learn -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clusters():
    """Two clusters of different widths in two dimensions: R varies from state to state and between coordinates."""
    return GaussianMixture([1.0, 1.0], [[-0.8, -0.3], [0.7, 0.4]], [[0.4, 0.05], [0.03, 0.3]])


@pytest.fixture(scope="module")
def learned(clusters):
    """Heads of every residual kind, trained on the exact score."""
    model, data = clusters.score_model(LINEAR), clusters.sample(20_000, seed=1)
    recipe = Recipe(steps=250, batch_size=1024, learning_rate=1e-2, log_snr=(-4.0, 4.0), warmup=20)
    trained = {kind: new_head(kind, model, data, recipe) for kind in ("npr", "sn", "ocm")}
    trainer = HeadTrainer(trained, model, data, recipe)
    while trainer.step < recipe.steps:
        trainer.advance()
    return trained


def relative_errors(mixture, heads, log_snrs):
    """RMS error of R over the RMS of the exact one, per head and level; and the same of the best fixed variances."""
    errors = {name: [] for name in (*heads, "fixed")}
    for log_snr in log_snrs:
        level = LINEAR.level_at(log_snr)
        x_t = level.alpha * mixture.sample(4000, seed=7) + level.sigma * noise(4000, 2, seed=8)
        prediction = mixture.score_model(LINEAR).predict(x_t, level)
        covariance = mixture.posterior(x_t, level)[1]
        exact = (level.alpha / level.sigma) ** 2 * covariance.diagonal(dim1=1, dim2=2)
        with torch.no_grad():
            found = {name: head.residual(prediction) for name, head in heads.items()} | {"fixed": exact.mean(0)}
        for name, value in found.items():
            errors[name].append(float((value - exact).square().mean() / exact.square().mean()) ** 0.5)
    return {name: np.array(values) for name, values in errors.items()}


@pytest.mark.slow
def test_heads_recover_the_exact_conditional_variance(clusters, learned):
    """Relative RMS error over states: a third of the best fixed variances' for NPR, less for OCM, from log-SNR -3 to 3.

    SN subtracts eps_hat^2, so that it needs far more where R is small: there its error is ten times NPR's.
    """
    errors = relative_errors(clusters, learned, (-3.0, -1.0, 0.0, 1.0, 2.0, 3.0))
    rms = {name: math.sqrt(np.mean(values**2)) for name, values in errors.items()}
    assert rms["fixed"] > 0.35
    assert rms["npr"] < 0.18
    assert rms["ocm"] < 0.14
    assert errors["sn"][2:].max() < 0.35
    assert errors["sn"][0] > 10 * errors["npr"][0]


def test_probes_are_unbiased_for_the_jacobian_diagonal(planar):
    """z-test of 6 means over 4000 probes at 5 standard errors (false alarm 3e-6), and autograd's own diagonal as the truth."""
    model, count = planar.score_model(LINEAR), 4000
    prediction = draw(model, planar.sample(3, seed=2), Recipe(log_snr=(-1.0, 3.0)), torch.Generator().manual_seed(0)).prediction
    times, exact = prediction.level.t, []
    for x, t in zip(prediction.x_t, times, strict=True):
        level = LINEAR.level(t)
        jacobian = torch.autograd.functional.jacobian(lambda x, level=level: model.predict(x[None], level).eps[0], x)
        exact.append(1.0 - level.sigma * jacobian.diagonal())
    signs = torch.randint(2, (3 * count, 2), generator=torch.Generator().manual_seed(5)).double() * 2 - 1
    found = _call(model, prediction.x_t.repeat(count, 1), LINEAR.level(times.repeat(count)), signs)[1].view(count, 3, 2)
    error = found.std(0) / math.sqrt(count)
    assert 0 < error.max() < 0.02  # so that the test could fail
    assert ((found.mean(0) - torch.stack(exact)).abs() < 5 * error + 1e-9).all()


@pytest.mark.parametrize("rule", ["mse", "likelihood", "step"])
def test_scores_are_minimised_by_the_conditional_mean(rule):
    """Of a target with two values, one of them negative."""
    target, weight = torch.tensor([[-0.1], [0.7]], dtype=torch.float64), torch.tensor([[0.25], [0.75]], dtype=torch.float64)
    grid = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
    cost = [float((weight * score(r.expand(2, 1), target, rule, torch.full((2,), 1.5))).sum()) for r in grid]
    assert grid[int(np.argmin(cost))] == pytest.approx(float((weight * target).sum()), abs=0.011)


def test_step_score_is_twice_the_kl_of_a_step():
    t, s = LINEAR.level_at(1.0), LINEAR.level_at(3.0)
    kernel, residual, eps_error = (
        reverse_kernel(s, t),
        torch.tensor([[0.3, 0.6]]).double(),
        torch.tensor([[0.5, -0.9]]).double(),
    )
    scale = kernel.b**2 * math.exp(-1.0)
    p = Independent(Normal(scale**0.5 * eps_error, (kernel.rho2 + scale * residual).sqrt()), 1)
    q = Independent(Normal(torch.zeros(1, 2).double(), math.sqrt(kernel.rho2) * torch.ones(1, 2).double()), 1)
    found = score(residual, eps_error.square(), "step", torch.tensor([2.0]).double()).sum(1)
    torch.testing.assert_close(found, 2 * kl_divergence(q, p))


@pytest.mark.parametrize("chain", ["even", "log_snr"])
def test_interpolated_loss_is_the_bound_of_the_chain(chain):
    """The mean over lam of the weighted terms is the phase-averaged sum over the chain's steps, by quadrature for one state."""
    recipe = Recipe(log_snr=(-8.0, 8.0), chain_steps=20, chain=chain)
    times = np.linspace(0.08, LINEAR.time(-8.0), 2001) if chain == "even" else LINEAR.time(np.linspace(-8.0, 7.0, 2001))
    level = LINEAR.level(times)
    kernel = reverse_kernel(LINEAR.level(times - 0.05 if chain == "even" else LINEAR.time(level.log_snr + 0.8)), level)
    var = kernel.beta**0.7 * kernel.rho2**0.3
    kl = 0.5 * (np.log(var / kernel.rho2) + (kernel.rho2 + kernel.b**2 * 0.04) / var - 1.0)
    expected = 20 * np.trapezoid(kl, times) if chain == "even" else np.trapezoid(kl, level.log_snr) / 0.8

    lam = np.linspace(-8.0, level.log_snr.max(), 2001)
    x_0, v = torch.full((2001, 1), 0.3, dtype=torch.float64), torch.full((2001, 1), 0.4, dtype=torch.float64)
    prediction = Prediction(x_0, LINEAR.level(torch.from_numpy(LINEAR.time(lam))), x_0 + 0.2, "x_0")
    terms = chain_nats(v, Draw(prediction, x_0, x_0, x_0[:, 0], None), LINEAR, recipe).numpy()
    assert np.trapezoid(terms, lam) / recipe.span == pytest.approx(expected, rel=1e-4)


def test_interpolated_loss_ends_where_the_chain_does():
    """No term where the step would end at or below t = 0, or above the highest log-SNR."""
    x_0 = torch.full((4, 1), 0.3, dtype=torch.float64)
    prediction = Prediction(x_0, LINEAR.level(torch.tensor([0.01, 0.04, 0.06, 0.9]).double()), x_0 + 0.2, "x_0")
    sample = Draw(prediction, x_0, x_0, x_0[:, 0], None)
    even = chain_nats(0 * x_0, sample, LINEAR, Recipe(chain_steps=20))
    assert (even != 0).tolist() == [False, False, True, True]
    high = float(LINEAR.log_snr(0.04)) + 0.1
    spaced = chain_nats(0 * x_0, sample, LINEAR, Recipe(log_snr=(-8.0, high), chain="log_snr", chain_steps=50))
    assert (spaced != 0).tolist() == [False, False, True, True]


# --- covariances --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [LINEAR, VE()], ids=["vp", "ve"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("kind", ["npr", "sn", "ocm"])
def test_kl_and_noise_of_a_learned_diagonal(model, heads, kind, eta, schedule):
    model = image_model(model.net, schedule, model.clamp)
    s, t = schedule.level_at(2.0), schedule.level_at(0.5)
    x_0, prediction = states(model, t)
    kernel = reverse_kernel(s, t, eta)
    (step,) = LearnedDiagonal(heads[kind]).steps([kernel], [t])
    with torch.no_grad():
        residual = heads[kind].residual(prediction)
    assert residual.std() > 1e-3
    var = kernel.rho2 + kernel.b**2 * math.exp(-0.5) * residual
    error = kernel.b * (x_0 - prediction.x_0).double()
    q = Normal(torch.zeros_like(error), math.sqrt(kernel.rho2) * torch.ones_like(error))
    expected = kl_divergence(q, Normal(error, var.sqrt())).flatten(1).mean(1)
    torch.testing.assert_close(step.kl(kernel, prediction, x_0), expected)
    z = noise(*x_0.shape, seed=9).float()
    torch.testing.assert_close(step.add_noise(x_0.clone(), prediction, z), x_0 + var.sqrt().float() * z)


@pytest.mark.parametrize("kind", ["npr", "sn", "ocm"])
def test_pure_noise_has_the_variance_of_what_is_nearly_so(heads, kind):
    """alpha = 0: log-SNR -inf, which no head was trained on; V0 is that of log-SNR -12."""
    covariance, x, s = LearnedDiagonal(heads[kind]), noise(3, 1, 4, 4).float(), LINEAR.level(0.5)
    excesses = []
    for level in (Level(1.0, 0.0, 1.0, -math.inf), preserving_level(torch.full((3,), -12.0))):
        prediction = Prediction(x, level, 0.1 * x, "x_0", noise(3, 6, 4, 4, seed=1).float())
        excesses.append(covariance.excess(reverse_kernel(s, level), prediction))
    assert torch.isfinite(excesses[0]).all()
    assert (excesses[0] > 0.0).all()
    torch.testing.assert_close(excesses[0], excesses[1], rtol=0.2, atol=0.0)


def test_interpolated_by_hand_and_by_brute_force(model, heads):
    s, t = LINEAR.level_at(1.5), LINEAR.level_at(0.0)
    x_0, prediction = states(model, t)
    kernel = reverse_kernel(s, t)
    covariance = Interpolated(heads["interpolated"])
    (step,) = covariance.steps([kernel], [t])
    with torch.no_grad():
        u = 0.5 * (covariance.range(prediction) + 1.0)
    assert u.std() > 1e-3
    var = kernel.beta**u * kernel.rho2 ** (1.0 - u)
    torch.testing.assert_close(kernel.rho2 + covariance.excess(kernel, prediction), var)
    error = kernel.b * (x_0 - prediction.x_0).double()
    q = Normal(torch.zeros_like(error), math.sqrt(kernel.rho2) * torch.ones_like(error))
    expected = kl_divergence(q, Normal(error, var.sqrt())).flatten(1).mean(1)
    torch.testing.assert_close(step.kl(kernel, prediction, x_0), expected)
    x = torch.linspace(-12.0, 12.0, 40001, dtype=torch.float64) * math.sqrt(kernel.rho2)
    p_i = Normal(error[0, 0, 0, 0], var[0, 0, 0, 0].sqrt())
    q_i = Normal(torch.zeros_like(x[0]), math.sqrt(kernel.rho2))
    brute = torch.trapezoid(q_i.log_prob(x).exp() * (q_i.log_prob(x) - p_i.log_prob(x)), x)
    torch.testing.assert_close(brute, kl_divergence(q, Normal(error, var.sqrt()))[0, 0, 0, 0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("v", "bound"), [(-1.0, BetaTilde()), (1.0, Beta())])
def test_ends_of_the_range_are_the_handcrafted_variances(v, bound):
    """A network of 2C channels whose second half is constant."""
    net = Tiny(outputs=2).eval()
    net.conv_out.weight.data[1], net.conv_out.bias.data[1] = 0.0, v
    model = image_model(LearnedRange(net))
    grid = even_log_snr(LINEAR, 6, LINEAR.time(6.0))
    x_0 = noise(5, 1, 4, 4).float()
    chains = {"learned": Chain(grid, Interpolated(), 0.1), "fixed": Chain(grid, bound, 0.1)}
    found = bits_per_dim(model, x_0, chains, progress=False)
    np.testing.assert_allclose(found["learned"].per_example, found["fixed"].per_example, rtol=1e-9)
    samples = [generate(Ancestral(model, c), grid, (1, 4, 4), 3) for c in (Interpolated(), bound)]
    torch.testing.assert_close(*samples)
    assert samples[0].std() > 0.01


def test_interpolated_needs_the_ddpm_kernel(model, heads):
    covariance, grid = Interpolated(heads["interpolated"]), even_log_snr(LINEAR, 4, LINEAR.time(6.0))
    for eta in (0.0, 0.9):
        with pytest.raises(ValueError, match="eta=1"):
            generate(Ancestral(model, covariance, eta=eta), grid, (1, 4, 4), 2)
    with pytest.raises(ValueError, match="final='mean'"):
        generate(Ancestral(model, covariance, final="draw"), grid, (1, 4, 4), 2)
    with pytest.raises(ValueError, match="use LearnedDiagonal"):
        Interpolated(heads["npr"])
    with pytest.raises(ValueError, match="use Interpolated"):
        LearnedDiagonal(heads["interpolated"])


@pytest.mark.parametrize("kind", list(HEADS))
def test_samples_and_bounds_do_not_depend_on_the_batch(model, heads, kind):
    covariance, grid = covariance_of(heads[kind]), even_log_snr(LINEAR, 5, LINEAR.time(6.0))
    for eta in (1.0,) if kind == "interpolated" else (0.0, 0.5, 1.0):
        sampler = Ancestral(model, covariance, eta=eta)
        one, other = (generate(sampler, grid, (1, 4, 4), 7, batch_size=size) for size in (7, 2))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    x_0 = noise(7, 1, 4, 4).float().clamp(-1, 1)
    chain = Chain(grid, covariance, 0.1)
    one, other = (bits_per_dim(model, x_0, chain, batch_size=size, progress=False).per_example for size in (7, 2))
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_true_variances_cost_least_in_a_chain(clusters, learned):
    """Paired over 1000 examples, learned variances beat the best handcrafted one by more than 5 standard errors."""
    model, x_0 = clusters.score_model(LINEAR), clusters.sample(1000, seed=11)
    grid = even_log_snr(LINEAR, 5, LINEAR.time(4.0))
    rules = {"npr": LearnedDiagonal(learned["npr"]), "beta": Beta(), "beta_tilde": BetaTilde()}
    found = bits_per_dim(model, x_0, {name: Chain(grid, rule, 0.1) for name, rule in rules.items()}, progress=False)
    for other in ("beta", "beta_tilde"):
        saved = found[other].per_example - found["npr"].per_example
        assert saved.mean() > 5 * saved.std() / math.sqrt(len(saved))


# --- calibration --------------------------------------------------------------------------------------------------------


def test_calibration_finds_a_known_shift(clusters, learned):
    """A head spoilt by a shift of its logits by -1.5 gets 1.5 more than the head itself, and costs the same as it then."""
    model, own, spoilt = clusters.score_model(LINEAR), copy.deepcopy(learned["npr"]), copy.deepcopy(learned["npr"])
    recipe = Recipe(log_snr=(-4.0, 4.0))
    spoilt.net.level.bias.data += 1.5  # y is subtracted
    draws = list(held_out_draws(model, clusters.sample(1000, seed=21), recipe, draws=4, batch_size=1000))
    scores = {name: calibrate(head, draws, recipe, LINEAR, knots=5) for name, head in {"own": own, "spoilt": spoilt}.items()}
    assert scores["spoilt"][1] < scores["spoilt"][0] - 0.01
    assert scores["own"][1] <= scores["own"][0]
    assert scores["spoilt"][1] == pytest.approx(scores["own"][1], abs=1e-5)
    torch.testing.assert_close(spoilt.shift, own.shift + 1.5, rtol=0, atol=0.05)
    assert own.shift.abs().max() < 0.5


def test_hats_interpolate_linearly():
    knots, values = torch.tensor([-1.0, 0.0, 2.0]).double(), torch.tensor([3.0, 1.0, 5.0]).double()
    lam = torch.tensor([-7.0, -1.0, -0.5, 1.0, 2.0, 9.0]).double()
    np.testing.assert_allclose(hats(lam, knots) @ values, np.interp(lam, knots, values))
    np.testing.assert_allclose(hats(lam, knots[:1]) @ values[:1], 3.0)


def test_transition_bits_estimate_the_measured_bound(clusters, learned):
    """Against the measured transitions of the same chain, within ten of its standard errors (the estimate's are alike)."""
    model, data = clusters.score_model(LINEAR), clusters.sample(3000, seed=31)
    grid = even_log_snr(LINEAR, 8, LINEAR.time(4.0))
    top = LINEAR.log_snr(1.0)
    recipe = Recipe(log_snr=(top, 4.0))
    draws = list(held_out_draws(model, data, recipe, draws=2, batch_size=1000))
    covariance = LearnedDiagonal(learned["ocm"])
    found = transition_bits({"ocm": covariance}, draws, LINEAR, (top, 4.0), 8)["ocm"]
    bound = bits_per_dim(model, data, Chain(grid, covariance, 0.1), progress=False)
    part = bound.parts["transitions"]
    assert part.stderr < 0.02
    assert found == pytest.approx(part.value, abs=10 * part.stderr)


# --- wrappers and files -------------------------------------------------------------------------------------------------


def test_features_are_those_of_this_call_and_thread():
    net = Tiny().eval()
    wrapped = WithFeatures(net)
    x, labels = noise(3, 1, 4, 4).float(), torch.zeros(3)
    out = wrapped(x, labels)
    torch.testing.assert_close(out.extra, torch.tanh(net.conv_in(x)))
    torch.testing.assert_close(out.sample, net.conv_out(out.extra))
    net(2 * x, labels)  # without the wrapper: nothing is kept
    assert not wrapped._captured
    found = {}

    def work(i):
        for _ in range(30):
            inputs = torch.full((2, 1, 4, 4), float(i))
            same = torch.equal(wrapped(inputs, labels[:2]).extra, torch.tanh(net.conv_in(inputs)))
            found[i] = found.get(i, True) and same

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)
    twin = copy.deepcopy(wrapped)
    torch.testing.assert_close(twin(x, labels).extra, out.extra)


def test_wrappers_keep_the_identity_and_say_what_is_wrong():
    net = Tiny().eval()
    assert digest_of(net) == digest_of(WithFeatures(net)) == digest_of(LearnedRange(net)) != digest_of(Tiny(seed=1))
    with pytest.raises(ValueError, match="no layer 'last'"):
        WithFeatures(net, "last")
    with pytest.raises(RuntimeError, match="not twice its channels"):
        image_model(LearnedRange(net))(torch.zeros(1, 1, 4, 4), 0.5)
    unused = Tiny().eval()
    unused.spare = nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="did not call its layer 'spare'"):
        WithFeatures(unused, "spare")(torch.zeros(1, 1, 4, 4), torch.zeros(1))


def test_predictions_carry_what_else_the_network_returned(model):
    prediction = model(noise(2, 1, 4, 4).float(), 0.5)
    assert prediction.kind == "x_0"  # clamped
    assert prediction.extra.shape == (2, 6, 4, 4)
    assert prediction.clamp(-0.1, 0.1).extra is prediction.extra
    assert image_model(Tiny().eval())(noise(2, 1, 4, 4).float(), 0.5).extra is None


def test_missing_features_are_an_error(model, heads):
    plain = image_model(model.net.wrapped, clamp=model.clamp)
    prediction = plain(torch.zeros(1, 1, 4, 4), 0.5)
    with pytest.raises(ValueError, match=r"gives none.*WithFeatures"):
        heads["npr"].residual(prediction)
    with pytest.raises(ValueError, match="LearnedRange"):
        Interpolated().range(prediction)
    anywhere = rough_head("npr", model, position=False)
    assert anywhere.residual(model(torch.zeros(1, 1, 5, 7), 0.5)).shape == (1, 1, 5, 7)
    with pytest.raises(ValueError, match="for data of shape"):
        heads["npr"].residual(model(torch.zeros(1, 1, 5, 5), 0.5))


def test_files(model, heads, tmp_path):
    head = copy.deepcopy(heads["npr"])
    head.set_calibration(torch.tensor([-1.0, 1.0]), torch.tensor([0.2, -0.3]))
    head.save(tmp_path, {"note": 1})
    prediction = states(model, LINEAR.level_at(0.5))[1]
    again = load_head(tmp_path, "npr", model)
    with torch.no_grad():
        torch.testing.assert_close(again.residual(prediction), head.residual(prediction), rtol=0, atol=0)
    assert again.fingerprint() == head.fingerprint() != heads["npr"].fingerprint()
    load_head(tmp_path, "npr", image_model(model.net, VE(), model.clamp))  # serves any schedule
    with pytest.raises(FileNotFoundError, match="train_head"):
        load_head(tmp_path, "sn", model)
    with pytest.raises(ValueError, match="choose one of npr"):
        load_head(tmp_path, "other", model)
    with pytest.raises(ValueError, match="network: file has"):
        load_head(tmp_path, "npr", image_model(WithFeatures(Tiny(seed=5).eval()), clamp=model.clamp))
    with pytest.raises(ValueError, match="clamp: file has"):
        load_head(tmp_path, "npr", image_model(model.net))
    weights, config = (tmp_path / f"npr.{suffix}" for suffix in ("safetensors", "json"))
    whole, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"npr\.safetensors is truncated"):
        load_head(tmp_path, "npr", model)
    weights.write_bytes(whole)
    config.write_text(text[:-20])
    with pytest.raises(ValueError, match=r"npr\.json is truncated"):
        load_head(tmp_path, "npr", model)
    config.write_text(json.dumps(json.loads(text) | {"weights": "0"}))
    with pytest.raises(ValueError, match="changed by hand"):
        load_head(tmp_path, "npr", model)
    config.write_text(text)
    write_json(config, "npr", read_json(config, "npr") | {"weights": "0"})
    with pytest.raises(ValueError, match="do not belong together"):
        load_head(tmp_path, "npr", model)


class Deeper(Tiny):
    """Whose layers have inputs of the same shape."""

    def __init__(self):
        super().__init__()
        self.middle = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x, labels):
        return self.conv_out(self.middle(torch.tanh(self.conv_in(x) + 0.1 * labels[:, None, None, None])))


def test_a_head_knows_the_layer_it_reads(tmp_path):
    net = Deeper().eval()
    last, before = (image_model(WithFeatures(net, layer)) for layer in ("conv_out", "middle"))
    assert last.fingerprint() == before.fingerprint()  # their answers are the same
    rough_head("npr", before).save(tmp_path)
    load_head(tmp_path, "npr", before)
    with pytest.raises(ValueError, match="features: file has"):
        load_head(tmp_path, "npr", last)
    new_head("npr", before, torch.zeros(1, 1, 4, 4), Recipe()).save(tmp_path)  # reads none
    load_head(tmp_path, "npr", last)


def test_torchscript_shows_no_features():
    with pytest.raises(ValueError, match="TorchScript"):
        WithFeatures(torch.jit.trace(Tiny().eval(), (torch.zeros(1, 1, 4, 4), torch.zeros(1))))


def test_recipes_are_checked(model):
    for wrong, message in (
        ({"loss": "huber"}, "loss must be"),
        ({"chain": "karras"}, "chain must be"),
        ({"steps": 0}, "steps must be a whole number from 1"),
        ({"step": (0.0, 1.0)}, "step must be 2 values, each a finite number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(**wrong)
    with pytest.raises(ValueError, match="unknown head"):
        new_head("other", model, torch.zeros(1, 1, 4, 4), Recipe())
    with pytest.raises(ValueError, match="held-out draws"):
        calibrate(rough_head("npr", model), [], Recipe(), LINEAR)


# --- the runner ---------------------------------------------------------------------------------------------------------


def small_config():
    config = mixture_config.get_config()
    config.data.split = (500, 200, 100)
    config.head.architecture, config.head.steps, config.head.batch_size = "separate", 6, 32
    config.head.hidden, config.head.held_out_draws, config.head.checkpoint_seconds = 8, 1, 1e9
    config.estimate.knots, config.estimate.batch_size = 12, 100
    config.estimate.min_draws = config.estimate.max_draws = 100
    config.estimate.train_knots = 0
    config.grid.points = 40
    return config


def tensors(workdir):
    return {path.name: path.read_bytes() for path in (workdir / "heads").iterdir()}


@pytest.mark.slow
def test_runner_trains_resumes_and_uses_heads(tmp_path, monkeypatch, capsys):
    config, whole, cut = small_config(), tmp_path / "whole", tmp_path / "cut"
    written = train_head.run(config, whole)
    assert all(path.exists() for path in written)
    assert "calibrated" in capsys.readouterr().out
    assert set(tensors(whole)) == {f"{kind}.{suffix}" for kind in HEADS for suffix in ("safetensors", "json")}
    advance = HeadTrainer.advance

    def interrupted(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return advance(self)

    config.head.checkpoint_seconds = 0.0  # save after every step
    monkeypatch.setattr(HeadTrainer, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_head.run(config, cut)
    assert not (cut / "heads").exists()
    monkeypatch.setattr(HeadTrainer, "advance", advance)
    train_head.run(config, cut)
    assert tensors(cut) == tensors(whole)

    config.sample.grids, config.sample.steps, config.sample.count = ("log_snr",), (3,), 4
    config.sample.variances = (*HEADS, "npr|uncalibrated")
    config.evaluate.variances, config.evaluate.grids = ("residual", *HEADS, "npr|uncalibrated"), ("log_snr",)
    config.evaluate.steps = config.evaluate.predicted_steps = (3,)
    config.evaluate.predicted_grids, config.evaluate.paper = (), False
    config.evaluate.methods, config.evaluate.agreement = ("predicted", "bound"), ("log_snr", "residual")
    experiment = Experiment(config, whole)
    sampling.run(experiment)
    evaluate.run(experiment)
    report = json.loads((whole / "report.json").read_text())
    cells = report["bits_per_dim"]["cells"]
    assert all("measured" in cells[f"log_snr/{kind}/3"] for kind in HEADS)
    assert cells["log_snr/npr/3"]["measured"]["total"] != cells["log_snr/npr|uncalibrated/3"]["measured"]["total"]

    for grid in ("dp", "even_tuned"):
        with pytest.raises(ValueError, match="no curve prices the covariance 'npr'"):
            experiment.study.grid(3, grid, "npr")

    config.head.hidden = 12
    with pytest.raises(ValueError, match="another training run"):
        train_head.run(config, whole)
    (whole / train_head.CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="delete it to train from the start"):
        train_head.run(config, whole)


def test_runner_names_what_is_wrong(tmp_path):
    config = small_config()
    config.head.architecture = "features"
    with pytest.raises(ValueError, match="architecture=separate"):
        train_head.run(config, tmp_path)
    config.head.architecture = "other"
    with pytest.raises(ValueError, match="choose one of features, separate"):
        train_head.run(config, tmp_path)
    config.head.kinds = ()
    with pytest.raises(ValueError, match="kinds is empty"):
        train_head.run(config, tmp_path)
    experiment = Experiment(config, tmp_path)
    with pytest.raises(FileNotFoundError, match="train_head"):
        experiment.study.covariance("npr")
    with pytest.raises(ValueError, match=r"a head is 'npr'"):
        experiment.study.covariance("npr|other")


@pytest.mark.slow
def test_shipped_heads_of_the_digits(tmp_path):
    """On 60 held-out digits every shipped head beats both handcrafted variances at K = 10, paired, beyond 5 standard errors."""
    config = digits_vp.get_config()
    experiment = Experiment(config, tmp_path)
    grid = even_log_snr(experiment.schedule, 10, experiment.schedule.time(9.0))
    rules = {name: experiment.study.covariance(name) for name in (*HEADS, "beta", "beta_tilde")}
    chains = {name: Chain(grid, rule, 0.05) for name, rule in rules.items()}
    found = bits_per_dim(experiment.model, experiment.splits.test[:60], chains, experiment.splits.data_range, progress=False)
    for kind in HEADS:
        for other in ("beta", "beta_tilde"):
            saved = found[other].per_example - found[kind].per_example
            assert saved.mean() > 5 * saved.std(ddof=1) / math.sqrt(len(saved)), (kind, other)
    assert networks.head_directory(config, tmp_path, "npr").name == "digits_heads"
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "npr.json").write_text("{}")
    assert networks.head_directory(config, tmp_path, "npr") == tmp_path / "heads"
