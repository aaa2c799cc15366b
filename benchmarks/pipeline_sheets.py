"""A shipped network as a pipeline of diffusers: fitted, swapped, and its samples beside those of public schedulers.

    python -m benchmarks.pipeline_sheets --data emoji [--steps 10] [--count 1000] [--folder FOLDER] [--picture FILE.png]

Shipped networks are fed 50 (10 - log-SNR). A table of betas whose log-SNR is 10 - i / 50 at its index i makes DDPM's whole
timesteps these very labels, so the folder is an ordinary DDPMPipeline; labels below 0, log-SNRs above 10, are beyond the table.
A network of classes becomes that of "no class": the row of the null class is added to the bias of its time embedding, exactly.

Every public scheduler has its best settings, by the distance that judges, on samples of another seed.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from jaxtyping import Float, Float64
from score_sde_analytic.runners.networks import ASSETS
from torch import Tensor, nn

from benchmarks.few_worlds import experiment
from score_sde_analytic.compare.fidelity import CLASSIFIERS, Fidelity, features, of_examples
from score_sde_analytic.data import DataRange
from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.errors import InputError
from score_sde_analytic.interop import Fitted, fit_pipeline, load_pipeline, save_pipeline
from score_sde_analytic.metrics import Features
from score_sde_analytic.models.networks import load_unet
from score_sde_analytic.report.style import STYLE, mosaic, save
from score_sde_analytic.report.tables import markdown
from score_sde_analytic.samplers import AnalyticMultistep, DPMSolverPP, Sampler, UniPC
from score_sde_analytic.study import Study

#: Name of the data -> (config, network).
WORLDS = {"digits": ("digits_vp", "digits_unet"), "patches": ("patches", "patches_unet"), "emoji": ("emoji", "emoji_unet")}
#: Seeds that settings are chosen with, and that scores are taken with.
OTHER, SEED = 999, 0
SHOWN, COLUMNS, BATCH = 16, 4, 100
#: Examples that a pass is over, and that judge, at most; components that images without a classifier are judged by.
MEASURED, JUDGING, COMPONENTS = 1000, 4000, 64
SPACINGS = ("leading", "linspace", "trailing")


# --- the network as a pipeline ------------------------------------------------------------------------------------------


def table(times: Mapping[str, Any]) -> list[float]:
    """Betas whose log-SNR at index i is that of the label i: scale (log-SNR + shift) = i, from 0 as far as the training went.

    >>> betas = table({"scale": -50.0, "shift": -10.0, "lo": -8.0})
    >>> alpha_bar = np.cumprod(1.0 - np.array(betas))
    >>> len(betas), np.log(alpha_bar / (1.0 - alpha_bar))[[0, 450, 900]].round(6)
    (901, array([10.,  1., -8.]))
    """
    last = math.floor(times["scale"] * (times["lo"] + times["shift"]))
    log_snr = np.arange(last + 1) / times["scale"] - times["shift"]
    alpha_bar = 1.0 / (1.0 + np.exp(-log_snr))
    return list(1.0 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]]))


def unconditional(net: Any) -> nn.Module:
    """The same network where it knows no classes; of one that does, for its last class, which stands for none."""
    settings = dict(net.config)
    if not settings.get("num_class_embeds"):
        return net
    weights = dict(net.state_dict())
    null = weights.pop("class_embedding.weight")[-1]
    bias = "time_embedding.linear_2.bias"
    other = UNet2DModel.from_config(settings | {"num_class_embeds": None})
    other.load_state_dict(weights | {bias: weights[bias] + null})
    return other.eval()


def pipeline_of(asset: str) -> DDPMPipeline:
    """A shipped network as diffusers has it.

    Raises:
        InputError: a network that is not fed log-SNRs, or predicts something that no table of betas has.
    """
    net, wiring = load_unet(ASSETS / asset)
    if wiring["times"]["name"] != "log_snr" or wiring["predicts"] != "v" or wiring["coordinates"] != "vp":
        raise InputError(f"{asset} is not a network of v that is fed log-SNRs; name digits_unet, patches_unet or emoji_unet")
    scheduler = DDPMScheduler(
        num_train_timesteps=len(table(wiring["times"])), trained_betas=table(wiring["times"]), prediction_type="v_prediction"
    )
    return DDPMPipeline(unconditional(net).float(), scheduler)


# --- schedulers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A scheduler with settings."""

    name: str
    settings: Mapping[str, Any]
    scheduler: Any

    def draw(self, pipe: DDPMPipeline, steps: int, count: int, seed: int) -> Tensor:
        """Samples in [-1, 1], of the same x_T for every scheduler."""
        pipe.scheduler = self.scheduler
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(seed)
        sizes = [min(BATCH, count - start) for start in range(0, count, BATCH)]
        told = {"num_inference_steps": steps, "generator": generator, "output_type": "np"}
        pictures = np.concatenate([pipe(batch_size=size, **told).images for size in sizes])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).mul(2.0).sub(1.0)

    @property
    def told(self) -> str:
        words = (value if isinstance(value, str) else f"{name}={value}" for name, value in self.settings.items())
        return ", ".join(words)


def _choices(**settings: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*settings.values()):
        yield dict(zip(settings, values, strict=True))


#: Public schedulers, with all settings that are tried.
PUBLIC: dict[str, tuple[Any, tuple[dict[str, Any], ...]]] = {
    "DDPM": (DDPMScheduler, tuple(_choices(timestep_spacing=SPACINGS, variance_type=("fixed_small", "fixed_large")))),
    "DDIM": (DDIMScheduler, tuple(_choices(timestep_spacing=SPACINGS, clip_sample=(True, False)))),
    "DPM-Solver++": (
        DPMSolverMultistepScheduler,
        (
            *_choices(timestep_spacing=SPACINGS, solver_order=(2, 3), final_sigmas_type=("zero", "sigma_min")),
            *_choices(use_karras_sigmas=(True,), solver_order=(2, 3)),
            *_choices(use_lu_lambdas=(True,), solver_order=(2, 3)),
        ),
    ),
}


def public(config: Mapping[str, Any]) -> dict[str, list[Entry]]:
    """Every public scheduler with every setting, on the betas of a config."""
    return {
        name: [Entry(name, settings, kind.from_config(config, **settings)) for settings in tried]
        for name, (kind, tried) in PUBLIC.items()
    }


# --- scores -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Data with what judges samples of them."""

    validation: Tensor
    data_range: DataRange
    fidelity: Fidelity


class Leading(Features):
    """The first principal components of the training images."""

    def __init__(self, train: Tensor, count: int) -> None:
        self.all, self.count, self.name = features("pca", train, count), count, f"{count} principal components"

    def __call__(self, x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, "batch d"]:
        return self.all(x)[:, : self.count]

    def config(self) -> dict[str, Any]:
        return self.all.config() | {"name": self.name}


def world(name: str) -> World:
    splits = experiment(WORLDS[name][0]).splits
    train, validation = (_some(part, most) for part, most in ((splits.train, JUDGING), (splits.validation, MEASURED)))
    known_by = features(CLASSIFIERS[name], train) if name in CLASSIFIERS else Leading(train, COMPONENTS)
    return World(validation, splits.data_range, of_examples(train, known_by, splits.data_range, groups=10))


def _some(data: Any, most: int) -> Tensor:
    examples = as_dataset(data)
    return examples.take(range(min(len(examples), most)))


def best(entries: list[Entry], pipe: DDPMPipeline, judged: World, steps: int, count: int) -> Entry:
    """By the distance that judges."""
    scores = [judged.fidelity.judge(entry.draw(pipe, steps, count, OTHER)) for entry in entries]
    return entries[int(np.argmin(scores))]


def rows(entries: list[Entry], pipe: DDPMPipeline, judged: World, steps: int, count: int) -> str:
    """A line for every scheduler."""
    lines = []
    for entry in entries:
        values = judged.fidelity.measure(entry.draw(pipe, steps, count, SEED))
        scored = [f"{values[column.name].value:.3g} ± {values[column.name].stderr:.2g}" for column in judged.fidelity.columns]
        lines.append([entry.name, entry.told, *scored])
    return markdown(["scheduler", "settings", *(column.label for column in judged.fidelity.columns)], lines)


@plt.rc_context(STYLE | {"axes.grid": False})
def sheet(path: Path, entries: list[Entry], pipe: DDPMPipeline, judged: World, steps: int) -> Path:
    """Samples of the same noise side by side, examples of the data last."""
    shown = {entry.name: entry.draw(pipe, steps, SHOWN, SEED) for entry in entries} | {"data": judged.validation[:SHOWN]}
    figure, axes = plt.subplots(1, len(shown), figsize=(2.0 * len(shown), 2.3), layout="constrained")
    for axis, (name, x) in zip(axes, shown.items(), strict=True):
        axis.imshow(mosaic(x, COLUMNS, judged.data_range), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.axis("off")
    return save(figure, path)


def fitted(pipe: DDPMPipeline, judged: World, steps: int) -> Fitted:
    """By one pass, which records what structured covariances need."""
    told = {"steps": (steps,), "data_range": judged.data_range, "record": ("auto",), "progress": False}
    return fit_pipeline(pipe, judged.validation, **told)


#: Of our chains: names of covariances, and shares of DDPM's noise.
CHAINS = tuple(_choices(covariance=("isotropic", "auto"), eta=(0.0, 0.5, 1.0)))


def chains(made: Fitted, steps: int) -> list[Entry]:
    """Every variance on its own grid."""
    study, entries = made.study, []
    for tried in CHAINS:
        variance = study.covariance(tried["covariance"])
        scheduler = type(made.scheduler).from_config(made.scheduler.config)
        scheduler.with_curve(variance, {steps: study.grid(steps, covariance=tried["covariance"])}, eta=tried["eta"])
        entries.append(Entry("ours, chain", {"": str(study.resolve(tried["covariance"])), "eta": tried["eta"]}, scheduler))
    return entries


#: Of our solvers of the second order and above, by name, and the grids of the study that they are tried on.
SOLVERS: dict[str, Callable[[Study], Sampler[Any]]] = {
    "multistep, isotropic": lambda study: AnalyticMultistep(study.model, study.covariance("isotropic")),
    "multistep, structured": lambda study: AnalyticMultistep(study.model, study.covariance("auto")),
    "DPM-Solver++ 2M": lambda study: DPMSolverPP(study.model, 2),
    "DPM-Solver++ 3M": lambda study: DPMSolverPP(study.model, 3),
    "UniPC 3": lambda study: UniPC(study.model, 3),
}
TIMES = ("dp", "log_snr", "karras")


def solvers(made: Fitted, steps: int) -> list[Entry]:
    """Every solver on every grid."""
    entries = []
    for (name, solver), grid in itertools.product(SOLVERS.items(), TIMES):
        scheduler = type(made.scheduler).from_config(made.scheduler.config)
        scheduler.with_sampler(solver(made.study), made.study.grid(steps, grid))
        entries.append(Entry("ours, solver", {"": name, "grid": grid}, scheduler))
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(WORLDS), default="digits")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--count", type=int, default=1000, help="samples that are scored; half as many choose settings")
    parser.add_argument("--folder", type=Path, default=Path("results/pipeline"), help="where the pipeline is written")
    parser.add_argument("--picture", type=Path, default=None)
    options = parser.parse_args()
    judged, folder = world(options.data), options.folder / options.data
    made = fitted(pipeline_of(WORLDS[options.data][1]), judged, options.steps)
    save_pipeline(pipeline_of(WORLDS[options.data][1]), folder, made, report={"steps": (options.steps,)})
    pipe = load_pipeline(folder)
    stock = pipeline_of(WORLDS[options.data][1]).scheduler.config
    half = max(100, options.count // 2)
    tried = [*public(stock).values(), chains(made, options.steps), solvers(made, options.steps)]
    entries = [best(each, pipe, judged, options.steps, half) for each in tried]
    print(rows(entries, pipe, judged, options.steps, options.count))
    print(made.bits())
    sheet(options.picture or folder / "sheets.png", entries, pipe, judged, options.steps)


if __name__ == "__main__":
    main()
