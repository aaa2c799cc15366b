"""Measured pipelines as folders: they load with this package and without it, say what they are, and are vetted."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers", reason="pipelines are those of diffusers")

import huggingface_hub
import numpy as np
import torch
from diffusers import DDIMPipeline, DDPMScheduler, DiffusionPipeline

import tiny_pipelines as tiny
from score_sde_analytic import DataRange
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.interop import Fitted, fit_pipeline, load_pipeline, open_study, push_pipeline, save_pipeline
from score_sde_analytic.interop.safety import vetted

ROOT = Path(__file__).parents[2]
RANGE = DataRange(-1.0, 1.0, 256)
REPORT = {"steps": (3, 5), "samples_at": (3,), "count": 4}
#: A run of a pipeline, printed; `pipe` is there.
RUN = """
import torch
torch.set_num_threads(1)
pipe.set_progress_bar_config(disable=True)
x = pipe(batch_size=2, num_inference_steps=5, generator=torch.Generator().manual_seed(7), output_type="np").images
print(type(pipe.scheduler).__name__, pipe.scheduler.timesteps.tolist(), float(x.sum()))
"""
#: Nothing of this package can be imported.
WITHOUT = """
import sys
sys.modules["score_sde_analytic"] = None
from diffusers import DDPMPipeline
pipe = DDPMPipeline.from_pretrained(sys.argv[1])
assert "_analytic" in pipe.scheduler.config
"""
WITH = """
import sys
from score_sde_analytic.interop import load_pipeline
pipe = load_pipeline(sys.argv[1])
"""
FROM_CONFIG = """
import sys
from diffusers import DDPMPipeline
from score_sde_analytic.interop.diffusers import AnalyticDPMScheduler
pipe = DDPMPipeline.from_pretrained(sys.argv[1])
pipe.scheduler = AnalyticDPMScheduler.from_config(pipe.scheduler.config)
"""


STOCK = {
    "stable_diffusion": ("DDPMScheduler", "AnalyticDPMScheduler"),
    "stable_diffusion_3": ("FlowMatchEulerDiscreteScheduler", "AnalyticFlowScheduler"),
}


def run(pipe: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    return pipe(batch_size=2, num_inference_steps=5, generator=generator, output_type="np").images


@pytest.fixture(scope="module")
def measured() -> tuple[Any, Fitted]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pipe = tiny.unconditional()
        return pipe, fit_pipeline(pipe, tiny.pictures(), data_range=RANGE, steps=(3, 5), **tiny.QUICK)


@pytest.fixture(scope="module")
def plain_folder(measured, tmp_path_factory) -> Path:
    """A pipeline with its scheduler attached, without study and card."""
    pipe, fitted = measured
    folder = save_pipeline(fitted.attach(tiny.unconditional()), tmp_path_factory.mktemp("plain"))
    assert type(pipe.scheduler) is DDPMScheduler
    return folder


@pytest.fixture
def folder(plain_folder, tmp_path) -> Path:
    """One that may be spoilt."""
    return Path(shutil.copytree(plain_folder, tmp_path / "pipe"))


def process(code: str, folder: Path) -> tuple[str, str]:
    """What a fresh process prints and complains of."""
    command = [sys.executable, "-c", code + RUN, str(folder)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# --- saved and loaded ---------------------------------------------------------------------------------------------------


def test_the_folder_names_a_stock_scheduler(plain_folder):
    """diffusers refuses components of packages that were not imported, so none is named."""
    index = json.loads((plain_folder / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    config = json.loads((plain_folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == "DDPMScheduler"
    assert set(config["_analytic"]["grids"]) == {"3", "5"}


def test_loaded_it_is_what_it_was(measured, plain_folder):
    _, fitted = measured
    attached = fitted.attach(tiny.unconditional())
    loaded = load_pipeline(plain_folder)
    assert loaded.scheduler.config["_analytic"] == attached.scheduler.config["_analytic"]
    assert np.array_equal(run(loaded), run(attached))


def test_saving_leaves_the_pipeline_as_it_is(measured, tmp_path):
    _, fitted = measured
    attached = fitted.attach(tiny.unconditional())
    scheduler, index = attached.scheduler, dict(attached.config)
    save_pipeline(attached, tmp_path)
    assert attached.scheduler is scheduler
    assert dict(attached.config) == index


@pytest.mark.slow
def test_fresh_processes_with_and_without_this_package(measured, plain_folder):
    _, fitted = measured
    here = run(fitted.attach(tiny.unconditional()))
    printed, complaints = process(WITHOUT, plain_folder)
    assert printed.split()[0] == "DDPMScheduler"
    assert "[800, 600, 400, 200, 0]" in printed
    assert "_analytic" not in complaints
    for code in (WITH, FROM_CONFIG):
        printed, complaints = process(code, plain_folder)
        assert printed.split()[0] == "AnalyticDPMScheduler"
        assert float(printed.split()[-1]) == pytest.approx(float(here.sum()), abs=1e-5)
        assert "_analytic" not in complaints


def test_what_was_not_fitted_is_said(tmp_path):
    pipe = tiny.unconditional()
    with pytest.raises(InputError, match="fit the pipeline first"):
        save_pipeline(pipe, tmp_path)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="carries no curve"):
        load_pipeline(tmp_path)
    with pytest.raises(MissingFileError, match=r"no model_index\.json"):
        load_pipeline(tmp_path / "nowhere")


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.stable_diffusion_3])
def test_text_pipelines_by_their_stock_names(tmp_path, make):
    pytest.importorskip("transformers")
    pipe = make(tmp_path / "words")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fitted = fit_pipeline(pipe, tiny.pictures(channels=3, side=8), prompts=["low"], steps=(3,), **tiny.QUICK)
    folder = save_pipeline(fitted.attach(pipe), tmp_path / "pipe")
    stock, ours = STOCK[make.__name__]
    assert json.loads((folder / "model_index.json").read_text())["scheduler"] == ["diffusers", stock]
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3")) if make is tiny.stable_diffusion_3 else {}
    loaded = load_pipeline(folder, **absent)
    assert type(loaded.scheduler).__name__ == ours
    assert loaded.scheduler.grids == fitted.scheduler.grids


def test_a_pipeline_that_makes_every_scheduler_its_own(measured, tmp_path):
    """DDIMPipeline turns what it is built with into a DDIMScheduler, loaded or not; what is attached afterwards stays."""
    pipe, fitted = measured
    attached = fitted.attach(DDIMPipeline(pipe.unet, pipe.scheduler))
    assert type(attached.scheduler).__name__ == "AnalyticDPMScheduler"
    loaded = load_pipeline(save_pipeline(attached, tmp_path))
    assert type(loaded).__name__ == "DDIMPipeline"
    assert np.array_equal(run(loaded), run(attached))
    assert np.array_equal(run(attached), run(fitted.attach(tiny.unconditional())))  # whatever eta it passes


# --- study and card -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_folder(measured, tmp_path_factory) -> Path:
    pipe, fitted = measured
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return save_pipeline(pipe, tmp_path_factory.mktemp("whole"), fitted, tiny.pictures(8), REPORT)


@pytest.mark.slow
def test_the_study_is_in_it(measured, whole_folder):
    _, fitted = measured
    study = open_study(whole_folder)
    assert np.array_equal(study.moments.residual, fitted.study.moments.residual)
    assert study.grid(5).times == fitted.study.grid(5).times
    assert study.bits(5)[5].total == fitted.study.bits(5)[5].total


@pytest.mark.slow
def test_the_card_shows_what_the_report_says(measured, whole_folder):
    _, fitted = measured
    card = (whole_folder / "README.md").read_text()
    links = [line.partition("](")[2].rstrip(")") for line in card.splitlines() if line.startswith("![")]
    assert len(links) >= 4
    assert all((whole_folder / link).is_file() for link in links)
    assert card.startswith("---\nlibrary_name: diffusers\n")
    told = json.loads((whole_folder / "report" / "study_report.json").read_text())
    bits = f"{fitted.study.bits(5)[5].total.value:.2f}"
    assert any(bits in line for line in card.splitlines() if line.startswith("| optimal times"))
    assert all(remark in card for remark in told["remarks"])


@pytest.mark.slow
def test_a_guided_study_is_read_as_that_of_its_network(tmp_path):
    """The pass measured the conditional network, which is what the folder holds; samples of the report are guided."""
    pipe = tiny.with_classes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        told = {"class_labels": torch.arange(40) % 5, "guidance_scale": 2.0, "steps": (3, 5)}
        fitted = fit_pipeline(pipe, tiny.pictures(channels=3, side=8), **told, **tiny.QUICK)
        folder = save_pipeline(pipe, tmp_path, fitted, report=REPORT)
    study = open_study(folder)
    assert not study.model.guidance
    assert np.array_equal(study.moments.residual, fitted.study.moments.residual)
    assert "## Bits/dim of latents" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_study_of_other_weights_is_refused(whole_folder, tmp_path):
    other = Path(shutil.copytree(whole_folder, tmp_path / "other"))
    pipe = DiffusionPipeline.from_pretrained(other)
    with torch.no_grad():
        pipe.unet.conv_out.bias.add_(1.0)
    pipe.unet.save_pretrained(other / "unet")
    with pytest.raises(InputError, match=r"model\.network"):
        open_study(other)


# --- the hub ------------------------------------------------------------------------------------------------------------


class LocalHub:
    """The hub as a folder of folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: list[str] = []

    def create_repo(self, name: str, **options: Any) -> None:
        self.made.append(name)

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        shutil.copytree(folder_path, self.root / repo_id)
        return f"https://huggingface.co/{repo_id}"

    def snapshot_download(self, name: str, ignore_patterns: list[str], **options: Any) -> str:
        taken = self.root / "taken" / name
        shutil.copytree(self.root / name, taken, ignore=shutil.ignore_patterns(*ignore_patterns))
        return str(taken)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> LocalHub:
    made = LocalHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda api, name, **options: made.create_repo(name, **options))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda api, **options: made.upload_folder(**options))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def test_pushed_and_pulled(measured, folder, hub, tmp_path, monkeypatch):
    _, fitted = measured
    monkeypatch.chdir(tmp_path)
    assert push_pipeline(folder, "someone/pipe", private=True) == "https://huggingface.co/someone/pipe"
    assert hub.made == ["someone/pipe"]
    (hub.root / "someone" / "pipe" / "unet" / "evil.bin").write_bytes(b"")  # is left there
    loaded = load_pipeline("someone/pipe", revision="main")
    assert np.array_equal(run(loaded), run(fitted.attach(tiny.unconditional())))


# --- what is refused ----------------------------------------------------------------------------------------------------


class Evil:
    """A pickle that writes a file where it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_pickles_are_never_opened(folder, tmp_path, hub):
    mark = tmp_path / "opened"
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(InputError, match="is a pickle or code"):
        load_pipeline(folder)
    with pytest.raises(InputError, match="is a pickle or code"):
        push_pipeline(folder, "someone/pipe")
    assert not mark.exists()
    assert not hub.made


def index_of(folder: Path, change: Any) -> None:
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda index: index.update({"../../unet": ["diffusers", "UNet2DModel"]}), "leads out of the folder"),
        (lambda index: index.update({"/tmp/unet": ["diffusers", "UNet2DModel"]}), "leads out of the folder"),
        (lambda index: index.update(unet=["os", "system"]), "takes unet from 'os'"),
        (lambda index: index.update(unet=["score_sde_analytic.interop.x", "Y"]), "a package that is not loaded from"),
        (lambda index: index.update(_class_name="AutoModel"), "no pipeline of diffusers"),
        (lambda index: index.update(_class_name=["pipeline", "Evil"]), "_class_name"),
    ],
)
def test_names_that_lead_elsewhere(folder, change, why):
    index_of(folder, change)
    with pytest.raises(InputError, match=why):
        load_pipeline(folder)


def test_links_and_shards_that_lead_elsewhere(folder, tmp_path):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    outside = weights.rename(tmp_path / "outside.safetensors")
    weights.symlink_to(outside)
    with pytest.raises(InputError, match="a link out of the folder"):
        load_pipeline(folder)
    weights.unlink()
    shards = {"metadata": {}, "weight_map": {"conv_in.weight": "../../outside.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(InputError, match="leads out of its folder"):
        load_pipeline(folder)


def test_links_to_blobs_of_a_snapshot_are_followed(folder, tmp_path):
    """As the hub's cache has them: models--x/snapshots/REVISION/file -> models--x/blobs/DIGEST."""
    cache = tmp_path / "models--x"
    snapshot, blobs = cache / "snapshots" / "0", cache / "blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    weights = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    weights.symlink_to(shutil.move(weights, blobs / "1"))
    assert vetted(snapshot) == snapshot
    assert type(load_pipeline(snapshot).scheduler).__name__ == "AnalyticDPMScheduler"


def test_a_damaged_curve_is_refused(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    config["_analytic"]["grids"]["5"] = [0.2, 0.5, 0.0]
    path.write_text(json.dumps(config))
    with pytest.raises(InputError):
        load_pipeline(folder).scheduler.set_timesteps(5)


@pytest.mark.parametrize("content", [{}, None, []])
def test_an_empty_curve_is_none(folder, content):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_analytic": content}))
    with pytest.raises(InputError, match="carries no curve"):
        load_pipeline(folder)


@pytest.mark.parametrize("text", ['"someone/else"', '{"num_train', ""])
def test_configs_of_components_are_mappings(folder, text):
    """A bare name would be looked for on the hub."""
    (folder / "scheduler" / "scheduler_config.json").write_text(text)
    with pytest.raises(InputError, match="scheduler_config"):
        load_pipeline(folder)
