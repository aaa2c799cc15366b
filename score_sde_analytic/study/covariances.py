"""Covariances by name that need no recorded draws: of curves, by hand, of heads, of the network's Jacobian, of one's own."""

from __future__ import annotations

from collections.abc import Mapping

from score_sde_analytic.covariance.base import Covariance
from score_sde_analytic.covariance.head_networks import load_head
from score_sde_analytic.covariance.heads import Interpolated, covariance_of
from score_sde_analytic.covariance.isotropic import Isotropic
from score_sde_analytic.covariance.tweedie import Tweedie
from score_sde_analytic.errors import MissingFileError
from score_sde_analytic.measure.curve import NoiseCurve, Source
from score_sde_analytic.models.networks import learns_range
from score_sde_analytic.study.names import HANDCRAFTED, TWEEDIE, CovarianceName
from score_sde_analytic.study.record import Record


def covariance(record: Record, curves: Mapping[Source, NoiseCurve], name: CovarianceName) -> Covariance:
    """The covariance of a resolved name that is not of a basis.

    >>> type(covariance(study, study.curves, study.resolve("beta_tilde"))).__name__
    'BetaTilde'

    Raises:
        MissingFileError: a head that was not trained.
    """
    if name.base in record.own:
        return record.own[name.base]
    if name.learned:
        return _learned(record, name)
    if name.base == TWEEDIE:
        return Tweedie(record.model, record.settings.products, two_sided=record.settings.two_sided)
    if name.base in HANDCRAFTED:
        return HANDCRAFTED[name.base]()
    return Isotropic(curves[name.base])  # type: ignore[index]


def _learned(record: Record, name: CovarianceName) -> Covariance:
    """A head's covariance, or that of a network which predicts its own range."""
    if name.base == "interpolated" and learns_range(record.model.net):
        return Interpolated()
    if record.heads is None:
        raise MissingFileError(f"no head {name.base!r} is known; name the folder of trained heads with Study.with_heads")
    head = load_head(record.heads(name.base), name.base, record.model).to(record.device)
    if name.given:  # uncalibrated
        head.set_calibration(head.knots[:0], head.shift[:0])
    return covariance_of(head)
