"""Every kind of schedule, by name."""

from score_sde_analytic.process.schedule import VE, CosineVP, LinearVP, Schedule, SubVP, Tabulated

SCHEDULES: dict[str, Schedule] = {
    "linear_vp": LinearVP(),
    "cosine_vp": CosineVP(),
    "sub_vp": SubVP(),
    "ve": VE(),
    "table_linear": Tabulated.linear(),
    "table_cosine": Tabulated.cosine(),
}
