"""What one pass says of a network, whatever steps are taken with it: its curves, and its last step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

from score_sde_analytic.arrays import Array
from score_sde_analytic.measure.curve import NoiseCurve, ResidualCap, Source, residual_cap
from score_sde_analytic.measure.last_step import DECODERS, LastStep
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.process.decoder import Decoder
from score_sde_analytic.study.names import SOURCES, choose
from score_sde_analytic.study.record import Record


@dataclass(frozen=True, eq=False, repr=False)
class Measured(Record):
    """A record, read: curves with their calibration, and the decoder of every first time."""

    @cached_property
    def curves(self) -> dict[Source, NoiseCurve]:
        """The fitted curves, "residual" of the network's own mean and "score" as in the paper."""
        return {source: NoiseCurve.fit(self.moments, source, self._cap(source), warn=False) for source in SOURCES}

    @property
    def curve(self) -> NoiseCurve:
        """R, Gamma and the posterior variance at every noise level, for the network's own mean."""
        return self.curves["residual"]

    @cached_property
    def cap(self) -> ResidualCap:
        """The largest R that an exact score could have, from the data alone."""
        return residual_cap(self.statistics, self.data_range)

    def _cap(self, source: Source) -> ResidualCap | None:
        return self.cap if source in self.settings.capped else None

    def linear(self, log_snr: Float64[Array, " n"]) -> Float64[Array, " n"] | None:
        """R of the best linear denoiser on the data, which needs a covariance and no network; None without a free model."""
        return None if self.free is None else self.free.residual(np.clip(log_snr, *self.free.log_snr[[0, -1]]))

    @property
    def calibration(self) -> dict[str, Any]:
        """Moments with their errors at every knot, and how far 1 - Lambda is from R, as it should be for an exact score."""
        difference, size = self.moments.calibration()
        knots = {name: getattr(self.moments, name) for name in ("noise_power", "cross", "residual")}
        errors = {f"{name}_stderr": self.moments.stderr(name) for name in knots}
        contrast = {"1-noise_power-residual": difference, "1-noise_power-residual_in_standard_errors": size}
        return {"log_snr": self.moments.log_snr, "draws": self.moments.draws} | knots | errors | contrast

    @cached_property
    def reconstruction(self) -> Reconstruction:
        """The last step's cost for any first time and decoder width."""
        return Reconstruction.of(self.moments)

    @cached_property
    def last_step(self) -> LastStep:
        """The last step of chains, of the kind that the settings name."""
        kind = choose(DECODERS, self.settings.decoder, "decoder")
        return kind(self.schedule, self.statistics.histogram, self.data_range)

    def decoder(self, t_1: float) -> Decoder:
        """The last step from first time t_1: the Gaussian decoder that is best there, or another as the settings say."""
        return self.last_step.decoder(self.reconstruction, self.schedule.log_snr(t_1))
