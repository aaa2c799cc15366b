"""--mode=translate: pictures of another domain led to that of the data, by SDEdit and with the energies of EGSDE.

Every start of config.translate.start is taken without energies, which traces SDEdit's frontier, and with them at every
strength. An interrupted run goes on: finished points are kept in WORKDIR/translate.safetensors.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde_analytic.compare.fidelity import CLASSIFIERS, displayed, features
from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import versions
from score_sde_analytic.files import write_bytes, write_text
from score_sde_analytic.guidance import CosineFeatures, Energy, LowPass
from score_sde_analytic.interruption import noted
from score_sde_analytic.likelihood.evaluation import digest
from score_sde_analytic.metrics import Classifier, NoisyClassifier, Reference, load_classifier
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.report import translation as pictures
from score_sde_analytic.study import translation
from score_sde_analytic.study.plan import SamplingPlan
from score_sde_analytic.study.translated import CRITERIA, Criteria, Scores, above_frontier

from . import datasets
from .domains import Domain, domain
from .experiment import Experiment
from .sampling import Sheets

SOURCE = "source"


@dataclass(frozen=True)
class Point:
    """Where samples start, and how strong energies are; 0 is SDEdit."""

    log_snr: float
    strength: float

    @property
    def method(self) -> str:
        return f"energies x {self.strength:g}" if self.strength else "SDEdit"

    def __str__(self) -> str:
        return f"{self.method}, from {self.log_snr:g}"

    @property
    def array(self) -> str:
        """Its name in translate.npz."""
        return f"energies_{self.strength:g}_from_{self.log_snr:g}" if self.strength else f"sdedit_from_{self.log_snr:g}"


@dataclass(frozen=True)
class Translation:
    """What an experiment's config.translate asks for, each part made on first use."""

    experiment: Experiment
    results: dict[Point, Tensor] = field(default_factory=dict)

    @property
    def settings(self) -> Any:
        return self.experiment.config.translate

    @cached_property
    def source(self) -> Domain:
        """The pictures that are translated."""
        experiment, settings = self.experiment, self.settings
        every = domain(experiment.config, experiment.splits, settings.source)
        return every.of_class(settings.source_label).first(settings.count)

    @property
    def points(self) -> list[Point]:
        """SDEdit first."""
        strengths = [0.0, *(s for s in self.settings.strengths if s and self.settings.energies)]
        return [Point(log_snr, strength) for strength in dict.fromkeys(strengths) for log_snr in self.settings.start]

    @cached_property
    def domains(self) -> NoisyClassifier | None:
        """The classifier of domains."""
        folder = self.settings.classifier
        return _noisy(load_classifier(folder)[0], folder) if folder else None

    @cached_property
    def energies(self) -> list[tuple[Energy, float]]:
        return [(EXPERTS[name](self), weight) for name, weight in self.settings.energies]

    @property
    def conditions(self) -> dict[str, int]:
        """The label of results, or that which says that there is none."""
        config, argument = self.experiment.config, self.experiment.config.network.condition
        if not argument:
            if self.settings.label >= 0:
                raise InputError(
                    "translate.label is for networks that are given labels: set network.condition, or leave it at -1"
                )
            return {}
        null = config.train.classes if config.sample.null < 0 else config.sample.null
        return {argument: null if self.settings.label < 0 else self.settings.label}

    def plan(self, point: Point) -> SamplingPlan:
        settings = self.settings
        energies = [(energy, point.strength * weight) for energy, weight in self.energies] if point.strength else []
        names = {name: settings[name] for name in ("steps", "reference", "grid", "covariance")}
        device = self.experiment.device
        study = self.experiment.sampled
        return translation(
            study, self.source.x.to(device), point.log_snr, energies=energies, conditions=self.conditions, **names
        )

    def identity(self, plan: SamplingPlan) -> str:
        """A short name of all that decides the results of a plan."""
        settings = self.settings
        decides = {
            "model": plan.sampler.model.fingerprint(),
            "sampler": plan.sampler.config(),
            "covariances": plan.sampler.fingerprints(plan.grid),
            "times": plan.grid.times,
            **plan.beginning,
            "drawn": [self.conditions, settings.seed, settings.batch_size, str(plan.device)],
        }
        return digest(json.dumps(decides, sort_keys=True, default=str))

    @cached_property
    def criteria(self) -> Criteria:
        splits, label = self.experiment.splits, self.settings.label
        classes = self.classes
        return Criteria(
            self.source.x,
            splits.data_range,
            self._target,
            self.settings.factor,
            classes=classes,
            labels=self.source.labels if classes is not None and label < 0 else None,
            wanted=torch.full((len(self.source.x),), label) if label >= 0 else None,
            noisy=self.domains,
        )

    @cached_property
    def classes(self) -> Classifier | None:
        """The classifier that comes with the package for the data, where there is one."""
        name = CLASSIFIERS.get(datasets.data_title(self.experiment.config))
        return load_classifier(name)[0] if name else None

    @property
    def _target(self) -> Reference:
        """Test examples of the target, of its label where there is one."""
        config, splits = self.experiment.config, self.experiment.splits
        named = config.compare.features or CLASSIFIERS.get(datasets.data_title(config), "pixels")
        train = splits.held("train") if named not in (*CLASSIFIERS.values(), "pixels") else splits.held("train", 1)
        return Reference.of(as_dataset(target_data(self)), features(named, train))


def target_data(asked: Translation) -> Tensor:
    """Examples of the target that no network learned from, of its label where there is one."""
    config, splits = asked.experiment.config, asked.experiment.splits
    data = torch.cat([splits.held("validation"), splits.held("test")])
    if asked.settings.label < 0:
        return data
    return data[torch.cat(datasets.labels(config)[1:]) == asked.settings.label]


def _noisy(net: Classifier, folder: str) -> NoisyClassifier:
    if not isinstance(net, NoisyClassifier):
        raise InputError(
            f"the classifier in {folder} knows images without noise only: train one with --config.classifier.log_snr='(-6, 8)'"
        )
    return net


def _cosine(asked: Translation) -> Energy:
    net = asked.domains
    if net is None:
        raise InputError(
            "the energy cosine compares features of a classifier of domains, which --mode=train_classifier with"
            " classifier.against and classifier.log_snr makes: name its folder, --config.translate.classifier=FOLDER"
        )
    return CosineFeatures(copy.deepcopy(net).to(asked.experiment.device).states, digest_of(net))


def _low_pass(asked: Translation) -> Energy:
    return LowPass(asked.settings.factor)


#: Energies by name.
EXPERTS: dict[str, Callable[[Translation], Energy]] = {"cosine": _cosine, "lowpass": _low_pass}


def run(experiment: Experiment) -> list[Path]:
    """Translate, measure, write pictures, arrays, the table and the page."""
    asked = Translation(experiment)
    rows = {SOURCE: asked.criteria.of_source()}  # refuses what cannot be measured, before any work
    file = Sheets.open(experiment.workdir / "translate.safetensors", asked.settings.seed)
    with noted(lambda: f"{len(file.made)} points are in {file.path}", file.save):
        results = {point: shown(asked, point, file) for point in asked.points}
    file.finish()
    scores = with_frontier({point: asked.criteria(x) for point, x in results.items()})
    rows |= {str(point): one for point, one in scores.items()}
    print(f"\n{_subject(asked)}\n\n{pictures.table(rows)}\n\n{_told(scores)}")
    drawn = [_side_by_side(asked, results), *_frontier(asked, scores)]
    page = pictures.write(experiment.workdir / "translate.html", rows, _content(asked, scores, drawn))
    return [page, *drawn, file.path, _arrays(asked, results), _table(asked, rows), _recorded(asked, rows)]


def shown(asked: Translation, point: Point, file: Sheets) -> Tensor:
    """Results of a point as the images they stand for."""
    plan, settings = asked.plan(point), asked.settings
    sheet = file.sheet(point.array, plan, len(asked.source.x), settings.batch_size, asked.identity(plan))
    return displayed(torch.from_numpy(sheet.x), asked.experiment.splits.data_range)


def with_frontier(scores: Mapping[Point, Scores]) -> dict[Point, Scores]:
    """The scores, and of points with energies how far they lie above SDEdit's frontier."""
    own = [one for point, one in scores.items() if not point.strength and "frechet" in one]
    above = {point: above_frontier(one, own) for point, one in scores.items() if point.strength and own}
    return {point: one | ({"above": found} if (found := above.get(point)) else {}) for point, one in scores.items()}


def _told(scores: Mapping[Point, Scores]) -> str:
    beyond = [str(point) for point, one in scores.items() if "above" in one and one["above"].value < -2.0 * one["above"].stderr]
    found = "; ".join(beyond) or "no point"
    return f"Beyond SDEdit's frontier, straight between its starts, by more than two standard errors: {found}."


def _subject(asked: Translation) -> str:
    return f"{len(asked.source.x)} pictures of {asked.settings.source}"


def _side_by_side(asked: Translation, results: Mapping[Point, Tensor]) -> Path:
    rows = {SOURCE: asked.source.x} | {str(point): x for point, x in results.items()}
    first = {label: x[: asked.settings.shown] for label, x in rows.items()}
    experiment = asked.experiment
    return pictures.side_by_side(experiment.workdir / "translate.png", first, experiment.splits.data_range)


def _frontier(asked: Translation, scores: Mapping[Point, Scores]) -> list[Path]:
    """The picture, where distances are known."""
    if not all("frechet" in one for one in scores.values()):
        return []
    by_method = {method: _of(scores, method) for method in dict.fromkeys(point.method for point in scores)}
    path = asked.experiment.workdir / "translate_frontier.png"
    return [pictures.frontier(path, by_method.pop("SDEdit"), by_method)]


def _table(asked: Translation, rows: Mapping[str, Scores]) -> Path:
    path = asked.experiment.workdir / "translate.md"
    words = "\n".join(f"- {name}: {text}" for name, text in _criteria())
    write_text(path, f"{pictures.table(rows)}\n\n{words}\n")
    return path


def _criteria() -> list[tuple[str, str]]:
    return [(pictures.HEADS[name], words) for name, words in CRITERIA.items()]


def _content(asked: Translation, scores: Mapping[Point, Scores], drawn: list[Path]) -> dict[str, Any]:
    """What the page says besides the table."""
    experiment, names = asked.experiment, [path.name for path in drawn]
    facts = [*asked.settings.to_dict().items(), ("model", experiment.model.fingerprint()), ("versions", versions())]
    told = {"subject": _subject(asked), "summary": _told(scores), "command": experiment.command}
    return told | {"facts": facts, "criteria": _criteria(), "pictures": names[0], "frontier": next(iter(names[1:]), None)}


def _of(scores: Mapping[Point, Scores], method: str) -> dict[float, Scores]:
    return {point.log_snr: one for point, one in scores.items() if point.method == method}


def _arrays(asked: Translation, results: Mapping[Point, Tensor]) -> Path:
    """Levels 0, 1, .. of the data where they have some, else values."""
    path, held = asked.experiment.workdir / "translate.npz", io.BytesIO()
    arrays = {SOURCE: asked.source.x} | {point.array: x for point, x in results.items()}
    stored: dict[str, Any] = {name: _stored(x, asked.experiment.splits.data_range) for name, x in arrays.items()}
    np.savez_compressed(held, **stored)
    write_bytes(path, held.getvalue())
    return path


def _stored(x: Tensor, declared: DataRange) -> np.ndarray:
    if declared.levels is None:
        return x.numpy()
    return declared.index(x).numpy().astype(np.uint8 if declared.levels <= 256 else np.uint16)


def _recorded(asked: Translation, rows: Mapping[str, Scores]) -> Path:
    content = {"pictures": len(asked.source.x), "settings": asked.settings.to_dict(), "scores": _plain(rows.items())}
    return asked.experiment.record("translate", content)


def _plain(rows: Iterable[tuple[str, Scores]]) -> dict[str, Any]:
    return {label: {name: pictures.as_plain(one) for name, one in scores.items()} for label, scores in rows}
