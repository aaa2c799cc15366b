"""Score models: every wiring of a network gives the same prediction; labels, clamp, dtypes, errors, fingerprints."""

import copy
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from schedules import SCHEDULES
from score_sde_analytic.errors import InputError
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.times import Continuous, DescendingIndex, Interpolant, LogSNR, OneBased, Sigma, ZeroBased
from score_sde_analytic.process.schedule import VE, LinearVP, Tabulated

MEAN, VARIANCE = 0.4, 0.25
SIGMA_DATA = 0.5
T = [1e-4, 0.2, 0.75, 1.0]


def views(x_t, level):
    """Exact eps, x_0, v, score for N(MEAN, VARIANCE) data, for floats or (n, 1) scalars."""
    alpha, sigma = level.alpha, level.sigma
    score = -(x_t - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)
    eps, x_0 = -sigma * score, (x_t + sigma**2 * score) / alpha
    return {"eps": eps, "x_0": x_0, "v": alpha * eps - sigma * x_0, "score": score, "velocity": eps - x_0}


def raw(x_t, level):
    """EDM's F of D = c_skip x + c_out F in the variance-exploding x = x_t / alpha (Karras et al., 2022, table 1)."""
    s, x = level.sigma / level.alpha, x_t / level.alpha
    c_skip, c_out = SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2), s * SIGMA_DATA / (s**2 + SIGMA_DATA**2) ** 0.5
    return (views(x_t, level)["x_0"] - c_skip * x) / c_out


def network(predicts, coordinates, schedule):
    """A network that is exact in its own coordinates, fed the continuous time."""

    def net(x, labels):
        t = labels.double()
        alpha, sigma = (f(t).reshape(-1, *(1,) * (x.ndim - 1)) for f in (schedule.alpha, schedule.sigma))
        norm = {
            "schedule": torch.ones_like(alpha),
            "ve": alpha,
            "vp": (alpha**2 + sigma**2).sqrt(),
            "interpolant": alpha + sigma,
            "edm": (sigma**2 + SIGMA_DATA**2 * alpha**2).sqrt(),
        }[coordinates]
        level = SimpleNamespace(alpha=alpha / norm, sigma=sigma / norm)
        return (raw(x.double(), level) if predicts == "edm" else views(x.double(), level)[predicts]).to(x)

    return net


@pytest.mark.parametrize("coordinates", ["schedule", "vp", "ve", "interpolant", "edm"])
@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "score", "velocity", "edm"])
@pytest.mark.parametrize("t", T)
def test_all_wirings_agree(schedule, predicts, coordinates, t):
    model = ScoreModel(network(predicts, coordinates, schedule), schedule, predicts, coordinates=coordinates)
    level = schedule.level(t)
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4) * (level.alpha + level.sigma)
    prediction, exact = model(x, t), views(x, level)
    amplification = max(1.0, level.sigma / level.alpha, level.alpha / level.sigma)
    for name, value in exact.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(
            getattr(prediction, name), value, rtol=0, atol=1e-13 * scale * amplification**2, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_raw_networks_are_preconditioned_as_those_of_diffusers(sigma_data):
    """c_in, c_noise, c_skip and c_out of EDM, on an input in variance-exploding coordinates."""
    diffusers = pytest.importorskip("diffusers")
    scheduler, fed = diffusers.EDMEulerScheduler(sigma_data=sigma_data), []

    def net(x, noise):
        fed.append((x, noise))
        return torch.sin(2.0 * x) + noise.reshape(-1, 1)

    model = ScoreModel(net, VE(0.002, 80.0), "edm", LogSNR(-1 / 8), "edm", sigma_data=sigma_data, fingerprint="F")
    for log_sigma in (-5.0, 0.0, 3.0):
        sigma = torch.tensor(math.exp(log_sigma))
        x = torch.randn(3, 4) * (1 + sigma)
        prediction = model.predict(x, model.schedule.level_at(-2.0 * log_sigma))
        scaled = scheduler.precondition_inputs(x, sigma)
        torch.testing.assert_close(fed[-1][0], scaled)
        torch.testing.assert_close(fed[-1][1], scheduler.precondition_noise(sigma).expand(3), rtol=1e-5, atol=1e-6)
        expected = scheduler.precondition_outputs(x, net(scaled, scheduler.precondition_noise(sigma).expand(3)), sigma)
        torch.testing.assert_close(prediction.x_0, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coordinates", ["schedule", "vp", "ve", "interpolant", "edm"])
@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "score", "velocity", "edm"])
@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 2, 2)])
def test_per_sample_times_equal_scalar_times(schedule, predicts, coordinates, shape):
    model = ScoreModel(network(predicts, coordinates, schedule), schedule, predicts, coordinates=coordinates)
    x, t = torch.randn(shape, dtype=torch.float64), torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    batch = model(x, t)
    for i in range(3):
        row = model(x[i : i + 1], float(t[i]))
        scalar = model(x[i : i + 1], t[i])
        for name in ("eps", "x_0", "v", "score", "velocity"):
            torch.testing.assert_close(getattr(batch, name)[i : i + 1], getattr(row, name), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(getattr(scalar, name), getattr(row, name), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["eps", "x_0"])
def test_clamp_moves_every_view(schedule, kind):
    model = ScoreModel(network(kind, "schedule", schedule), schedule, kind)
    x = torch.linspace(-40, 40, 9, dtype=torch.float64)[:, None]
    clamped = model(x, 0.5).clamp(-0.1, 0.3)
    wired = ScoreModel(network(kind, "schedule", schedule), schedule, kind, clamp=(-0.1, 0.3))(x, 0.5)
    level = schedule.level(0.5)
    assert clamped.x_0.min() == -0.1
    assert clamped.x_0.max() == 0.3
    torch.testing.assert_close(level.alpha * clamped.x_0 + level.sigma * clamped.eps, x)
    torch.testing.assert_close(clamped.v, level.alpha * clamped.eps - level.sigma * clamped.x_0)
    torch.testing.assert_close(clamped.score, -clamped.eps / level.sigma)
    torch.testing.assert_close(wired.eps, clamped.eps)


@pytest.mark.parametrize("kind", ["eps", "x_0"])
@pytest.mark.parametrize("t", [0.5, torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)])
def test_combinations_of_state_and_prediction(schedule, kind, t):
    prediction = ScoreModel(network(kind, "vp", schedule), schedule, kind, coordinates="vp")(torch.randn(3, 2).double(), t)
    expected = 0.3 * prediction.x_t - 1.2 * prediction.x_0
    torch.testing.assert_close(prediction.combine(0.3, -1.2), expected, rtol=1e-8, atol=1e-8)


TABLE = Tabulated.linear(1000)
LABELS = [
    (Continuous(), 0.25, 0.25),
    (Continuous(999.0), 0.25, 249.75),
    (ZeroBased(1000), 0.25, 249.0),
    (ZeroBased(1000), 0.001, 0.0),
    (ZeroBased(1000), 0.0004, 0.0),
    (ZeroBased(1000), 0.2505, 249.5),
    (ZeroBased(1000, scale=1000.0), 1.0, 999.0),
    (ZeroBased(4000, scale=1000.0), 0.5, 499.75),
    (ZeroBased(1000, integer=True), 0.2504, 249),
    (OneBased(1000), 0.25, 250.0),
    (OneBased(1000), 0.0004, 1.0),
    (OneBased(100, scale=1.0), 1.0, 1.0),
    (OneBased(1000, integer=True), 1.0, 1000),
    (OneBased(100).rounded(), 0.254, 25),
    (DescendingIndex(1000), 0.25, 749),
    (DescendingIndex(1000), 1.0, 0),
    (DescendingIndex(1000), 1e-9, 999),
    (Interpolant(), 0.25, TABLE.sigma(0.25) / (TABLE.sigma(0.25) + TABLE.alpha(0.25))),
    (Interpolant(1000.0, from_noise=True), 0.25, 1000 * TABLE.alpha(0.25) / (TABLE.sigma(0.25) + TABLE.alpha(0.25))),
    (Sigma(), 0.25, TABLE.sigma(0.25) / TABLE.alpha(0.25)),
    (LogSNR(), 0.25, TABLE.log_snr(0.25)),
    (LogSNR(scale=-0.125), 0.25, math.log(TABLE.sigma(0.25) / TABLE.alpha(0.25)) / 4),
    (LogSNR(scale=-50.0, shift=-10.0), 0.25, 50 * (10 - TABLE.log_snr(0.25))),
    (LogSNR(lo=-1.0, hi=1.0), 1.0, -1.0),
    (LogSNR(lo=-1.0, hi=1.0, shift=2.0), 0.01, 3.0),
]


@pytest.mark.parametrize(("times", "t", "expected"), LABELS)
def test_labels(times, t, expected):
    seen = []

    def net(x, labels):
        seen.append(labels)
        return x

    model = ScoreModel(net, TABLE, times=times)
    model(torch.zeros(2, 3), t)
    model(torch.zeros(2, 3), torch.tensor([t, t], dtype=torch.float64))
    for labels in seen:
        assert labels.shape == (2,)
        whole = getattr(times, "integer", isinstance(times, DescendingIndex))
        assert labels.dtype == (torch.long if whole else torch.float32)
        assert labels.tolist() == pytest.approx([expected] * 2, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "score", "velocity", "edm"])
@pytest.mark.parametrize("t", [0.4, torch.tensor([0.4, 0.7])])
def test_dtype_of_the_state_is_kept(schedule, dtype, predicts, t):
    """Half precision in, the same out, at its own accuracy; labels never below float32."""
    labels_seen = []
    exact = network(predicts, "vp", schedule)

    def net(x, labels):
        labels_seen.append(labels.dtype)
        return exact(x, labels)

    x = torch.tensor([[0.5, -0.3], [0.1, 0.9]], dtype=dtype) * (20 if schedule is SCHEDULES["ve"] else 1)
    prediction = ScoreModel(net, schedule, predicts, coordinates="vp")(x, t)
    reference = ScoreModel(exact, schedule, predicts, coordinates="vp")(x.double(), t)
    for name in ("eps", "x_0", "v", "score", "velocity"):
        value, true = getattr(prediction, name), getattr(reference, name)
        assert value.dtype == dtype
        assert (value.double() - true).abs().max() < 40 * torch.finfo(dtype).eps * max(1.0, float(x.abs().max()))
    assert labels_seen == [torch.float64 if dtype == torch.float64 else torch.float32]


def embedding(steps: int) -> nn.Module:
    """A network that looks its time up in a table."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(steps, 2)

        def forward(self, x, labels):
            return x + self.table(labels)

    return Net()


def test_a_network_with_a_table_of_times_is_fed_whole_indices():
    x, t = torch.randn(3, 2), torch.tensor([0.1004, 0.5, 1.0], dtype=torch.float64)
    net = embedding(1000)
    expected = ScoreModel(net, LinearVP(), times=ZeroBased(1000, integer=True))(x, t).eps
    model = ScoreModel(net, LinearVP(), times=ZeroBased(1000))
    before = model.fingerprint()
    with pytest.warns(UserWarning, match="whole indices") as told:
        found = model(x, t).eps
    assert torch.equal(found, expected)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        with model.metered() as cost:
            assert torch.equal(copy.copy(model)(x, t).eps, expected)
            assert torch.equal(model(x, t).eps, expected)
    assert cost.calls == 1
    assert model.fingerprint() == before


@pytest.mark.parametrize(("times", "match"), [(Continuous(), "times=ZeroBased"), (ZeroBased(2000), "no such index")])
def test_times_that_are_no_indices_of_the_table_are_named(times, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match=match):
            ScoreModel(embedding(1000), LinearVP(), times=times)(torch.zeros(1, 2), 0.9)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_a_network_in_half_precision_leaves_the_state_alone(weights):
    torch.manual_seed(0)
    net, seen = nn.Linear(4, 4).to(weights), []
    net.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    x = torch.randn(3, 4)
    prediction = ScoreModel(lambda x, labels: net(x), LinearVP(), fingerprint="bare", dtype=weights)(x, 0.5)
    module = nn.Sequential(net)
    module.forward = lambda x, labels: net(x)
    wired = ScoreModel(module, LinearVP(), dtype=torch.bfloat16)(x, 0.5)
    assert torch.equal(wired.eps, net.bfloat16()(x.bfloat16()).float())
    assert seen[1] == torch.bfloat16
    for made in (prediction, wired):
        assert made.x_t is x
        assert made.x_0.dtype == torch.float32
        torch.testing.assert_close(made.level.diffuse(made.x_0, made.eps), x)


def test_the_precision_of_a_network_is_part_of_its_identity():
    net = linear(0)
    assert ScoreModel(net, LinearVP(), dtype=torch.bfloat16).fingerprint() != ScoreModel(net, LinearVP()).fingerprint()
    with pytest.raises(ValueError, match="by themselves"):
        ScoreModel(linear(0).double(), LinearVP(), dtype=torch.bfloat16)


def test_objects_with_a_sample_are_read():
    model = ScoreModel(lambda x, t: SimpleNamespace(sample=3.0 * x), LinearVP())
    assert model(torch.ones(2, 1), 0.5).eps.tolist() == [[3.0], [3.0]]


def test_a_network_in_training_mode_is_noticed():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with pytest.warns(UserWarning, match=r"call net\.eval"):
        ScoreModel(net, LinearVP())
    ScoreModel(net.eval(), LinearVP())


@pytest.mark.parametrize("kind", ["eps", "x_0"])
def test_combine_is_a_linear_combination(kind):
    x, value = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    for level in (LinearVP().level(0.3), LinearVP().level(torch.tensor([0.1, 0.5, 0.9]))):
        prediction = Prediction(x, level, value, kind)
        torch.testing.assert_close(prediction.combine(0.3, 1.7), 0.3 * x + 1.7 * prediction.x_0)


def test_calls_are_counted():
    model = ScoreModel(lambda x, t: x, LinearVP())
    with model.metered() as cost:
        model(torch.zeros(5, 1), 0.5)
        model(torch.zeros(2, 1), torch.tensor([0.5, 0.2]))
    assert (cost.calls, cost.evaluations) == (2, 7)


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (lambda x, t: x[:, :1], "shape"),
        (lambda x, t: torch.cat([x, x], 1), "variance must be wrapped"),
        (lambda x, t: x * math.nan, "NaN"),
        (lambda x, t: torch.where(x == 0, math.inf, x), "inf"),
        (lambda x, t: x.numpy(), "not a tensor"),
        (lambda x, t: None, "NoneType"),
    ],
)
def test_bad_network_outputs_are_named(net, match):
    with pytest.raises(RuntimeError, match=match):
        ScoreModel(net, LinearVP())(torch.zeros(2, 3), 0.5)


def test_large_but_finite_outputs_pass():
    out = torch.full((1, 2), 3e38)
    assert ScoreModel(lambda x, t: out, LinearVP())(torch.zeros(1, 2), 0.5).eps is not None


@pytest.mark.parametrize("t", [0.0, torch.tensor(0.0), torch.tensor([0.5, 0.0])])
def test_the_data_are_not_predicted(t):
    with pytest.raises(ValueError, match="data"):
        ScoreModel(lambda x, t: x, LinearVP())(torch.zeros(2, 3), t)


@pytest.mark.parametrize("t", [1.5, -0.1, math.nan, torch.tensor([0.1, 1.5])])
def test_times_outside_are_refused(t):
    with pytest.raises(ValueError, match=r"outside|finite"):
        ScoreModel(lambda x, t: x, LinearVP())(torch.zeros(2, 3), t)


@pytest.mark.parametrize("coordinates", ["ve", "vp", "schedule"])
def test_wrong_number_of_times_is_refused(coordinates):
    with pytest.raises(ValueError, match="batch of 2"):
        ScoreModel(lambda x, t: x, LinearVP(), coordinates=coordinates)(torch.zeros(2, 3), torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"predicts": "noise"}, "predicts"),
        ({"coordinates": "polar"}, "coordinates"),
        ({"sigma_data": 0.0}, "sigma_data"),
        ({"dtype": torch.int8}, "dtype"),
        ({"clamp": (1.0, -1.0)}, "lo < hi"),
        ({"clamp": (math.nan, 1.0)}, "finite"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        ScoreModel(lambda x, t: x, LinearVP(), **options)


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


def test_fingerprint_identifies_network_and_wiring():
    net = linear(0)
    models = [
        ScoreModel(net, LinearVP()),
        ScoreModel(linear(1), LinearVP()),
        ScoreModel(nn.Linear(2, 2).bfloat16(), LinearVP()),
        ScoreModel(net, LinearVP(beta_max=19.0)),
        ScoreModel(net, LinearVP(), "v"),
        ScoreModel(net, LinearVP(), times=OneBased(1000)),
        ScoreModel(net, LinearVP(), times=ZeroBased(1000)),
        ScoreModel(net, LinearVP(), times=ZeroBased(1000, integer=True)),
        ScoreModel(net, LinearVP(), coordinates="vp"),
        ScoreModel(net, LinearVP(), clamp=(-1.0, 1.0)),
        ScoreModel(lambda x, t: x, LinearVP(), fingerprint="hand-made"),
    ]
    prints = [str(model.fingerprint()) for model in models]
    assert len(set(prints)) == len(models)
    assert ScoreModel(linear(0), LinearVP()).fingerprint() == models[0].fingerprint()


def test_fingerprint_follows_the_weights():
    model = ScoreModel(linear(0), LinearVP())
    before = model.fingerprint()
    with torch.no_grad():
        model.net.weight += 0.1
    assert model.fingerprint() != before


def test_fingerprint_needs_weights_or_a_name():
    with pytest.raises(ValueError, match="fingerprint"):
        ScoreModel(lambda x, t: x, LinearVP()).fingerprint()


def test_digest_sees_buffers_dtypes_and_layout():
    net = nn.BatchNorm1d(3)
    digests = {digest_of(net), digest_of(net.double())}
    net.running_mean += 1
    digests.add(digest_of(net))
    assert len(digests) == 3
    transposed, plain = nn.Linear(2, 2), nn.Linear(2, 2)
    transposed.weight.data = plain.weight.data.T.contiguous().T
    transposed.bias.data = plain.bias.data
    assert digest_of(transposed) == digest_of(plain)


@pytest.mark.parametrize("times", ["zero_based", 5, ZeroBased])
def test_what_is_no_time_label_is_refused(times):
    with pytest.raises(InputError, match="times must say what the network is fed for time, as ZeroBased"):
        ScoreModel(lambda x, t: x, LinearVP(), times=times)
