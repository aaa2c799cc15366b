"""A measured pipeline as a folder: it loads anywhere as a stock pipeline, and with this package it is analytic again.

FOLDER/model_index.json and components    as diffusers writes them; the scheduler is named DDPMScheduler, or a flow's
FOLDER/scheduler/scheduler_config.json    its settings, and under the private key what was measured
FOLDER/study/                             the study, which `open_study` reads
FOLDER/report/, FOLDER/README.md          pictures, numbers and page of the study; the model card

diffusers does not import the package of a component because a folder names it, so the scheduler goes by its stock name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_sde_analytic.data.examples import Data
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.extras import optional
from score_sde_analytic.interop.carried import KEY
from score_sde_analytic.interop.pipelines import Fitted, from_pipeline
from score_sde_analytic.interop.safety import CODE, vetted
from score_sde_analytic.interop.swapping import analytic, stock
from score_sde_analytic.report import drawing
from score_sde_analytic.study import Study

STUDY, REPORT, CARD = "study", "report", "README.md"


def save_pipeline(
    pipe: Any,
    directory: str | Path,
    fitted: Fitted | None = None,
    data: Data | None = None,
    report: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write a pipeline that loads anywhere, without this package too; the pipeline itself is left as it is.

    Args:
        fitted: what `fit_pipeline` returned: its scheduler, attached or not, its study, and a model card with its report.
        data: that the pass did not see: their bits/dim are measured for the report.
        report: of `Study.report`: steps, samples_at, count, seed.
        options: of `save_pretrained`: variant, max_shard_size, ..

    Raises:
        InputError: no fitted, and a scheduler that carries nothing.
        MissingExtraError: what draws the report is not installed.
    """
    folder = Path(directory)
    scheduler = pipe.scheduler if fitted is None else fitted.scheduler
    if KEY not in scheduler.config:
        raise InputError(f"{type(scheduler).__name__} carries no curve; fit the pipeline first: fit_pipeline(pipe, data)")
    if fitted is not None:
        drawing("figures", user="the report of a pipeline")  # before anything is written
    stand_in = copy.copy(pipe)
    stand_in.register_modules(scheduler=stock(scheduler))
    stand_in.save_pretrained(folder, **({"safe_serialization": True} | options))
    if fitted is not None:
        from score_sde_analytic.interop import card  # pictures take long to import

        fitted.study.save(folder / STUDY)
        fitted.report(folder / REPORT, data, **(report or {}))
        card.write(folder / CARD, fitted, type(pipe).__name__, folder / REPORT)
    return folder


def load_pipeline(source: str | Path, **options: Any) -> Any:
    """A saved pipeline with its analytic scheduler; from a folder, or from the hub by its name there.

    Args:
        options: of `from_pretrained`: torch_dtype, variant, ..; of the hub: revision, token, cache_dir.

    Raises:
        MissingFileError: no pipeline there.
        InputError: pickles, code or names that lead out of the folder (`safety`), or a pipeline that was not fitted.
    """
    folder = _local(source, options)
    pipe = _stock_pipeline(folder, options)
    if not pipe.scheduler.config.get(KEY):
        raise InputError(f"the pipeline in {folder} carries no curve; fit it, fit_pipeline(pipe, data), and save it again")
    pipe.scheduler = analytic(pipe.scheduler)
    return pipe


def open_study(source: str | Path, **options: Any) -> Study:
    """The study of a saved pipeline: curve, grids, bits and samples for any number of steps, with nothing measured again.

    Args:
        options: of `load_pipeline`; weights must be of the precision that was measured.

    Raises:
        MissingFileError: no pipeline there, or one without a study.
        InputError: as of `load_pipeline`, or a study of other weights.
    """
    folder = _local(source, options)
    pipe = load_pipeline(folder, **options)
    return Study.load(folder / STUDY, from_pipeline(pipe), pipe.device)


def push_pipeline(directory: str | Path, name: str, private: bool = False, token: str | None = None, **options: Any) -> str:
    """Upload a saved pipeline to the hub, as the repository `name`; returns its address there.

    Args:
        options: of `HfApi.upload_folder`: revision, commit_message, ..

    Raises:
        MissingFileError, InputError: it holds no pipeline, or what no one should load (`safety`).
    """
    folder = vetted(directory)
    api = _hub().HfApi(token=token)
    api.create_repo(name, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=name, folder_path=folder, **options))


def _stock_pipeline(folder: Path, options: Mapping[str, Any]) -> Any:
    """As diffusers loads it, from safetensors alone."""
    diffusers = optional("diffusers", extra="images", user="a pipeline")
    told = {"local_files_only": True, "use_safetensors": True} | dict(options)
    return diffusers.DiffusionPipeline.from_pretrained(vetted(folder), **told)


#: Of options, those that are the hub's.
ONLINE = ("revision", "token", "cache_dir", "force_download", "proxies")


def _local(source: str | Path, options: dict[str, Any]) -> Path:
    """The folder itself, or where a repository of the hub was brought; takes the hub's own out of the options."""
    online = {name: options.pop(name) for name in ONLINE if name in options}
    folder = Path(source)
    if folder.is_dir() or not _is_repository(str(source)):
        return folder
    pickles = [f"*{end}" for end in CODE]
    try:
        return Path(_hub().snapshot_download(str(source), ignore_patterns=pickles, **online))
    except OSError as error:  # what the hub raises of repositories and connections
        raise MissingFileError(f"there is no folder {source} here, and the hub gives none of that name ({error})") from error


def _is_repository(name: str) -> bool:
    owner, _, repository = name.partition("/")
    return bool(owner.strip(".~") and repository) and "/" not in repository


def _hub() -> Any:
    return optional("huggingface_hub", extra="images", user="the hub")
