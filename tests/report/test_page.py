"""The comparison page: whole, self-contained HTML whose marks and sentences say no more than the intervals allow."""

import base64
import io
import itertools
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread, imsave

from comparison_content import content as made_up
from html_pages import Page, whole
from score_sde_analytic.report import charts, leading, page, svg
from score_sde_analytic.report.document import portable
from score_sde_analytic.report.results import (
    Comparison,
    Criterion,
    Reading,
    Row,
    conclusion,
    findings,
    joined,
    plain,
    with_error,
)

HOSTILE = """<script>alert("1")</script>'"><img src=x onerror=alert(2)>&amp;{{ 7*7 }}</style>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module", params=["pixels", "points"])
def content(request, folder):
    return made_up(folder, request.param)


@pytest.fixture(scope="module")
def text(content, folder):
    return page.render(content, folder)


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


@pytest.fixture(scope="module")
def brief(content):
    """With few cells and paths, and every kind of them."""
    cells = [one for one in content["cells"] if one["solver"] in ("analytic_dct", "dopri5", "pc")]
    paths = content["paths"] | {"solvers": dict(list(content["paths"]["solvers"].items())[:2])}
    return content | {"cells": cells, "paths": paths}


def cell(solver, budget=10, value=1.0, stderr=0.1, grid="", **more):
    metrics = {"score": {"value": value, "stderr": stderr}}
    return {"solver": solver, "grid": grid, "budget": budget, "calls": budget, "steps": budget, "metrics": metrics} | more


def small(*cells, better="lower", **more):
    return {"metrics": [{"name": "score", "label": "Score", "better": better}], "cells": list(cells)} | more


def rendered(data, folder=Path()):
    return Page(page.render(data, folder))


# --- the file -------------------------------------------------------------------------------------------------------


def test_page_is_balanced_html_and_needs_nothing_else(text):
    whole(text)
    assert len(text.encode()) < 5_000_000


def test_every_part_of_the_content_is_on_the_page(content, folder, parsed):
    for said in (content["title"], content["command"], content["model"]["sha256"], content["created"], "2.13.0", "beta_min"):
        assert said in parsed.text
    for solver in content["solvers"]:
        assert solver["label"] in parsed.text
        assert solver["about"] in parsed.text
    for metric in content["metrics"]:
        assert metric["about"] in parsed.text
    images = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 1 + sum("sheet" in one for one in content["cells"])
    assert base64.b64decode(images[0].split(",")[1]) == (folder / "data.png").read_bytes()


def test_same_content_gives_the_same_bytes(content, folder, text, tmp_path):
    written = page.write(tmp_path / "new" / "page.html", content, folder)
    assert written.read_bytes() == text.encode()


def test_a_failed_write_leaves_the_old_page(folder, tmp_path):
    target = tmp_path / "page.html"
    target.write_text("old")
    with pytest.raises(KeyError, match="solver"):
        page.write(target, {"cells": [{"budget": 5}]}, folder)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def _poisoned(value):
    if isinstance(value, dict):
        return {key: _poisoned(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_poisoned(one) for one in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_text_of_the_data_is_escaped(brief, folder):
    """Every string of the content carries markup; the page has the same tags as without."""
    content = brief
    kept = ("metrics", "solvers", "cells", "paths")
    hostile = _poisoned({key: value for key, value in content.items() if key not in kept})
    hostile["metrics"] = [
        one | {"label": one["label"] + HOSTILE, "about": HOSTILE, "unit": HOSTILE} for one in content["metrics"]
    ]
    hostile["solvers"] = [
        one | {"label": one["label"] + HOSTILE, "about": HOSTILE, "order": HOSTILE} for one in content["solvers"]
    ]
    hostile["cells"] = [one | {"grid": one["grid"] + HOSTILE, "reason": HOSTILE} for one in content["cells"]]
    hostile["paths"] = content["paths"] | {"axes": [HOSTILE] * 5}
    hostile["data_sheet"] = content["data_sheet"]
    clean, parsed = rendered(content, folder), rendered(hostile, folder)
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in clean.tags]
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert HOSTILE in parsed.text


# --- missing and broken data ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_page_stays_whole_without_any_part(brief, folder):
    for key in brief:
        assert rendered({name: value for name, value in brief.items() if name != key}, folder).text
    empty = rendered({})
    assert "There are no measurements in this report." in empty.text
    assert "Nothing was recorded." in empty.text


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, "NaN"])
def test_numbers_that_are_none(bad, brief, folder):
    def spoiled(value):
        if isinstance(value, dict):
            return {key: spoiled(one) for key, one in value.items()}
        if isinstance(value, list):
            return [spoiled(one) for one in value]
        return bad if isinstance(value, float) else value

    parsed = rendered({key: spoiled(value) for key, value in brief.items()}, folder)
    assert not any("nan" in attributes.get("d", "") for _, attributes in parsed.tags)
    assert "No budget has two solvers with a value of Fréchet distance" in parsed.text


def test_a_value_that_is_no_number_is_said_and_not_ranked():
    parsed = rendered(small(cell("a", value=math.nan), cell("b", value=3.0), cell("c", value=2.0)))
    assert parsed.cells["a"][0][1].startswith("not a number")
    assert parsed.marks("a") == [""]
    assert parsed.marks("c") == ["best"]


def test_failed_cells_give_their_reason():
    reason = "RuntimeError: the sampler diverged at step 3"
    data = small(cell("a"), cell("b", status="failed", reason=reason), cell("c", status="failed"), seed=0)
    parsed = rendered(data)
    assert parsed.marks("b")[0] == "failed"
    assert reason in parsed.cells["b"][0][1]
    assert parsed.cells["b"][-1][1] == reason
    assert "no reason given" in parsed.cells["c"][0][1]
    assert "2 of 3 runs failed" in parsed.text


def test_sheets_that_cannot_be_shown_are_named(folder, tmp_path):
    made_up(folder)
    (tmp_path / "not.png").write_text("text")
    outside = rendered(small(cell("a", sheet="../data.png"), cell("b", sheet="gone.png"), cell("c", sheet="not.png")), tmp_path)
    assert "../data.png lies outside" in outside.text
    assert "gone.png is missing" in outside.text
    assert "not.png is not a PNG" in outside.text
    assert "3 sheets not shown" in outside.text
    large = page.Album(folder, room=10)
    assert large.sheet("data.png") is None
    assert "too large" in large.notes[0]


def test_a_small_sheet_is_enlarged_by_a_whole_number(folder):
    made_up(folder)
    sheet = page.Album(folder).sheet("data.png")
    assert sheet is not None
    assert (sheet.width, sheet.height, sheet.enlarged) == (4 * 46, 4 * 46, True)


def test_no_folder_of_a_machine_is_on_the_page():
    places = ("/home/someone/results/digits", "/tmp/x1/y2/log.txt")
    command = f"python -m runners.main --workdir={places[0]} --config=configs/digits.py"
    failed = cell("b", status="failed", reason=f"MissingFileError: there is no {places[1]}")
    data = small(cell("a"), failed, command=command, config={"data": {"path": "/data/of/someone"}})
    text = page.render(data, Path())
    assert not re.search(r"/home|/tmp|/data/", text)
    assert "--workdir=…/digits --config=configs/digits.py" in Page(text).text
    assert "there is no …/log.txt" in text
    assert portable("bits/dim at https://a.b/c/d, 1/2/3 and </b></i>") == "bits/dim at https://a.b/c/d, 1/2/3 and </b></i>"


# --- what comes first ---------------------------------------------------------------------------------------------------


def families(**values):
    """A solver of each name, of the family and value given, ours where its name begins so."""
    solvers = [{"name": name, "family": family, "ours": name.startswith("own")} for name, (family, _) in values.items()]
    cells = [cell(name, k, value=value * 10 / k) for name, (_, value) in values.items() for k in (5, 10, 20)]
    return solvers, cells


def leaders(data):
    comparison = Comparison.of(data)
    return comparison, leading.groups(comparison, comparison.metrics[0])


@pytest.mark.parametrize(("better", "first"), [("lower", ["a", "c", "b"]), ("higher", ["b", "c", "a"])])
def test_rows_are_sorted_best_first_by_the_marked_column(better, first):
    """By the middle budget; what is not known there comes last, and what needs no call in the last column."""
    middle = {"b": 9.0, "a": 1.0, "c": 2.0}
    cells = [cell(name, k, value=value if k == 10 else -value) for name, value in middle.items() for k in (5, 10, 20)]
    data = small(cell("d", 5), *cells, cell("e", status="failed", reason="no"), cell("f", 0, calls=0), better=better)
    parsed = rendered(data)
    names = [name for name in parsed.cells if name in "abcdef"]
    assert names[:3] == first
    heads = [attributes.get("aria-sort") for tag, attributes in parsed.tags if tag == "th" and attributes["scope"] == "col"]
    assert {"lower": "ascending", "higher": "descending"}[better] in heads
    assert [text for _, text in parsed.cells["solver, grid"]][:4] == ["K = 5", "K = 10", "K = 20", "K = 0"]


def test_calls_that_were_not_enough_come_after_all_that_were():
    needs = [{"solver": "a", "grid": "", "calls": None, "most": 9}, {"solver": "b", "grid": "", "calls": 25, "most": 50}]
    column = {"best": {"solver": "b", "grid": ""}, "calls": needs, "differences": []}
    solvers = [{"name": "a"}, {"name": "b"}]
    text = page.render(small(cell("a"), cell("b"), solvers=solvers, paired={"score": {"10": column}}), Path())
    table = text[text.index("Fewest network calls for") :]
    assert table.index('<th scope="row">b') < table.index("25") < table.index('<th scope="row">a') < table.index("&gt; 9")


def test_values_to_sort_by_are_those_that_are_shown():
    parsed = rendered(small(cell("a", value=1.25), cell("b", value=-3.0), cell("c", value=math.nan)))
    orders = [float(attributes["data-order"]) for tag, attributes in parsed.tags if "data-order" in attributes]
    assert sorted(set(orders)) == [-3.0, 1.25]


def test_the_lead_is_the_best_of_each_family_within_its_budget():
    solvers, cells = families(own=("multistep", 1.0), a=("ode", 3.0), b=("ode", 2.0), c=("multistep", 1.5))
    over = cell("a", 10, value=0.1, calls=11, grid="long")
    _, found = leaders(small(*cells, over, solvers=solvers))
    assert [group.key for group in found] == ["ours", "multistep", "ode"]
    assert [[best.row.solver for best in group.best.values()] for group in found] == [["own"] * 3, ["c"] * 3, ["b"] * 3]
    assert [list(group.best) for group in found] == [[5, 10, 20]] * 3


def test_the_lead_takes_the_highest_where_higher_is_better():
    solvers, cells = families(a=("ode", 3.0), b=("ode", 2.0))
    _, (group,) = leaders(small(*cells, solvers=solvers, better="higher"))
    assert {best.row.solver for best in group.best.values()} == {"a"}


def test_ours_are_drawn_over_the_others_and_named_at_their_ends():
    solvers, cells = families(own=("multistep", 1.0), a=("ode", 3.0), b=("sde", 2.0))
    comparison, found = leaders(small(*cells, solvers=solvers))
    chart = leading.picture(comparison, comparison.metrics[0], found).chart
    assert chart.index('class="family-ode theirs"') < chart.index('class="ours"')
    for name in ("this package", "ODE", "SDE"):
        assert f">{name}</text>" in chart


def test_the_leading_picture_holds_what_lies_around_zero():
    """Logarithmic where values spread widely, linear where the data cannot tell them from zero."""
    solvers, cells = families(a=("ode", 100.0), b=("sde", 5.0))
    near = [cell("own", k, value=value, stderr=0.2) for k, value in ((5, 0.3), (10, -0.1), (20, 0.05))]
    comparison, found = leaders(small(*cells, *near, solvers=[*solvers, {"name": "own", "family": "other", "ours": True}]))
    panel = leading.picture(comparison, comparison.metrics[0], found)
    assert "linear near zero" in panel.chart
    heights = re.findall(r'class="tick" text-anchor="end">([^<]+)<', panel.chart)
    assert "0" in heights
    scale = svg.Scale.around_zero([-1.0, 0.2, 300.0], 200.0, 10.0, knee=0.5)
    places = [scale(v) for v in (-1.0, 0.0, 0.2, 1.0, 10.0, 100.0, 300.0)]
    assert places == sorted(places, reverse=True)
    assert all(10.0 < place < 200.0 for place in places)
    assert (scale(10.0) - scale(100.0)) == pytest.approx(scale(30.0) - scale(300.0), rel=0.01)


def test_a_page_without_scripts_shows_everything_but_the_small_panels():
    solvers, cells = families(own=("multistep", 1.0), a=("ode", 3.0))
    parsed = rendered(small(*cells, solvers=solvers))
    assert sum(tag == "details" for tag, _ in parsed.tags) == 1
    assert not any("hidden" in attributes or tag == "button" for tag, attributes in parsed.tags)


@pytest.mark.parametrize("shape", [(600, 900), (600, 900, 3)])
def test_a_large_sheet_is_reduced_to_what_screens_show(shape, tmp_path):
    """Means of squares of pixels; those of a smooth picture are the picture."""
    x = np.linspace(0.1, 0.9, shape[0])[:, None] * np.linspace(1.0, 0.5, shape[1])
    imsave(tmp_path / "large.png", x if len(shape) == 2 else np.repeat(x[..., None], 3, 2), cmap="gray", vmin=0.0, vmax=1.0)
    sheet = page.Album(tmp_path).sheet("large.png")
    assert (sheet.width, sheet.height, sheet.enlarged) == (192, 128, False)
    small = imread(io.BytesIO(base64.b64decode(sheet.uri.split(",")[1])))
    assert small.shape[:2] == (200, 300)
    assert np.abs(small[..., 0] - x.reshape(200, 3, 300, 3).mean((1, 3))).max() < 0.01


# --- what is called best --------------------------------------------------------------------------------------------


def test_the_best_is_marked_when_clear_of_all_others():
    data = small(cell("a", value=1.0), cell("b", value=2.0), cell("c", value=3.0))
    parsed = rendered(data)
    assert [parsed.marks(name)[0] for name in "abc"] == ["best", "", ""]
    assert "By Score (lower is better), a is best at 10 network calls." in parsed.text


def test_higher_is_better():
    parsed = rendered(small(cell("a", value=1.0), cell("b", value=2.0), cell("c", value=3.0), better="higher"))
    assert [parsed.marks(name)[0] for name in "abc"] == ["", "", "best"]
    assert "By Score (higher is better), c is best at 10 network calls." in parsed.text


def test_no_winner_is_named_when_intervals_overlap():
    parsed = rendered(small(cell("a", value=1.0), cell("b", value=1.3), cell("c", value=3.0)))
    assert [parsed.marks(name)[0] for name in "abc"] == ["lead", "tie", ""]
    assert "no winner can be named" in parsed.text
    assert "is best" not in parsed.text
    assert "No winner. a: 1.00 ± 0.10 is lowest, but overlaps the interval of b." in parsed.text


def test_without_an_error_nothing_is_called_best():
    parsed = rendered(small(cell("a", value=1.0, stderr=None), cell("b", value=9.0)))
    assert [parsed.marks(name)[0] for name in "ab"] == ["lead", "tie"]


def test_given_intervals_come_before_standard_errors():
    one = cell("a") | {"metrics": {"score": {"value": 1.0, "stderr": 9.0, "low": 0.9, "high": 1.1}}}
    other = cell("b") | {"metrics": {"score": {"value": 2.0, "stderr": 9.0, "low": 1.2, "high": 2.1}}}
    assert rendered(small(one, other)).marks("a")[0] == "best"


def test_what_overspends_or_chooses_its_own_steps_is_not_ranked():
    over = cell("a", value=0.1, calls=11)
    free = [cell(name, value=value, budget=None, calls=90.5) for name, value in (("b", 0.2), ("c", 5.0))]
    parsed = rendered(small(over, cell("d", value=1.0), cell("e", value=2.0), *free))
    assert parsed.marks("a")[0] == ""
    assert "over the budget, not ranked" in parsed.cells["a"][0][1]
    assert parsed.marks("d")[0] == "best"
    assert parsed.marks("b") == ["", ""]
    assert "90.5 calls" in parsed.cells["b"][1][1]


def test_bits_of_different_kinds_are_not_ranked():
    def bits(name, value, kind):
        return cell(name) | {"metrics": {}, "bits": {"value": value, "stderr": 0.01, "kind": kind}}

    mixed = Page(page.render(small(bits("a", 1.0, "bound"), bits("b", 2.0, "flow")), Path()))
    assert [mixed.marks(name)[0] for name in "ab"] == ["", ""]
    same = rendered(small(bits("a", 1.0, "bound"), bits("b", 2.0, "bound")))
    assert [same.marks(name)[0] for name in "ab"] == ["best", ""]


def test_every_grid_of_a_solver_has_its_row():
    data = small(cell("a", grid="even", value=2.0), cell("a", grid="dp", value=1.0), solvers=[{"name": "a", "label": "A"}])
    parsed = rendered(data)
    assert parsed.marks("A even")[0] == ""
    assert parsed.marks("A dp")[0] == "best"
    assert "A · dp is best at 10 network calls" in parsed.text


estimates = st.lists(st.tuples(st.integers(-20, 20), st.sampled_from([0.0, 0.3, 2.0, math.nan])), min_size=1, max_size=6)


@given(estimates, st.booleans())
def test_ranking_against_its_definition(found, lower):
    data = small(*[cell(f"s{i}", value=v, stderr=e) for i, (v, e) in enumerate(found)], better="lower" if lower else "higher")
    comparison = Comparison.of(data)
    ranking = comparison.ranking(comparison.metrics[0], 10)
    values = [v for v, _ in found]
    top = found[int(ranking.best.row.solver[1:])]
    assert top[0] == (min(values) if lower else max(values))

    def told_apart(a, b):
        return not math.isnan(a[1] + b[1]) and abs(a[0] - b[0]) > 1.959964 * (a[1] + b[1])

    others = [i for i in range(len(found)) if f"s{i}" != ranking.best.row.solver]
    assert {tie.row.solver for tie in ranking.ties} == {f"s{i}" for i in others if not told_apart(found[i], top)}
    assert ranking.clear == (len(found) > 1 and all(told_apart(found[i], top) for i in others))


def test_conclusion_groups_budgets_by_winner():
    cells = [cell(name, budget, value) for budget in (5, 10, 25) for name, value in (("a", 1.0), ("b", 2.0))]
    cells += [cell("a", 50, 1.0), cell("b", 50, 1.1), cell("a", 100)]
    comparison = Comparison.of(small(*cells))
    said = conclusion(comparison, comparison.metrics[0])
    assert said.startswith("By Score (lower is better), a is best at 5, 10 and 25 network calls; at 50 calls")
    assert findings(comparison, comparison.metrics[0])[-1] == (100, "a: 1.00 ± 0.10; nothing to compare it with.")


# --- numbers --------------------------------------------------------------------------------------------------------


def _number(text):
    power = re.search(r"× 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", text)
    exponent = int(power[1].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))) if power else 0
    found = re.findall(r"−?\d+\.?\d*", text.split(" × ")[0].replace("(", ""))
    return [float(one.replace("−", "-")) * 10.0**exponent for one in found]


@given(st.floats(-1e9, 1e9), st.floats(1e-8, 1e8))
def test_value_and_error_are_rounded_to_digits_that_mean_something(value, stderr):
    shown, error = _number(with_error(value, stderr))
    assert error == pytest.approx(stderr, rel=0.0501)
    assert abs(shown - value) <= 0.0501 * stderr + 1e-9 * abs(value)


@given(st.floats(1e-12, 1e12), st.booleans())
def test_plain_numbers_keep_their_significant_digits(value, negative):
    value = -value if negative else value
    assert _number(plain(value))[0] == pytest.approx(value, rel=0.0051)


def test_lists_in_words():
    assert joined(["a"]) == "a"
    assert joined(["a", "b", "c"]) == "a, b and c"
    assert joined(["a", "b", "c", "d", "e"]) == "a, b, c and 2 others"
    assert joined(["a, x", "b", "c", "d"]) == "a, x; b; c; 1 other"


# --- charts ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8), st.booleans())
def test_scales_hold_their_values_and_ticks(values, log):
    scale = svg.Scale.over(values, 200.0, 10.0, log)
    places = [scale(v) for v in sorted(values)]
    assert all(10.0 <= place <= 200.0 for place in places)
    assert places == sorted(places, reverse=True)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(scale.low <= tick * (1 + 1e-9) and tick * (1 - 1e-9) <= scale.high for tick in ticks if tick > 0)
    assert ticks == sorted(set(ticks))


@given(st.lists(st.floats(0.0, 200.0), max_size=8).map(sorted))
def test_labels_are_moved_apart_and_stay_inside(heights):
    placed = svg.spread(heights, 0.0, 200.0, 12.0)
    assert all(b - a >= 12.0 - 1e-9 for a, b in itertools.pairwise(placed))
    assert all(-1e-9 <= h <= 200.0 for h in placed)
    if all(b - a >= 12.0 for a, b in itertools.pairwise(heights)):
        assert placed == heights


def test_contours_hold_their_share_of_the_mass():
    """A Gaussian's region of mass p has the area 2 pi std^2 log(1 / (1 - p))."""
    axis, std = np.linspace(-4.0, 4.0, 161), 0.8
    values = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * std**2))
    frame = svg.Frame(svg.Scale(-4, 4, 0, 8000), svg.Scale(-4, 4, 8000, 0), "", "")
    drawn = charts._contours({"x": axis.tolist(), "y": axis.tolist(), "values": values.tolist()}, frame)
    areas = []
    for outline in re.findall(r' d="(M[^"]+)Z"', drawn):
        x, y = np.array(re.findall(r"(-?[\d.]+),(-?[\d.]+)", outline), float).T / 1000.0
        areas.append(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
    expected = [2 * np.pi * std**2 * math.log(1 / (1 - share)) for share in (0.99, 0.9, 0.6, 0.3)]
    assert areas == pytest.approx(expected, rel=0.03)


def test_more_series_than_a_panel_holds_are_split_by_family():
    families = ["analytic"] * 8 + ["ode"] * 2
    solvers = [{"name": f"s{i}", "label": f"S{i}", "family": family} for i, family in enumerate(families)]
    cells = [cell(f"s{i}", budget, value=1.0 + i / budget) for i in range(10) for budget in (5, 10)]
    comparison = Comparison.of(small(*cells, solvers=solvers))
    panels = charts.against_calls(comparison, comparison.metrics[0])
    assert [panel.title for panel in panels] == [
        "Analytic variance (1 of 2)",
        "Analytic variance (2 of 2)",
        "Probability-flow ODE",
    ]
    assert [one.label for panel in panels for one in panel.legend] == [f"S{i}" for i in range(10)]
    assert all(len({(s.marker, s.dash) for s in panel.legend}) == len(panel.legend) for panel in panels)
    few = Comparison.of(small(*cells[:6], solvers=solvers))
    assert [panel.title for panel in charts.against_calls(few, few.metrics[0])] == [""]


def test_error_bars_span_the_interval():
    comparison = Comparison.of(small(cell("a", value=5.0, stderr=1.0), cell("a", 20, value=4.0, stderr=0.5)))
    (panel,) = charts.against_calls(comparison, comparison.metrics[0])
    bars = [tuple(map(float, one)) for one in re.findall(r'd="M[\d.]+,([\d.]+)V([\d.]+)" class="bar"', panel.chart)]
    lengths = [bottom - top for bottom, top in bars]
    assert lengths[0] / lengths[1] == pytest.approx(2.0, rel=0.02)


def test_adaptive_points_are_hollow_and_off_the_line():
    comparison = Comparison.of(small(cell("a"), cell("a", 20), cell("a", None, calls=33.5)))
    (panel,) = charts.against_calls(comparison, comparison.metrics[0])
    assert panel.chart.count("mark hollow") == 1
    assert re.search(r'<path d="(M[^"]+)" class="line"', panel.chart)[1].count("L") == 1


def test_values_below_zero_on_a_log_axis_are_explained():
    values = [5.0, 2.0, 0.5, 0.1, -0.01]
    comparison = Comparison.of(small(*[cell("a", 5 * 2**i, v, 0.02) for i, v in enumerate(values)]))
    (panel,) = charts.against_calls(comparison, comparison.metrics[0])
    assert "log scale" in panel.chart
    assert "lower edge" in panel.note


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([9.0, 1.0, 0.1], True),
        ([9.0, 0.1, -0.03], True),
        ([9.0, 0.1, -5.0], False),
        ([9.0, 8.0, 7.0], False),
        ([-1.0, -9.0], False),
    ],
)
def test_an_axis_is_logarithmic_where_values_spread_widely_and_none_is_far_below_zero(values, log):
    comparison = Comparison.of(small(*[cell("a", 5 * 2**i, v, 0.02) for i, v in enumerate(values)]))
    (panel,) = charts.against_calls(comparison, comparison.metrics[0])
    assert ("log scale" in panel.chart) == log


def test_calibration_counts_what_lies_outside():
    data = {"log_snr": [0, 1, 2, 3], "difference": [0.0, 0.3, -0.5, 0.1], "stderr": [0.1, 0.1, 0.1, None]}
    assert charts.outside(data) == (2, 3)
    panels = charts.calibration(data)
    assert [panel.title for panel in panels] == ["Their difference ± 2 standard errors", "In standard errors"]
    table = {"log_snr": [0, 1], "1-noise_power-residual": [0.1, 0.3], "1-noise_power-residual_in_standard_errors": [1, 3]}
    assert charts.outside(table) == (1, 2)
    assert len(charts.calibration(table)) == 2
    assert charts.outside({"in_standard_errors": [1.0, -2.5, None]}) == (1, 2)
    assert charts.calibration({}) == []


def test_paths_of_broken_solvers_are_left_out():
    good = {"times": [1, 0.5, 0], "log_snr": [-5, 0, None], "states": [[0.1, 0.2], [0.3, None], [0.5, 0.6]]}
    data = {"kind": "pixels", "solvers": {"good": good, "ragged": {"times": [1, 0], "states": [[1.0], [1.0, 2.0]]}, "none": {}}}
    (panel,) = charts.paths(data, {"good": "Good"}, {})
    assert panel.title == "Good"
    assert "nan" not in panel.chart
    lines = re.findall(r'<path d="([^"]*)" class="line thin"', panel.chart) + re.findall(
        r'" d="([^"]*)" class="line thin"', panel.chart
    )
    assert sorted(line.count("M") for line in lines) == [1, 2]


@pytest.mark.parametrize("axis", [{"times": [1, 0.5, 0]}, {"times": [1, 0.5, 0], "log_snr": [-5, 0, math.inf]}])
def test_pixel_paths_run_from_left_to_right(axis):
    data = {"kind": "pixels", "solvers": {"a": axis | {"states": [[0.0], [1.0], [3.0]]}}}
    (panel,) = charts.paths(data, {}, {})
    start, middle, end = map(float, re.search(r' d="M([\d.]+),[\d.]+L([\d.]+),[\d.]+L([\d.]+),', panel.chart).groups())
    assert svg.LEFT < start < middle < end < svg.WIDTH - svg.RIGHT


def test_two_pixels_of_several_images_share_a_colour_each():
    states = np.random.default_rng(0).normal(size=(4, 5, 2)).tolist()
    one = {"times": [1, 0.7, 0.3, 0], "log_snr": [-5, 0, 5, None], "states": states}
    (panel,) = charts.paths({"kind": "pixels", "axes": ["left", "right"], "solvers": {"a": one}}, {}, {})
    assert [series.label for series in panel.legend] == ["left", "right"]
    assert [panel.chart.count(f'class="series-{i}"') for i in (1, 2, 3)] == [5, 5, 0]


def test_notes_of_the_runner_are_on_the_page():
    more = {
        "grids": {"dp": "optimal by dynamic programming"},
        "clock": "CPU time",
        "paths": {"kind": "points", "solvers": {"b": {"states": [[[0.0, 0.0]], [[1.0, 1.0]]]}}, "failed": {"a": "diverged"}},
    }
    parsed = rendered(small(cell("a", None, calls=50.5, tolerance=1e-3), **more))
    for said in ("optimal by dynamic programming", "CPU time", "No paths of a: diverged", "50.5 calls, tolerance 0.001"):
        assert said in parsed.text


def test_a_path_that_leaves_the_window_is_cut_off_not_bent():
    states = [[[50.0, 0.0]], [[0.0, 0.0]], [[0.5, 0.5]]]
    density = {"x": [-1, 1], "y": [-1, 1], "values": [[1, 1], [1, 1]]}
    (panel,) = charts.paths({"kind": "points", "solvers": {"a": {"states": states}}, "density": density}, {}, {})
    start, middle = re.findall(r'd="M([-\d.]+),[-\d.]+L([-\d.]+),', panel.chart)[-1]
    width = svg.WIDTH - svg.LEFT - svg.RIGHT
    assert float(middle) == pytest.approx(width / 2, abs=0.1)
    assert float(start) == pytest.approx(width / 2 + 50 * width / (2 * 1.06), abs=0.1)


# --- how it looks ---------------------------------------------------------------------------------------------------


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def _contrast(a, b):
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_the_contrast_that_wcag_asks_of_text():
    text = page.render({}, Path())
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S))
    assert light.keys() == dark.keys()
    for theme in (light, dark):
        for name in ("text", "muted", "link", "failed", *charts.FAMILIES):
            assert _contrast(theme[name], theme["ground"]) >= 4.5, name
        assert _contrast(theme["muted"], theme["raised"]) >= 4.5
        for ground in ("best", "tie", "raised"):
            assert _contrast(theme["text"], theme[ground]) >= 4.5, ground


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def title_in_a_browser(path, folder):
    """What scripts of a page leave as its title."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [CHROMIUM, *options, "--allow-file-access-from-files", f"--user-data-dir={folder / 'user'}", "--dump-dom"]
    done = subprocess.run([*command, f"file://{path}"], capture_output=True, text=True, timeout=60)
    return re.search(r"<title>(.*?)</title>", done.stdout)[1]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the page is not rendered")
@pytest.mark.parametrize("width", [390, 1280])
def test_page_does_not_scroll_sideways(width, content, folder, tmp_path):
    """Rendered in a frame, as the window of a headless browser is never narrower than 500 pixels."""
    page.write(tmp_path / "page.html", content | {"command": "x" * 300, "title": "Title" * 40}, folder)
    probe = "document.title = [d.scrollWidth, d.clientWidth, d.scrollHeight].join(' ')"
    (tmp_path / "frame.html").write_text(
        f'<!DOCTYPE html><iframe style="width:{width}px;height:800px;border:0" src="page.html"'
        f' onload="const d = this.contentDocument.documentElement; {probe}"></iframe>'
    )
    scroll, client, height = map(int, title_in_a_browser(tmp_path / "frame.html", tmp_path).split())
    assert height > 3000
    assert client <= width
    assert scroll <= client


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the page is not rendered")
def test_heads_of_tables_sort_their_columns(tmp_path):
    """Each click by its column, then the other way round; what is not known stays below, and the head says which way."""
    values = {"a": (1.0, 30.0), "b": (2.0, -10.0), "c": (3.0, 20.0)}
    cells = [cell(name, k, value=value) for name, pair in values.items() for k, value in zip((5, 10), pair, strict=True)]
    text = page.render(small(*cells, cell("d", 10, value=5.0)), Path())
    script = """<script>
    const table = document.querySelector("#results").parentElement.querySelector("table");
    const said = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim()).join("")
      + [...table.tHead.rows[0].cells].map((head) => (head.getAttribute("aria-sort") ?? "-")[0]).join("");
    const seen = [said()];
    for (const index of [2, 2, 0, 1]) { table.querySelectorAll("th button")[index].click(); seen.push(said()); }
    document.title = seen.join(" ");
    </script></body>"""
    (tmp_path / "page.html").write_text(text.replace("</body>", script))
    assert title_in_a_browser(tmp_path / "page.html", tmp_path) == "abcd-a- bdca--a acdb--d abcda-- abcd-a-"


def test_estimates_without_error_overlap_everything():
    assert Reading(1.0).overlaps(Reading(99.0, 0.1))
    assert not Reading(1.0, 0.1).overlaps(Reading(2.0, 0.1))
    assert Criterion.of({"name": "x"}).lower
    assert Row("a", "", "A").title == "A"
