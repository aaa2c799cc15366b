"""Image to image: examples of another domain, diffused to some level and led back to data by a measured network.

    x_t = alpha x_0 + sigma z, then the chain from t on with the study's variances        SDEdit (Meng et al., ICLR 2022)
    the same with eps + sigma sum_i w_i grad E_i(x_t, q(x_t | x_0))                       EGSDE (Zhao et al., NeurIPS 2022)

Energies change the mean; the variance, and so the optimal times, stay the network's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from score_sde_analytic.checks import LOG_SNR, whole
from score_sde_analytic.errors import InputError
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.guidance import Energies, Energy
from score_sde_analytic.guidance.reference import REFERENCE
from score_sde_analytic.samplers import Ancestral
from score_sde_analytic.study.names import GridName
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.study.study import Study


def grid_from(study: Study, log_snr: float, steps: int, name: str | GridName = "dp", covariance: str = "") -> Grid:
    """The times of so many steps from a level on: "dp" optimal for the covariance, or "log_snr", "even", "karras", "quadratic".

    >>> grid = grid_from(study, -1.0, 4, "log_snr")
    >>> model.schedule.log_snr(np.array(grid.times[:-1])).round(2)
    array([-1.  ,  2.33,  5.67,  9.  ])

    Raises:
        InputError: another grid, which begins at t = 1.
    """
    label = study.resolve(covariance)
    begin, count = LOG_SNR("the log-SNR of a start", log_snr), whole(1)("steps", steps)
    return study.search.grid_from(begin, GridName.parse(name), study.covariance(label), label, count)


def translation(
    study: Study,
    x_0: Float[Tensor, " n *dims"],
    log_snr: float,
    steps: int = 10,
    energies: Sequence[tuple[Energy, float]] = (),
    reference: Literal["fresh", "shared"] = "fresh",
    grid: str | GridName = "dp",
    covariance: str = "",
    conditions: Mapping[str, Any] | None = None,
) -> SamplingPlan:
    """The plan whose sample i is led from x_0[i], `steps` network calls each: `plan(len(x_0), seed)`.

    Args:
        study: of the domain that samples are to be of.
        x_0: images of another domain, in the units and of the shape of the study's data.
        log_snr: that they are diffused to; the less, the less of them is kept.
        energies: as `guidance.Energies` takes them; none, or only of weight 0, is SDEdit.
        reference: noise of what energies compare with.
        grid: as of `grid_from`.
        conditions: of samples, as `generate` takes them; None for none.

    Raises:
        InputError: x_0 of another shape, a grid that begins elsewhere.

    >>> x_0 = torch.zeros(3, 2)
    >>> translation(study, x_0, log_snr=2.0, steps=5)(count=3).shape
    torch.Size([3, 2])
    """
    if tuple(x_0.shape[1:]) != tuple(study.shape):
        raise InputError(f"examples of another domain are of the shape of the data, {study.shape}, got {tuple(x_0.shape[1:])}")
    given = dict(conditions or {})
    model = Energies(study.model, energies, reference) if energies else study.model
    compared = {REFERENCE: x_0} if energies else {}
    return study.plan(
        Ancestral(model, study.covariance(covariance)),
        grid_from(study, log_snr, steps, grid, covariance),
        examples=(x_0, log_snr),
        conditions=given | compared or None,
    )
