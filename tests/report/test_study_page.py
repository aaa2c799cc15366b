"""The page of a study: whole, self-contained HTML whose every number is the study's own, for vectors and images."""

import base64
import json
import math
import re
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import torch
from torch import nn

from html_pages import whole
from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.measure.estimation import Budget
from score_sde_analytic.metrics import difference
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import OneBased
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.report import study_page
from score_sde_analytic.report.results import with_error
from score_sde_analytic.study import Knots, Search, Settings, Structure, analyse, few
from score_sde_analytic.study.drawn import Samples, fewest, quality, sheets
from score_sde_analytic.study.race import Judge
from score_sde_analytic.study.report import BITS, Request, content, draw

SETTINGS = Settings(
    knots=Knots(count=12, most=12),
    structure=Structure(bins=(1,), shrinkage=(0.0,), smooth=(False,)),
    search=Search(points=80, log_snr_max=7.0, most=15),
)
BUDGET = Budget(max_draws=64, min_draws=64, batch_size=64, groups=8)
REQUEST = Request(steps=(3, 10), samples_at=(3, 5), count=6)
ASKED = {"steps": REQUEST.steps, "samples_at": REQUEST.samples_at, "count": REQUEST.count}


class Tiny(nn.Module):
    """A network that shrinks its input, more so in the first channel."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.3, 0.6, channels)[:, None, None])

    def forward(self, x, labels):
        return self.scale * x


def measured(model, data, **options):
    return analyse(model, data, **{"settings": SETTINGS, "budget": BUDGET, "progress": False} | options)


@pytest.fixture(scope="session")
def test_data(planar):
    return planar.sample(20, seed=2)


@pytest.fixture(scope="session")
def study(planar):
    """Of a 2-d mixture's exact score, with two covariances recorded."""
    return measured(planar.score_model(LinearVP()), planar.sample(64, seed=1), record=("pixel", "pca"))


@pytest.fixture(scope="session")
def folder(study, test_data, tmp_path_factory):
    target = tmp_path_factory.mktemp("study")
    study.report(target, test_data, **ASKED)
    return target


@pytest.fixture(scope="session")
def text(folder):
    return (folder / "report.html").read_text()


@pytest.fixture(scope="session")
def page(text):
    return whole(text)


@pytest.fixture(scope="session")
def told(folder):
    return json.loads((folder / "study_report.json").read_text())


def printed(estimate, spec=".3f"):
    return f"{estimate:{spec}}".replace("-", "−")


def images(channels, declared=None, **options):
    """A study of random images, with a network that is fed a table's index."""
    generator = torch.Generator().manual_seed(channels)
    data = torch.rand(64, channels, 4, 4, generator=generator) * 2.0 - 1.0
    model = ScoreModel(Tiny(channels), LinearVP(), times=OneBased(100))
    return measured(model, data, data_range=declared, **options), data


# --- vectors, with data and recorded covariances --------------------------------------------------------------------


def test_predicted_bits_are_those_of_the_study(study, page):
    for grid, name in (("dp", "residual"), ("dp", "auto"), ("even_tuned", "residual"), ("even_tuned", "beta_tilde")):
        for bits in study.bits(*REQUEST.steps, grid=grid, covariance=name).values():
            assert printed(bits.total) in page.text
    for steps in REQUEST.steps:
        assert f"K = {steps}" in page.text


def test_the_limit_is_that_of_infinitely_many_steps(study, page, told):
    limit = told["limit"]
    fitted = BITS * study.search.objective.continuous_limit + limit["prior"]["value"]
    assert abs(limit["total"]["value"] - fitted) < limit["total"]["stderr"]  # what was measured, against what was fitted to it
    said = f"{limit['total']['value']:.3f} ± {limit['total']['stderr']:.3f}".replace("-", "−")
    assert page.cells["infinitely many calls any of these covariances"][0][1] == said


def test_steps_within_an_excess_are_those_of_the_study(study, page):
    for excess in (0.1, 0.05, 0.02):
        assert f"within {excess:g} bits/dim {study.steps_for(excess)} network calls" in page.text


def test_measured_bits_stand_beside_predicted_ones(study, test_data, page):
    predicted, bounds = study.bits(*REQUEST.steps), study.measure(test_data, *REQUEST.steps, progress=False)
    for steps, bound in bounds.items():
        apart = bound.total.value - predicted[steps].total.value
        apart /= math.hypot(bound.total.stderr, predicted[steps].total.stderr)
        row = [printed(predicted[steps].total), printed(bound.total), printed(apart, "+.1f"), f"{bound.calls_per_example:g}"]
        assert [entry for _, entry in page.cells[f"K = {steps}"]] == row


def test_times_are_those_of_the_optimal_grids(study, told, page):
    for steps in REQUEST.steps:
        times = study.grid(steps).times[:-1]
        assert told["grids"][str(steps)]["times"] == list(times)
        assert told["grids"][str(steps)]["log_snr"] == pytest.approx(list(study.schedule.log_snr(np.array(times))))
        for t in times:
            assert f"{t:.5f}" in page.text
    assert "network is fed" not in page.text  # log-SNR, which is there already


def test_costs_of_the_calls_add_up(told):
    for steps in REQUEST.steps:
        bits = told["cells"][f"dp/residual/{steps}"]["predicted"]
        parts = bits["prior"]["value"] + sum(bits["per_step"]) + bits["reconstruction"]["value"]
        assert parts == pytest.approx(bits["total"]["value"])


def test_curve_and_calibration_are_those_of_the_moments(study, told, page):
    assert told["curve"]["residual"] == study.moments.residual.tolist()
    assert told["curve"]["residual_stderr"] == study.moments.stderr("residual").tolist()
    assert told["calibration"]["1-noise_power-residual"] == study.moments.calibration()[0].tolist()
    for residual in study.moments.residual:
        assert f"R = {residual:.3g} ± " in page.text
    outside = (np.abs(study.moments.calibration()[1]) > 2.0).sum()
    assert f"Here {outside} of 12 noise levels differ" in page.text


def test_noise_of_the_steps_lies_between_the_handcrafted_ones(told):
    noise = told["deviations"]
    assert noise["steps"] == 10
    assert len(noise["log_snr"]) == 9
    for beta, analytic, beta_tilde in zip(*(noise["std"][name] for name in ("beta", "residual", "beta_tilde")), strict=True):
        assert beta_tilde < analytic < 1.0001 * beta  # the data's variance is below one


def test_savings_are_those_of_the_recorded_covariances(study, page):
    for name, saved in study.structures.saved.items():
        label = f"{name.title} best" if name == study.structures.best else name.title
        row = next(entries for said, entries in page.cells.items() if said == label and len(entries) == 2)
        assert row[0][1] == f"{BITS * saved.value:+.4f} ± {BITS * saved.stderr:.4f}".replace("-", "−")


def test_samples_are_those_of_the_study(study, told, page):
    for steps in REQUEST.samples_at:
        assert told["samples"][str(steps)]["calls"] == steps
        assert told["samples"][str(steps)]["points"] == study.sample(REQUEST.count, steps).double().tolist()
        assert f"K = {steps}: {steps} network calls per sample" in page.text


def test_samples_of_the_fewest_calls_stand_beside_those_of_chains(study, told, folder, page):
    for steps in REQUEST.samples_at:
        plan = study.fewest(steps, path=folder / "fewest", progress=False)
        assert told["fewest"][str(steps)]["points"] == plan(REQUEST.count, REQUEST.seed).double().tolist()
        assert f"Fewest calls, K = {steps}: {steps} network calls per sample" in page.text
    assert told["fewest_lost"] == ""


def test_a_single_call_has_its_samples_and_no_bits(study):
    (drawn,) = draw(study, Request(samples_at=(1,), count=2)).values()
    assert drawn.calls == 1
    assert torch.equal(drawn.x, study.sample(2, 1))


def test_what_spoils_the_fewest_calls_is_said_on_the_page(study, told):
    without = replace(study, free=None)
    samples = fewest(without, (3,), 2, 0, None)
    assert samples.fewest == {}
    assert "no Gaussian" in samples.lost
    page = whole(study_page.render(told | {"fewest": {}, "fewest_lost": samples.lost}, ""))
    assert f"None by the fewest calls: {samples.lost}" in page.text


def test_distances_are_those_of_samples_to_the_data(study, planar, told):
    """By the judge of `Study.fewest`, and their difference with the error of the difference; none with too few examples."""
    data, free = planar.sample(64, seed=3), few.gaussian(study)
    samples = Samples(draw(study, REQUEST), fewest(study, (3,), REQUEST.count, 0, None).fewest)
    found = quality(study, samples, data, 50)
    judge = Judge.of(as_dataset(data, None), free, None, study.seed)
    near = {name: judge(judge.draw(one[3].plan, 0, 50)).white for name, one in vars(samples).items() if name != "lost"}
    for name, distance in near.items():
        assert found["distance"][name]["3"]["value"] == distance.value
    gap = difference(near["chain"], near["fewest"])
    assert found["chain_beyond_fewest"] == {"3": {"value": gap.value, "stderr": gap.stderr, "low": gap.low, "high": gap.high}}
    assert quality(study, samples, data[:31], 50) is None
    assert quality(study, samples, data, 0) is None
    assert quality(study, Samples({}, {}), data, 50) is None
    assert quality(study, samples, data, 4)["count"] == 4
    page = whole(study_page.render(told | {"quality": found}, ""))
    cell = found["distance"]["chain"]["3"]
    assert page.cells["chain"][0][1] == with_error(cell["value"], cell["stderr"])
    assert "50 samples of each against 64 examples" in page.text


def test_no_folder_of_a_machine_is_on_the_page(text, told, folder, tmp_path):
    assert str(folder) not in text
    assert not re.search(r"/(tmp|home|root|work)/", text)
    assert len(text.encode()) < 1_000_000
    assert told["provenance"]["date"] in text
    date.fromisoformat(told["provenance"]["date"])


def test_rows_of_prices_are_sorted_best_first(told, page):
    """By the middle number of calls, which the head says; that of infinitely many stays below."""
    prices = [cell["predicted"]["total"]["value"] for name, cell in told["cells"].items() if name.endswith("/3")]
    orders = [float(attributes["data-order"]) for tag, attributes in page.tags if tag == "td" and "data-order" in attributes]
    assert orders[: 2 * len(prices) : 2] == sorted(prices)
    assert [attributes.get("aria-sort") for tag, attributes in page.tags if tag == "th"][1] == "ascending"
    assert "tfoot" in [tag for tag, _ in page.tags]


def test_drawing_makes_no_call_too_many(study):
    with study.model.metered() as cost:
        draw(study, REQUEST)
    assert cost.evaluations == sum(REQUEST.samples_at) * REQUEST.count


def test_provenance_names_model_and_budget(study, page):
    fingerprint = study.model.fingerprint()
    for said in (fingerprint["network"], study.statistics.digest, str(study.moments.evaluations), torch.__version__):
        assert said in page.text


@pytest.mark.slow
def test_the_code_on_the_page_repeats_it_to_the_byte(study, planar, test_data, told, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"model": study.model, "data": planar.sample(64, seed=1), "test_data": test_data}
    exec(told["code"], names)
    for file in folder.iterdir():
        if file.is_file():
            assert (tmp_path / "report" / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_page_follows_from_its_numbers(told, folder, text):
    assert study_page.render(told, folder) == text


# --- what a study may lack ------------------------------------------------------------------------------------------


def test_without_data_nothing_is_measured(study):
    told = content(study, request=REQUEST)
    assert all("measured" not in cell for cell in told["cells"].values())
    assert "Measured" not in whole(study_page.render(told, "")).text
    assert "test_data" not in told["code"]


@pytest.mark.slow
def test_without_recorded_covariances_the_page_says_how_to_have_them(planar):
    study = measured(planar.score_model(LinearVP()), planar.sample(64, seed=1), record=())
    told = content(study, request=REQUEST)
    page = whole(study_page.render(told, ""))
    assert told["structures"] is None
    assert 'analyse with record=("auto",)' in page.text
    assert {name.split("/")[1] for name in told["cells"]} == {"residual", "beta_tilde"}


@pytest.mark.slow
def test_a_covariance_without_a_price_is_sampled_but_not_priced(planar):
    settings = replace(SETTINGS, covariance="tweedie")
    study = measured(planar.score_model(LinearVP()), planar.sample(64, seed=1), record=(), settings=settings)
    told = content(study, planar.sample(4, seed=3), Request(steps=(3,), samples_at=(3,), count=2))
    page = whole(study_page.render(told, ""))
    assert "predicted" not in told["cells"]["refined/tweedie/3"]
    assert told["samples"]["3"]["vector_products"] > 0
    assert "has no price before it is measured" in page.text
    assert f"{study.bits(3, covariance='isotropic')[3].total:.3f}" in page.text


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        ({"samples_at": (5, 5)}, "each number of steps once"),
        ({"steps": ()}, "needs"),
        ({"count": 0}, "needs"),
        ({"samples_at": (0,)}, "at least 1"),
        ({"judged": -1}, "judged must be a whole number of at least 4, or 0 for none"),
        ({"judged": 3}, "judged must be a whole number of at least 4, or 0 for none"),
        ({"judged": False}, "judged must be"),
    ],
)
def test_requests_that_make_no_report(asked, fault):
    with pytest.raises(ValueError, match=fault):
        Request(**asked)


def test_an_option_that_a_report_does_not_have(study, tmp_path):
    with pytest.raises(ValueError, match=r"unknown part of a report 'sample_at'.*did you mean 'samples_at'"):
        study.report(tmp_path, sample_at=(5,))


def test_a_chain_needs_two_steps(study):
    with pytest.raises(ValueError, match="two steps"):
        content(study, request=Request(steps=(1, 5)))


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["none", "categorical"])
def test_every_decoder_has_its_page(decoder):
    declared = DataRange(-1.0, 1.0, levels=5)
    data = declared.encode(np.random.default_rng(0).integers(0, 5, size=(64, 2)))
    model = ScoreModel(lambda x, labels: 0.5 * x, LinearVP(), fingerprint="half")
    settings = replace(SETTINGS, decoder=decoder)
    told = content(measured(model, data, data_range=declared, record=(), settings=settings), None, Request((3,), ()))
    page = whole(study_page.render(told, ""))
    assert ("Without a decoder" in page.text) == (decoder == "none")


@pytest.mark.slow
def test_a_miscalibrated_network_is_told_its_factor(planar):
    exact = planar.score_model(LinearVP())
    model = ScoreModel(
        lambda x, labels: 1.25 * exact.net(x, labels), exact.schedule, exact.predicts, exact.times, exact.coordinates, None, "x"
    )
    study = measured(model, planar.sample(64, seed=1), record=(), statistics=planar.statistics())
    told = content(study, request=REQUEST)
    page = whole(study_page.render(told, ""))
    assert "the noise estimate is too large there, and errs least if multiplied by 0.8" in page.text
    # X = 1.25 Lambda_0 and Lambda = 1.25^2 Lambda_0: the saving's integrand is Lambda_0 / 16.
    moments, first = study.moments, study.schedule.log_snr(study.first()[0])
    paid = moments.log_snr <= first
    exactly = BITS / 32.0 * np.trapezoid(moments.noise_power[paid] / 1.25**2, moments.log_snr[paid])
    saving = told["rescaling"]
    assert saving["value"] == pytest.approx(exactly, abs=4.0 * saving["stderr"])


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)])
def test_images_are_shown_as_sheets_inside_the_page(channels, tmp_path):
    """Beside one data set of a declared range; of four channels, the first is shown."""
    study, data = images(channels, DataRange(-1.0, 1.0) if channels == 1 else None, record=())
    examples = data[:4] if channels == 1 else None
    drawn = Samples(draw(study, REQUEST), {})
    written = sheets(study, drawn, examples, tmp_path)
    page = whole(study_page.render(content(study, examples, REQUEST, drawn), tmp_path))
    shown = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(shown) == len(written) == len(REQUEST.samples_at) + (channels == 1)
    embedded = {base64.b64decode(uri.removeprefix("data:image/png;base64,")) for uri in shown}
    assert embedded == {path.read_bytes() for path in written}
    assert f"shape {channels} × 4 × 4" in page.text


@pytest.mark.slow
def test_networks_that_are_fed_an_index_have_it_in_the_table(tmp_path):
    study, _ = images(1, record=())
    told = content(study, request=REQUEST)
    page = whole(study_page.render(told, tmp_path))
    times = study.grid(10).times[:-1]
    assert told["grids"]["10"]["labels"] == pytest.approx([100.0 * t if t > 0.01 else 1.0 for t in times])
    assert "network is fed" in page.text
    assert "samples_K3.png is missing" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 3, 5])
def test_vectors_are_scattered_where_a_plane_can_hold_them(dim):
    data = torch.randn(64, dim, generator=torch.Generator().manual_seed(dim))
    model = ScoreModel(lambda x, labels: 0.5 * x, LinearVP(), fingerprint=f"half, {dim}")
    told = content(measured(model, data, record=()), request=REQUEST)
    page = whole(study_page.render(told, ""))
    pairs = {1: 1, 3: 3, 5: 0}[dim]
    assert sum(said.strip() == "K = 3: 3 network calls per sample" for said in page.words) == (pairs or 1)
    assert ("x₁" in page.text) == (pairs > 0)
