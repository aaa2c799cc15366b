"""Configs of other classes: what they mean by keys that are not there, and what no table of betas can stand for."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("diffusers", reason="schedulers and pipelines are those of diffusers")

import diffusers

from score_sde_analytic.errors import UnsupportedError
from score_sde_analytic.interop import AnalyticDPMScheduler, AnalyticFlowScheduler
from score_sde_analytic.interop.origins import class_of

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of numpy, to diffusers


def in_memory(scheduler):
    return scheduler.config


def as_read(scheduler):
    """What a file says of it."""
    return json.loads(scheduler.to_json_string())


WAYS = pytest.mark.parametrize("way", [in_memory, as_read])


@WAYS
@pytest.mark.parametrize(
    ("name", "clips", "spacing"),
    [
        ("DDPMScheduler", True, "leading"),
        ("DDPMParallelScheduler", True, "leading"),
        ("DDIMScheduler", True, "leading"),
        ("PNDMScheduler", False, "leading"),
        ("EulerDiscreteScheduler", False, "linspace"),
        ("EulerAncestralDiscreteScheduler", False, "linspace"),
        ("HeunDiscreteScheduler", False, "linspace"),
        ("LMSDiscreteScheduler", False, "linspace"),
        ("DPMSolverMultistepScheduler", False, "linspace"),
        ("DPMSolverSinglestepScheduler", False, "linspace"),
        ("DEISMultistepScheduler", False, "linspace"),
        ("UniPCMultistepScheduler", False, "linspace"),
        ("SASolverScheduler", False, "linspace"),
    ],
)
def test_clipping_and_spacing_stay_those_of_the_class(name, clips, spacing, way):
    theirs = getattr(diffusers, name)()
    ours = AnalyticDPMScheduler.from_config(way(theirs))
    assert ours.config.clip_sample is clips
    assert ours.config.timestep_spacing == spacing
    assert (ours.config.beta_schedule, ours.config.beta_start) == ("linear", theirs.config.beta_start)
    ours.set_timesteps(3)


@WAYS
def test_what_a_config_says_goes_before_what_its_class_means(way):
    """A key that another class handed along is there, whether the class at hand knows it or not."""
    clipped = diffusers.DDPMScheduler(clip_sample=True, clip_sample_range=2.0, variance_type="fixed_large", beta_end=0.01)
    through = diffusers.EulerDiscreteScheduler.from_config(as_read(clipped))
    ours = AnalyticDPMScheduler.from_config(way(through))
    assert (ours.config.clip_sample, ours.config.clip_sample_range, ours.config.beta_end) == (True, 2.0, 0.01)
    assert AnalyticDPMScheduler.from_config(way(through), clip_sample=False).config.clip_sample is False


def test_a_plain_mapping_is_of_ddpm():
    ours = AnalyticDPMScheduler.from_config({"beta_schedule": "scaled_linear"})
    assert (ours.config.clip_sample, ours.config.timestep_spacing) == (True, "leading")
    made, unused = AnalyticDPMScheduler.from_config({"beta_schedule": "linear"}, return_unused_kwargs=True, other=1)
    assert made.config.beta_schedule == "linear"
    assert unused == {"other": 1}


@WAYS
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}),
        ("FlowMatchHeunDiscreteScheduler", {}),
        ("EDMEulerScheduler", {}),
        ("EDMDPMSolverMultistepScheduler", {}),
        ("LCMScheduler", {}),
        ("TCDScheduler", {}),
        ("CMStochasticIterativeScheduler", {}),
        ("CogVideoXDDIMScheduler", {}),
        ("IPNDMScheduler", {}),
        ("KarrasVeScheduler", {}),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}),
    ],
)
def test_what_has_no_table_is_refused_by_name(name, settings, way):
    if not hasattr(diffusers, name):
        pytest.skip(f"this diffusers has no {name}")
    scheduler = getattr(diffusers, name)(**settings)
    if class_of(scheduler.config) != name and way is in_memory:
        pytest.skip(f"in memory {name} has the parameters of {class_of(scheduler.config)}")
    with pytest.raises(UnsupportedError, match=name):
        AnalyticDPMScheduler.from_config(way(scheduler))


@WAYS
def test_flows_from_all_that_have_them(way):
    made = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, max_shift=2.0)
    ours = AnalyticFlowScheduler.from_config(way(made))
    assert {key: ours.config[key] for key in made.config if not key.startswith("_")} == {
        key: value for key, value in made.config.items() if not key.startswith("_")
    }
    assert AnalyticFlowScheduler.from_config(way(diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0))).config.shift == 2.0
    wan = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction")
    assert AnalyticFlowScheduler.from_config(way(wan)).config.shift == 5.0


@WAYS
@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerDiscreteScheduler", "EDMEulerScheduler", "LCMScheduler"])
def test_what_is_no_flow_is_refused_by_name(name, way):
    with pytest.raises(UnsupportedError, match=name):
        AnalyticFlowScheduler.from_config(way(getattr(diffusers, name)()))


def test_each_of_ours_names_the_other():
    with pytest.raises(UnsupportedError, match="take AnalyticFlowScheduler"):
        AnalyticDPMScheduler.from_config(AnalyticFlowScheduler().config)
    with pytest.raises(UnsupportedError, match="take AnalyticDPMScheduler"):
        AnalyticFlowScheduler.from_config(AnalyticDPMScheduler().config)
