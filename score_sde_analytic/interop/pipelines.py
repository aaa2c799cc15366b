"""`fit_pipeline`: a pipeline of diffusers measured once on data, and the scheduler that puts the result to work inside it.

    pipe = DDPMPipeline.from_pretrained(folder)
    fit_pipeline(pipe, images, data_range=DataRange(-1, 1, 256)).attach(pipe)
    pipe(num_inference_steps=10)

One pass of `analyse`: its study gives curve, covariance, grids, bits and report. A guided pipeline is measured without its
guidance, whose variances are the conditional network's at every scale (`guidance`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from score_sde_analytic.checks import each, whole
from score_sde_analytic.data.examples import Data, Examples, as_dataset
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.guidance import ClassifierFree
from score_sde_analytic.interop.elsewhere import timesteps_for
from score_sde_analytic.interop.parts import CLASSES, Parts
from score_sde_analytic.interop.prompts import embedded, prompted, prompts_of
from score_sde_analytic.interop.swapping import analytic, config_of
from score_sde_analytic.likelihood import Priced
from score_sde_analytic.models.conditions import Constant
from score_sde_analytic.models.diffusers_folder import training_of
from score_sde_analytic.models.latents import PICTURES, LatentDataset
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.study import Settings, Study, analyse
from score_sde_analytic.study.table import Bits

#: Numbers of network calls that a fitted scheduler has grids for.
STEPS = (5, 10, 20, 50)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A measured pipeline, which has not been touched yet.

    Attributes:
        study: what the pass says, whose samples are the network's own states (latents, where it works on them).
        scheduler: with curve, covariance and grids; `attach` puts a copy of it into a pipeline.
        steps: numbers of network calls that it has a grid for.
    """

    study: Study
    scheduler: Any
    steps: tuple[int, ...]

    def attach(self, pipe: Any) -> Any:
        """The pipeline, with a copy of the scheduler in place of its own.

        Raises:
            InputError: a pipeline whose network was trained otherwise than the one that was measured.
        """
        mine, other = (training_of(config_of(scheduler)) for scheduler in (self.scheduler, pipe.scheduler))
        if (mine.schedule.config(), mine.predicts) != (other.schedule.config(), other.predicts):
            raise InputError(
                f"the network of this {type(pipe).__name__} was trained under other noise, or predicts {other.predicts} where"
                f" the one that was measured predicts {mine.predicts}; fit this pipeline by itself"
            )
        pipe.scheduler = self._own_scheduler()
        return pipe

    def _own_scheduler(self) -> Any:
        return type(self.scheduler).from_config(self.scheduler.config)

    def with_fewest(self, *steps: int, data: Data | None = None, **options: Any) -> Fitted:
        """The same, which takes so few steps by `Study.fewest`: for samples; `bits` stay those of chains.

        Args:
            data: examples by which the sampler is chosen, as the network has them; None takes the table.
            options: of `Study.fewest`.

        Raises:
            UnsupportedError: the choice is a sampler that pipelines cannot drive: one with noise that begins elsewhere.
        """
        scheduler = self._own_scheduler()
        for k in each(whole(1), least=1)("steps", steps):
            plan = self.study.fewest(k, data, **options)
            scheduler.with_sampler(plan.sampler, plan.grid, plan.start)
        return replace(self, scheduler=scheduler)

    def timesteps(self, steps: int) -> list[float] | list[int]:
        """Where so many calls are made, as the network is fed its time."""
        return timesteps_for(self.study.grid(steps), self.scheduler)

    def bits(self, *steps: int) -> Bits[Priced]:
        """Predicted bits/dim of the scheduler's chains of so many steps, of latents where they are; no network call."""
        return self.study.bits(*(steps or self.steps))

    def report(self, folder: str | Path, data: Data | None = None, **options: Any) -> list[Path]:
        """The study's page with its pictures (`Study.report`)."""
        return self.study.report(folder, data, **({"steps": self.steps, "samples_at": self.steps} | options))


def from_pipeline(pipe: Any, guidance_scale: float = 1.0, null: str | int | None = None, **conditions: Any) -> ScoreModel:
    """The network of a pipeline as a `ScoreModel`, wired as its scheduler says.

    Args:
        guidance_scale: above 1 for a guided model.
        null: what stands for no condition, where it is guided: a prompt ("" where none is said), or a class.
        conditions: prompt="..", the same for all examples, or the network's own arguments, as `ScoreModel.given` takes them.

    Raises:
        UnsupportedError: a pipeline without one network of a known forward process, or fed more than its noisy state.
        InputError: a condition that the network does not take.
    """
    parts = Parts.of(pipe)
    model = parts.training.model(parts.net, conditions=parts.conditions)
    if "prompt" in conditions:
        conditions |= _constants(pipe, parts, conditions.pop("prompt"))
    if guidance_scale != 1.0:
        model = ClassifierFree(model, guidance_scale, _null(pipe, parts, null))
    return model.given(**conditions)


def fit_pipeline(
    pipe: Any,
    data: Data,
    *,
    prompts: str | Sequence[str] | None = None,
    class_labels: Any = None,
    guidance_scale: float = 1.0,
    null: str | int | None = None,
    column: str = "",
    steps: Sequence[int] = STEPS,
    covariance: str = "isotropic",
    data_range: DataRange | None = None,
    path: str | Path | None = None,
    **how: Any,
) -> Fitted:
    """Measure the network of a pipeline on data that it was not trained on; the pipeline is left as it is until `attach`.

    Args:
        data: pictures, as `images(..)`, tensors or any data set; a pipeline with an autoencoder is measured on their latents
            (a `LatentDataset` is taken as it is).
        prompts: of the pictures: a column of the data by its name, a list of one for each, or a list of one for all.
        class_labels: of the pictures: where an item has its class, by key or position, or one for each.
        guidance_scale: of the study's samples; what the scheduler is given is right at every scale.
        null: what stands for no condition, where it is guided: a prompt ("" where none is said), or a class.
        column: of the picture in an item, where it has an unusual name.
        steps: numbers of network calls to have optimal grids for; others are spaced as the pipeline's own scheduler does.
        covariance: "isotropic", "auto" for the best recorded one by held-out bits, or another name of `study.names`.
        data_range: range and levels of pictures; as the data declare, where they do.
        path: folder of latents and pass: an interrupted one goes on, a finished one is read.
        how: of `analyse`: budget, settings, seed, train, device, progress, ..

    Raises:
        UnsupportedError: a pipeline whose network has no known forward process, or is fed more than its noisy state.
        InputError: prompts or classes that are missing, or data that do not fit.
    """
    parts, scheduler = Parts.of(pipe), analytic(pipe.scheduler)
    numbers = tuple(each(whole(2), least=1)("steps", steps))
    source = _Source(data, class_labels, column, getattr(data, "data_range", None) if data_range is None else data_range)
    folder = None if path is None else Path(path)
    examples, declared = source.examples(parts, folder, pipe.device, how.get("progress", True))
    if prompts is not None:
        examples = _prompted(pipe, parts, examples, prompts_of(data, prompts, len(examples)))
    _require(pipe, parts, examples)
    if class_labels is not None and CLASSES not in parts.conditions:
        raise InputError(f"the network of {type(pipe).__name__} is given no classes; leave class_labels out")
    told = {"device": pipe.device, "path": folder, "record": ()} | how
    told["settings"] = replace(_within(told.get("settings") or Settings(), parts), covariance=covariance)
    study = analyse(from_pipeline(pipe), examples, declared, **told)
    scheduler.with_curve(study.covariance(), {k: study.grid(k) for k in numbers})
    if guidance_scale != 1.0:
        study = study.guided(guidance_scale, _null(pipe, parts, null))
    return Fitted(study, scheduler, numbers)


def _within(settings: Settings, parts: Parts) -> Settings:
    """Noise levels that a network of a table was trained on, and that its timesteps can name."""
    top = parts.highest
    knots = replace(settings.knots, high=min(settings.knots.high, top))
    return replace(settings, knots=knots, search=replace(settings.search, log_snr_max=min(settings.search.log_snr_max, top)))


@dataclass(frozen=True)
class _Source:
    """The pictures of a fit, or what stands for them.

    Attributes:
        data_range: of pictures; None for what is undeclared.
    """

    data: Any
    class_labels: Any
    column: str
    data_range: DataRange | None

    def examples(
        self, parts: Parts, path: Path | None, device: torch.device | str, progress: bool
    ) -> tuple[Examples, DataRange | None]:
        """What the network learned, with their declared range: pictures, or the latents of pictures, which have none."""
        given = self._given()
        if given.space or parts.autoencoder is None:
            return given, None if given.space else self.data_range
        kept = None if path is None else path / "latents"
        declared = PICTURES if self.data_range is None else self.data_range
        told: dict[str, Any] = {"data_range": declared, "device": device, "progress": progress}
        return as_dataset(LatentDataset(parts.autoencoder, given, kept, **told)), None

    def _given(self) -> Examples:
        named = None if self.class_labels is None else {CLASSES: self.class_labels}
        if named is None and not self.column:
            return as_dataset(self.data, self.data_range)
        return Examples(self.data, self.data_range, self.column, named)


def _prompted(pipe: Any, parts: Parts, examples: Examples, words: Sequence[str]) -> Examples:
    if not parts.embeddings:
        raise InputError(f"{type(pipe).__name__} encodes no prompts; leave prompts out")
    return Examples(prompted(pipe, examples, words, parts.embeddings))


def _require(pipe: Any, parts: Parts, examples: Examples) -> None:
    """Raises InputError where the data lack what the network needs."""
    ways = dict.fromkeys(parts.embeddings, "prompts=") | {CLASSES: "class_labels="}
    for name in parts.conditions:
        if name not in examples.conditions:
            raise InputError(f"the network of {type(pipe).__name__} needs {name} of every example: give {ways[name]}")


def _constants(pipe: Any, parts: Parts, prompt: str) -> dict[str, Constant]:
    """What the network is given of one prompt, for all examples."""
    if not parts.embeddings:
        raise InputError(f"{type(pipe).__name__} encodes no prompts; leave the prompt out")
    return {name: Constant(rows[0]) for name, rows in embedded(pipe, [prompt], parts.embeddings).items()}


def _null(pipe: Any, parts: Parts, null: str | int | None) -> Mapping[str, Any]:
    """The conditions that stand for none."""
    if parts.embeddings:
        return _constants(pipe, parts, str(null or ""))
    if null is None and "num_embeds_ada_norm" in parts.raw.config:
        null = parts.classes  # the row after the last, which DiT's dropped labels are
    if null is None or not parts.classes:
        raise InputError("guidance needs the class that stood for none when the network was trained: give null=")
    return {CLASSES: null}
