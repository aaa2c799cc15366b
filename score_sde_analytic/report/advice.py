"""What follows from a study's numbers, in sentences: how many calls, at which times, with which noise, by which sampler.

A difference is spoken of where it is beyond its error. Prices have most of their error in common, which the content does not
say: between them the errors of both count, so that small differences pass in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from score_sde_analytic.report.results import floats, joined, plain, with_error
from score_sde_analytic.report.study_content import (
    Content,
    by_chain,
    estimate,
    infinite,
    label,
    middle,
    minus,
    own_cells,
    printed,
    totals,
)
from score_sde_analytic.uncertainty import Estimate

#: Standard errors that the farthest of a few dozen levels may differ by, and that two numbers may.
CHANCE, APART = 3.0, 2.0
#: Excess over infinitely many steps that is recommended, bits/dim.
EXCESS = 0.05
#: Bits/dim that are worth repairing a network for.
WORTH = 0.005
#: What a chain that nobody optimised takes: times, variance, and how the page says it.
USUAL = {"residual": "the isotropic noise", "beta_tilde": "β̃"}


def recommendations(content: Content) -> list[tuple[str, str]]:
    """(what about, a sentence or two)."""
    found = {
        "Calls": _calls(content),
        "Times": _times(content),
        "Noise": _noise(content),
        "Samples": _samples(content["quality"]),
        "Network": _network(content),
        "Trust": _trust(content),
    }
    return [(about, said) for about, said in found.items() if said]


def _calls(content: Content) -> str:
    """How many calls are worth making for bits/dim."""
    row = min(content["within"], key=lambda one: abs(one["excess"] - EXCESS))
    law = " (by the law for many steps)" if row["steps"] > content["searched"] else ""
    text = (
        f"For bits/dim, K = {row['steps']} calls{law} are within {row['excess']:g} of infinitely many,"
        f" {printed(infinite(content))} bits/dim, with the optimal isotropic noise."
    )
    goal = infinite(content)["value"] + row["excess"]
    others = {name: cells for (grid, name), cells in by_chain(content).items() if grid != "even_tuned" and name != "residual"}
    near = {name: _fewest_within(totals(cells, "predicted"), goal) for name, cells in others.items()}
    fewer = {name: int(steps) for name, steps in near.items() if steps}
    best = min(fewer, key=lambda name: fewer[name], default="")
    if best and fewer[best] < row["steps"]:
        text += f" With the {label(best)} noise K = {fewer[best]} is, too."
    return text


def _fewest_within(row: Mapping[str, Content], goal: float) -> str:
    """The fewest calls of a row that cost no more; "" for none."""
    return next((steps for steps in sorted(row, key=int) if row[steps]["value"] <= goal), "")


def _times(content: Content) -> str:
    """What optimal times save over even ones, and how many calls those take for as much."""
    mine = totals(own_cells(content), "predicted")
    if not mine:
        return ""
    steps = middle(list(mine))
    usual = {name: totals(by_chain(content).get(("even_tuned", name), {}), "predicted") for name in USUAL}
    worse = {name: row for name, row in usual.items() if row and _beyond(row[steps], mine[steps])}
    own_price = f"Optimal times and {label(content['covariance'])} noise are predicted {printed(mine[steps])} bits/dim"
    if not worse:
        return f"{own_price} at K = {steps}; times even in t cost no more beyond the errors."
    costs = joined(
        [f"{printed(row[steps])} with {USUAL[name]}{_catches_up(row, mine[steps])}" for name, row in worse.items()], 9
    )
    return f"{own_price} at K = {steps}; times even in t, the best first one among them, {costs}."


def _beyond(a: Content, b: Content) -> bool:
    """Whether a is above b by more than both errors."""
    return a["value"] - b["value"] > APART * math.hypot(a["stderr"], b["stderr"])


def _catches_up(row: Mapping[str, Content], goal: Content) -> str:
    """The K with which a row is as low."""
    enough = _fewest_within(row, goal["value"])
    return f" (as low only at K = {enough})" if enough else f" (not as low at K = {max(row, key=int)})"


def _noise(content: Content) -> str:
    """Which covariance to take."""
    structures = content["structures"]
    if structures is None:
        return 'Covariances in a basis were not recorded, and often save more than times do: analyse with record=("auto",).'
    best = structures["rows"].get(structures["best"])  # the isotropic one, which has no row, where none saves anything
    if best is None or best["saved"] <= APART * best["stderr"]:
        return "No covariance in a basis saves bits/dim beyond its error on held-out examples: keep the isotropic one."
    saved = minus(f"{best['saved']:.3f} ± {best['stderr']:.3f}")
    return (
        f"Take the covariance {label(structures['best'])}, covariance={structures['best']!r}: it saves {saved} bits/dim over"
        f" the isotropic one on held-out examples, in a chain of {structures['steps']} steps even in log-SNR."
        f"{_at_their_best(content, structures['best'])}"
    )


def _at_their_best(content: Content, name: str) -> str:
    """What a covariance and the isotropic one cost, each on the times that are optimal for it."""
    with_it, without = (totals(by_chain(content).get(("dp", each), {}), "predicted") for each in (name, "residual"))
    if not with_it or not without:
        return ""
    steps = middle(list(with_it))
    return f" On optimal times K = {steps} costs {printed(with_it[steps])} with it, {printed(without[steps])} without."


def _samples(quality: Content | None) -> str:
    """Which sampler to take for which K."""
    if quality is None:
        return ""
    gaps = {steps: estimate(gap) for steps, gap in quality["chain_beyond_fewest"].items()}
    nearer = {
        "study.fewest": [steps for steps, gap in gaps.items() if gap.value > APART * gap.stderr],
        "the chain": [steps for steps, gap in gaps.items() if gap.value < -APART * gap.stderr],
    }
    open_at = [steps for steps in gaps if not any(steps in found for found in nearer.values())]
    parts = [f"take {name} with K = {_listed(found)}" for name, found in nearer.items() if found]
    if open_at:
        parts.append(f"with K = {_listed(open_at)} these samples cannot tell the two apart")
    if not parts:
        return ""
    return f"For samples near the data, {'; '.join(parts)}.{_size(gaps, nearer)}"


def _size(gaps: Mapping[str, Estimate], nearer: Mapping[str, Sequence[str]]) -> str:
    """How far the chain is behind, or ahead, where most calls still tell."""
    steps = max((steps for found in nearer.values() for steps in found), key=int, default=None)
    if steps is None:
        return ""
    gap = gaps[steps]
    side = "farther from" if gap.value > 0.0 else "nearer to"
    return f" At K = {steps} the chain is {side} them by {with_error(abs(gap.value), gap.stderr)}."


def _listed(steps: Sequence[str]) -> str:
    return joined(steps, 99)


def _network(content: Content) -> str:
    """Whether the network's scale is worth repairing."""
    saved = estimate(content["rescaling"])
    size = printed(content["rescaling"], ".4f")
    if saved.value > max(WORTH, APART * saved.stderr):
        return f"Scaling the network's estimate to its best would save {size} bits/dim: repair its mean (`recalibrate`)."
    return f"The network needs no repair of its scale: the best at every level would save {size} bits/dim."


def _trust(content: Content) -> str:
    """Whether measured bits/dim are those that were predicted."""
    sizes = {
        steps: cell["disagreement_in_standard_errors"]
        for steps, cell in own_cells(content).items()
        if cell.get("disagreement_in_standard_errors") is not None
    }
    if not sizes:
        return ""
    steps, size = max(sizes.items(), key=lambda one: abs(one[1]))
    if abs(size) <= CHANCE:
        return (
            "Prices can be trusted here: bits/dim measured on the data given are within"
            f" {abs(size):.1f} standard errors of the predicted ones at every K."
        )
    return (
        f"Bits/dim measured on the data given are {minus(f'{size:+.1f}')} standard errors from the predicted ones at"
        f" K = {steps}: trust those, and see whether these data are like those of the pass."
    )


# --- calibration in words -------------------------------------------------------------------------------------------


def calibration(content: Content) -> str:
    """Whether the network is calibrated, where it is not, by how much, and what that says: 1 - Lambda - R = 2 (X - Lambda)."""
    table = content["calibration"]
    places, sizes = floats(table["log_snr"]), floats(table["1-noise_power-residual_in_standard_errors"])
    differences, powers = floats(table["1-noise_power-residual"]), floats(table["noise_power"])
    at = max(range(len(sizes)), key=lambda i: abs(sizes[i]))
    farthest = f"{minus(f'{sizes[at]:+.1f}')} standard errors at log-SNR {plain(places[at])}"
    if abs(sizes[at]) <= CHANCE:
        return f"No level tells the network from an exact one: the farthest, {farthest}, is what chance makes of so many."
    beyond = [i for i, size in enumerate(sizes) if abs(size) > CHANCE]
    where = f", between log-SNR {plain(places[beyond[0]])} and {plain(places[beyond[-1]])}" if len(beyond) > 1 else ""
    largest = max(beyond, key=lambda i: abs(differences[i]))
    factor = 1.0 + differences[at] / (2.0 * powers[at])
    side = "small" if factor > 1.0 else "large"
    return (
        f"The network is certainly not exact at {len(beyond)} of {len(sizes)} levels{where}; in size 1 − Λ − R is"
        f" {minus(f'{differences[largest]:+.2g}')} at most, at log-SNR {plain(places[largest])}. The most certain is"
        f" {farthest}: the noise estimate is too {side} there, and errs least if multiplied by {factor:.4g}."
    )
