"""Networks on conditions: views of a model for one batch, what a network is given, what is refused and how."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from score_sde_analytic.covariance import BetaTilde
from score_sde_analytic.data import Examples
from score_sde_analytic.errors import InputError, UserError
from score_sde_analytic.grids import even
from score_sde_analytic.guidance import ClassifierFree
from score_sde_analytic.models.conditions import Constant
from score_sde_analytic.models.free import LinearDenoiser
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.networks import LearnedRange, Output, WithFeatures
from score_sde_analytic.models.recalibrated import Recalibrated, Stack
from score_sde_analytic.models.times import ZeroBased
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.samplers import Ancestral, generate

VP = LinearVP()
MIXTURE = GaussianMixture([0.5, 0.3, 0.2], [[-0.8, 0.2], [0.9, 0.4], [0.1, -1.0]], 0.1)
MODEL = MIXTURE.conditional(VP)
LABELS = torch.tensor([0, 2, 1, 3])


def states(n=4, seed=0):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def own(x_t, t):
    """The conditional eps of every row by itself."""
    models = [MIXTURE.score_model(VP) if k == 3 else MIXTURE.component(int(k)).score_model(VP) for k in LABELS]
    return torch.cat([m(x[None], t).eps for m, x in zip(models, x_t, strict=True)])


@pytest.mark.parametrize(
    "ask",
    [
        lambda x, t: MODEL(x, t, component=LABELS),
        lambda x, t: MODEL.predict(x, VP.level(t), component=LABELS),
        lambda x, t: MODEL.given(component=LABELS)(x, t),
        lambda x, t: MODEL.given(component=1).given(component=LABELS.numpy())(x, t),
        lambda x, t: MODEL.for_batch({"component": LABELS, "another": LABELS})(x, t),
        lambda x, t: MODEL.given(component=LABELS.repeat(2)).rows(slice(4, 8))(x, t),
    ],
)
@pytest.mark.parametrize("t", [0.01, 0.4, 1.0])
def test_every_row_has_its_own_condition(ask, t):
    x_t = states()
    torch.testing.assert_close(ask(x_t, t).eps, own(x_t, t), rtol=0, atol=1e-12)


def test_a_view_is_the_model():
    """Same identity; what it costs and says is seen where its model, and where the view, is watched."""
    view, other = MODEL.given(component=LABELS), MODEL.given(component=LABELS.flip(0))
    assert view.fingerprint() == MODEL.fingerprint() == other.fingerprint()
    seen = []
    with MODEL.metered() as of_model, view.metered() as of_view, MODEL.watched(seen.append):
        said = [view(states(), 0.5), other(states(), 0.5), view.rows(slice(0, 1))(states(1), 0.5)]
    assert (of_model.calls, of_model.evaluations) == (3, 9)
    assert (of_view.calls, of_view.evaluations) == (2, 5)
    assert all(one is two for one, two in zip(seen, said, strict=True))
    assert torch.equal(seen[1].conditions.rows["component"], LABELS.flip(0))


def test_constants_are_for_any_batch_and_identify_the_model():
    one, two = MODEL.given(component=1), MODEL.given(component=2)
    torch.testing.assert_close(one(states(7), 0.3).eps, MIXTURE.component(1).score_model(VP)(states(7), 0.3).eps)
    prints = [model.fingerprint() for model in (MODEL, one, two)]
    assert all(a != b for a, b in itertools.combinations(prints, 2))
    assert one.fingerprint() == MODEL.given(component=torch.tensor(1)).fingerprint()
    assert one.for_batch({"component": LABELS}) is one  # the data do not undo what was said
    assert one.rows(slice(0, 2)) is one


class Attending(nn.Module):
    """Like a transformer with keyword conditions: tokens, a mask and a label; records what it is fed."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x, timestep, encoder_hidden_states, attention_mask=None, label=None):
        self.fed = {"states": encoder_hidden_states, "mask": attention_mask, "label": label}
        return x * self.weight + encoder_hidden_states.mean(dim=tuple(range(1, encoder_hidden_states.ndim)))[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conditions_take_the_network_s_precision(dtype):
    """Floating ones; labels and masks stay whole numbers. A constant has no axis of examples and gets one."""
    net = Attending(dtype)
    model = ScoreModel(net, VP).given(encoder_hidden_states=Constant(torch.ones(5, 3, dtype=torch.float64)))
    out = model(states().float(), 0.5, attention_mask=torch.ones(4, 5, dtype=torch.bool), label=LABELS).eps
    assert net.fed["states"].shape == (4, 5, 3)
    assert net.fed["states"].dtype == dtype
    assert net.fed["mask"].dtype == torch.bool
    assert net.fed["label"].dtype == torch.int64
    torch.testing.assert_close(out, (states().to(dtype) + 1.0).float())


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: MODEL(states(), 0.5), "needs the condition component: give it by the data, Examples.*model.given"),
        (lambda: MODEL(states(), 0.5, component=LABELS[:3]), "component has 3 rows for 4 examples"),
        (lambda: MODEL(states(), 0.5, component=torch.tensor([1])), "component has 1 rows for 4 examples"),
        (lambda: MODEL.given(label=LABELS), "takes no condition 'label' but component"),
        (lambda: MIXTURE.score_model(VP).given(label=LABELS), "takes no condition 'label' but none"),
        (lambda: MODEL.given(component=["a", "b"]), "component is list; give a tensor of a row per example"),
        (lambda: ScoreModel(lambda x, t: x, VP)(states(), 0.5, y=LABELS), "takes no such condition"),
        (lambda: ScoreModel(Attending(torch.float64), VP)(states(), 0.5), "needs a condition: .*encoder_hidden_states"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(ask, message):
    with pytest.raises((ValueError, RuntimeError), match=message) as caught:
        ask()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "ask",
    [
        lambda fixed: fixed(states(), 0.5, component=LABELS),
        lambda fixed: fixed.predict(states(), VP.level(0.5), component=1),
        lambda fixed: generate(chain(fixed), even(2, 0.1), (2,), 4, conditions={"component": LABELS}),
        lambda fixed: generate(chain(fixed), even(2, 0.1), (2,), 4, conditions=lambda of: {"component": torch.tensor(of)}),
    ],
)
def test_what_is_fixed_for_all_is_not_overridden(ask):
    with pytest.raises(InputError, match="component is fixed for all examples by given"):
        ask(MODEL.given(component=1))


def test_what_is_fixed_may_be_fixed_anew_and_data_leave_it():
    x_t, wanted = states(), MODEL(states(), 0.5, component=2).eps
    fixed = MODEL.given(component=1).given(component=2)
    assert torch.equal(fixed(x_t, 0.5).eps, wanted)
    assert torch.equal(fixed.for_batch({"component": LABELS})(x_t, 0.5).eps, wanted)


def chain(model):
    return Ancestral(model, BetaTilde())


class Looking(nn.Module):
    """A network that looks its classes up in a table."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 2)

    def forward(self, x, t, label):
        return x + self.table(label)


class OneHot(nn.Module):
    """A network that counts its classes."""

    def forward(self, x, t, label):
        return x + nn.functional.one_hot(label, 4).to(x)[:, :2]


@pytest.mark.parametrize(
    ("net", "label", "message"),
    [
        (Looking(), torch.tensor([0.0, 1.0, 2.0, 3.0]), "or it looks label up: give whole numbers, as torch.long"),
        (Looking(), torch.tensor([0, 1, 2, 4]), r"classes that it has; .*label torch.int64 \(4,\), 0 to 4"),
        (OneHot(), torch.tensor([0, 1, 2, 4]), "no such class: .*label torch.int64"),
        (OneHot(), torch.tensor([0, -1, 2, 3]), "no such class: .*label torch.int64"),
        (OneHot(), torch.tensor([0.0, 1.0, 2.0, 3.0]), "classes as whole numbers: .*label torch.float32"),
    ],
)
@pytest.mark.filterwarnings("ignore:the network looks its time up")
def test_classes_of_a_wrong_kind_are_named(net, label, message):
    for times in (ZeroBased(1000), ZeroBased(1000, integer=True)):
        model = ScoreModel(net, VP, times=times)
        with pytest.raises(UserError, match=message):
            model(states().float(), 0.5, label=label)
        if isinstance(net, Looking):  # and nothing is kept of what was tried
            assert model(states().float(), 0.5, label=LABELS).eps.isfinite().all()


@pytest.mark.parametrize(
    "net",
    [
        functools.partial(lambda x, t, y: x, y=LABELS),
        functools.partial(functools.partial(lambda x, t, y, z: x, y=LABELS.numpy()), z=1),
        functools.partial(lambda y, x, t: x, LABELS),
    ],
)
def test_rows_that_a_partial_binds_are_refused(net):
    """They met the rows of other examples without a word: examples are permuted, and batches cut."""
    with pytest.raises(ValueError, match=r"functools.partial binds the 4 rows of .* whose examples they do not follow"):
        ScoreModel(net, VP)
    ScoreModel(functools.partial(lambda x, t, y: x, y=torch.tensor([3])), VP, fingerprint="one for all")


def test_a_class_conditional_unet():
    """diffusers' UNet2DModel: a label per example, another prediction; without one, one line that says what to do."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    settings = {"sample_size": 8, "in_channels": 1, "out_channels": 2, "block_out_channels": (8,), "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
    net = diffusers.UNet2DModel(**settings, **blocks, num_class_embeds=10).eval()
    x_t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = ScoreModel(LearnedRange(net), VP, times=ZeroBased(1000))
    with torch.no_grad():
        one, other = (model(x_t, 0.5, class_labels=torch.tensor(labels)).eps for labels in ([1, 2, 3], [1, 2, 4]))
        assert torch.equal(one[:2], other[:2])
        assert not torch.equal(one[2], other[2])
        with pytest.raises(RuntimeError, match=r"needs classes: give it by the data, Examples\(data, conditions="):
            model(x_t, 0.5)
        with pytest.raises(RuntimeError, match=r"classes that it has; .* class_labels torch.int64 .3,., 1 to 10. It said"):
            model(x_t, 0.5, class_labels=torch.tensor([1, 2, 10]))
        with pytest.raises(RuntimeError, match=r"conditions=\(\)"):
            plain = diffusers.UNet2DModel(**settings | {"out_channels": 1}, **blocks).eval()
            ScoreModel(plain, VP, times=ZeroBased(1000))(x_t, 0.5, class_labels=torch.tensor([1, 2, 3]))


class Tiny(nn.Module):
    """Twice the channels, told a class."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Conv2d(1, 4, 3, padding=1)
        self.conv_out = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x, t, class_labels):
        return self.conv_out(torch.tanh(self.inside(x)) * class_labels[:, None, None, None])


class Conditioned(nn.Module):
    """A user's own wrapper with the keyword under another name."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, label):
        return self.net(x, t, class_labels=label)


@pytest.mark.parametrize("wrap", [lambda n: WithFeatures(LearnedRange(n)), lambda n: LearnedRange(WithFeatures(n))])
def test_learned_variance_features_and_conditions_in_any_order(wrap):
    torch.manual_seed(0)
    net = Tiny()
    x_t = torch.randn(3, 1, 4, 4)
    labels = torch.tensor([1.0, 2.0, -1.0])
    prediction = ScoreModel(wrap(net), VP)(x_t, 0.5, class_labels=labels)
    features = torch.tanh(net.inside(x_t)) * labels[:, None, None, None]
    mean, v = net.conv_out(features).chunk(2, 1)
    for value, expected in ((prediction.eps, mean), (prediction.learned_range, v), (prediction.extra, features)):
        torch.testing.assert_close(value, expected)
    renamed = ScoreModel(LearnedRange(Conditioned(net)), VP, conditions=("label",))(x_t, 0.5, label=labels)
    torch.testing.assert_close(renamed.learned_range, v)
    assert prediction.clamp(-0.1, 0.1).learned_range is prediction.learned_range


def test_a_stacked_model_passes_conditions_on():
    free = LinearDenoiser.of(MIXTURE.sample(500))
    stacked = Recalibrated(MODEL, free, Stack(np.zeros(1), np.array([[[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]])))
    level = VP.level(0.4)
    expected = 0.5 * (MODEL.predict(states(), level, component=LABELS).x_0 + free.x_0(states(), level))
    with stacked.metered() as cost, MODEL.metered() as inside:
        torch.testing.assert_close(stacked.predict(states(), level, component=LABELS).x_0, expected)
    assert cost == inside
    assert cost.evaluations == 4
    assert stacked.given(component=1).fingerprint() != stacked.fingerprint()


def test_outputs_say_nothing_unless_they_do():
    assert Output(torch.zeros(1)).extra is Output(torch.zeros(1)).learned_range is None


def test_what_is_no_mapping_is_refused_in_one_line():
    for wrong in (torch.zeros(3), 2, None):
        with pytest.raises(InputError, match="are a mapping"):
            ClassifierFree(MODEL, 2.0, wrong)
    with pytest.raises(InputError, match="are a mapping"):
        Examples(torch.zeros(3, 2), conditions=torch.zeros(3))
    assert ScoreModel(MODEL.net, VP, "eps", fingerprint="x", conditions="label").takes == ("label",)
