"""Every kind of schedule, by name."""

import numpy as np

from score_sde_analytic.process.density import Density
from score_sde_analytic.process.schedule import (
    VE,
    CosineVP,
    Learned,
    LinearVP,
    RectifiedFlow,
    Schedule,
    Sigmas,
    SubVP,
    Tabulated,
)

SCHEDULES: dict[str, Schedule] = {
    "linear_vp": LinearVP(),
    "cosine_vp": CosineVP(),
    "sub_vp": SubVP(),
    "ve": VE(),
    "table_linear": Tabulated.linear(),
    "table_cosine": Tabulated.cosine(),
}

#: Those that end in pure noise, alpha = 0 at t = 1.
TO_NOISE: dict[str, Schedule] = {
    "rectified": RectifiedFlow(),
    "shifted": RectifiedFlow(shift=3.0),
    "cosine_end": CosineVP(log_snr_min=-float("inf")),
    "table_noise": Tabulated.scaled_linear(zero_terminal_snr=True),
}

NUMBERS = np.arange(200)
#: Of others' laws.
MORE: dict[str, Schedule] = {
    "scaled_linear": Tabulated.scaled_linear(),
    "sigmoid": Tabulated.sigmoid(),
    "laplace": Tabulated.laplace(),
    "sigmas": Sigmas(VE().sigma((1 + NUMBERS) / 200)),
    "functions": Schedule.from_functions(LinearVP()._log_alpha, LinearVP()._log_sigma, prior_variance=1.0),
    "functions_ve": Schedule.from_functions(lambda t: 0.0 * t, VE()._log_sigma),
    "learned": Learned(Density.from_function(lambda lam: np.exp(0.3 * lam), -9.0, 8.0)),
    "functions_flow": Schedule.from_functions(lambda t: np.log1p(-t), np.log),
}
