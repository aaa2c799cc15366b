"""Files of held-out images by chains: bits/dim net and whole, beside what was predicted and measured of the bound; time.

  python -m benchmarks.coding --config digits_vp [--covariances isotropic pca] [--priors none gaussian] [--steps 3 5 10 25]
                              [--ratio 0.5] [--arithmetic float32] [--images 297] [--draws 8] [--quick] [--workdir DIR]
  python -m benchmarks.coding --config patches --quick --photograph --covariances "colour_dct|high_frequency" --steps 10
  python -m benchmarks.coding --page

Chains are of the validation split, the Gaussian prior and bases of the training split, files of the test split. Every file is
decoded again, and a difference ends the run. Rows are kept in docs/results/coding.json, of which --page makes
docs/results/coding.md (with docs/results/codecs.json, public codecs on the same images: benchmarks/codecs.py).
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
import warnings
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from score_sde_analytic.runners.experiment import Experiment

from benchmarks import codecs
from score_sde_analytic.coding import Codec
from score_sde_analytic.coding.tiles import Tiling
from score_sde_analytic.data import photographs
from score_sde_analytic.report.tables import error_bar, markdown
from score_sde_analytic.study import Study

KEPT = Path("docs/results/coding.json")
PAGE = Path("docs/results/coding.md")
HEAD = """# Lossless files: rates and times

    python -m benchmarks.coding --config digits_vp --covariances isotropic pixel pca
    python -m benchmarks.coding --config digits_vp --covariances pca --priors gaussian --steps 10 --arithmetic exact
    python -m benchmarks.coding --config patches --quick --images 300 --draws 2 \\
        --covariances isotropic "colour_dct|high_frequency"
    python -m benchmarks.coding --config emoji --quick --images 60 --draws 2 --steps 5 10 \\
        --covariances isotropic --priors gaussian
    python -m benchmarks.coding --config emoji --quick --images 200 --draws 1 --steps 3 \\
        --covariances isotropic --priors gaussian
    python -m benchmarks.coding --config patches --quick --photograph --priors gaussian --steps 10 \\
        --covariances "colour_dct|high_frequency"
    python -m benchmarks.codecs
    python -m benchmarks.coding --page

Bits/dim of held-out images. "Predicted": the chain's price, from the pass over the validation split, before anything was coded.
"Bound": measured on the same images with several draws of the noise. "Worth": the information content of the very latents and
pixels that were coded, one draw of the bound; "net": what coding them took. "File": all of it, with the first bits and the
header. Every file was decoded and compared. Emoji are coded without their labels, with variances and a price from a pass that
had them. Times are those of one thread beside other work.

"""


def row(study: Study, images: torch.Tensor, chain: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One chain's file."""
    names = {"covariance": chain["covariance"], "prior": chain["prior"]}
    steps = chain["steps"]
    measured = study.measure(images, steps, **names, draws=arguments.draws, progress=False)[steps]
    codec = study.codec(steps, **names, ratio=arguments.ratio, arithmetic=arguments.arithmetic)
    found = dict(chain) | {"ratio": arguments.ratio, "arithmetic": arguments.arithmetic, "images": len(images)}
    priced = study.priceable(study.chain(steps, **names))
    found["predicted"] = study.bits(steps, **names)[steps].total._asdict() if priced else None
    return found | {"bound": measured.total._asdict(), "draws": arguments.draws} | coded(codec, images)


def unlabelled(experiment: Experiment) -> Study:
    """The study, whose network is told that there is no label where it takes some, as --mode=compress tells it."""
    argument, null = experiment.config.network.condition, experiment.config.train.classes
    return experiment.study.around(lambda model: model.given(**{argument: null})) if argument else experiment.study


def coded(codec: Codec, images: torch.Tensor) -> dict[str, Any]:
    """What becomes of images.

    Raises:
        RuntimeError: they do not come back.
    """
    start = time.perf_counter()
    done = codec.compress(images)
    middle = time.perf_counter()
    if not torch.equal(codec.decode(done.content), images):
        raise RuntimeError("the images did not come back")
    return {
        "worth": done.worth_rate,
        "net": done.net_rate,
        "bytes": len(done.content),
        "file": done.rate,
        "beginning": done.beginning,
        "raw": done.raw,
        "encode_ms": 1e3 * (middle - start) / len(images),
        "decode_ms": 1e3 * (time.perf_counter() - middle) / len(images),
    }


def photograph(study: Study, chain: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """A whole photograph, most of whose pixels the network was trained on, in tiles, beside public codecs on the picture."""
    picture = photographs()[0]
    tiles = Tiling(*picture.shape[:2], (16, 16)).cut(picture.transpose(2, 0, 1))
    names = {"covariance": chain["covariance"], "prior": chain["prior"]}
    codec = study.codec(chain["steps"], **names, ratio=arguments.ratio, arithmetic=arguments.arithmetic)
    done = coded(codec, codec.data_range.encode(tiles))
    public = {name: 8 * size(picture) / picture.size for name, size in codecs.IMAGE_CODECS.items()}
    name = f"{chain['covariance']}, {chain['prior'] or 'N(0, I)'}, K = {chain['steps']}"
    return {
        "picture": list(picture.shape),
        "rates": public | {f"chain on tiles of 16x16 ({name})": 8 * done["bytes"] / picture.size},
    }


def shown(found: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    excess = f"{100 * (found['net'] / found['worth'] - 1):+.2f} %"
    bits = error_bar(found["predicted"]), error_bar(found["bound"]), f"{found['worth']:.4f}", f"{found['net']:.4f}", excess
    sizes = f"{found['file']:.4f}", f"{found['bytes']:,}", f"{found['beginning']:.0f}"
    times = f"{found['encode_ms']:.1f} / {found['decode_ms']:.1f}"
    name = found["covariance"] + (", exact" if found["arithmetic"] == "exact" else "")
    return [name, found["prior"] or "N(0, I)", str(found["steps"]), *bits, *sizes, times]


COLUMNS = ["variance", "prior", "K", "predicted", "bound", "worth", "net", "net over worth", "file", "bytes", "first bits"]


def page() -> str:
    """All that was kept, by config."""
    kept = load()
    public = json.loads(KEPT.with_name("codecs.json").read_text())
    parts = [HEAD.rstrip()]
    for config, rows in ((name, rows) for name, rows in kept.items() if name != "photograph"):
        count = max(found["images"] for found in rows)
        ordered = sorted(
            rows, key=lambda found: (found["covariance"], found["prior"] or "", found["steps"], found["arithmetic"])
        )
        parts.append(f"## {config}, up to {count} images")
        parts.append(markdown([*COLUMNS, "ms per image, in / out"], [shown(found) for found in ordered]))
        parts.append("Public codecs on the same split, and the information under a histogram per pixel:")
        parts.append(codecs.text(public[config]))
        if config == "patches":
            parts.append(OVERLAP)
    if "photograph" in kept:
        rates = kept.pop("photograph")["rates"]
        parts.append(PHOTOGRAPH)
        parts.append(markdown(["codec", "bits/dim"], sorted(([k, f"{v:.3f}"] for k, v in rates.items()), key=lambda r: r[1])))
    return "\n\n".join(parts) + "\n"


PHOTOGRAPH = """## A whole photograph

The first of the two, 427x640, five sevenths of whose pixels the network was trained on. Tiles of 16x16 know nothing of each
other, and public codecs look further:"""
OVERLAP = """Patches lie at random places of the test parts of two photographs and overlap, so compressors that see all of them
together find whole stretches again ("all in one"); what an image costs alone, as the chain codes it, is "each image a file"."""


def keep(config: str, found: dict[str, Any]) -> None:
    """Replace the row of the same chain."""
    kept = load()
    same = ("covariance", "prior", "steps", "ratio", "arithmetic")
    others = [row for row in kept.get(config, []) if any(row[name] != found[name] for name in same)]
    kept[config] = [*others, found]
    save(kept)


def load() -> dict[str, Any]:
    """All rows so far, by config."""
    return dict(json.loads(KEPT.read_text())) if KEPT.exists() else {}


def save(kept: Mapping[str, Any]) -> None:
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


def quick(config: Any) -> None:
    """A pass of few draws and few fits: enough for patches."""
    config.estimate.knots = config.estimate.most_knots = 26
    config.estimate.max_draws = 300
    config.covariance.bins, config.covariance.shrinkage, config.covariance.smooth = (1, 8), (30.0,), (True,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="digits_vp", help="name of a file in configs/")
    parser.add_argument("--covariances", nargs="+", default=["isotropic", "pca"])
    parser.add_argument("--priors", nargs="+", choices=["none", "gaussian"], default=["none", "gaussian"])
    parser.add_argument("--steps", nargs="+", type=int, default=[3, 5, 10, 25])
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--arithmetic", choices=["float32", "exact"], default="float32")
    parser.add_argument("--images", type=int, default=0, help="of the test split; 0 for all")
    parser.add_argument("--draws", type=int, default=8, help="of the bound, per image")
    parser.add_argument("--quick", action="store_true", help="a pass of few draws")
    parser.add_argument("--workdir", type=Path, help="keeps the measurements; continued when it exists")
    parser.add_argument("--photograph", action="store_true", help="a whole photograph in tiles, instead of the test split")
    parser.add_argument("--page", action="store_true", help="write the page of all rows that were kept, and stop")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if not arguments.page:
        run(arguments)
    PAGE.write_text(page())


def run(arguments: argparse.Namespace) -> None:
    """Code by every chain that was asked for."""
    config = importlib.import_module(f"score_sde_analytic.configs.{arguments.config}").get_config()
    config.sample.variances = config.evaluate.variances = ()
    if arguments.quick:
        quick(config)
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(config, arguments.workdir or Path(folder), arguments.covariances)
        images, priors = experiment.splits.held("test", arguments.images), [p.replace("none", "") for p in arguments.priors]
        for covariance, prior, steps in product(arguments.covariances, priors, arguments.steps):
            chain = {"covariance": covariance, "prior": prior or None, "steps": steps}
            if arguments.photograph:
                save(load() | {"photograph": photograph(experiment.study, chain, arguments)})
                continue
            found = row(unlabelled(experiment), images, chain, arguments)
            print(" | ".join(shown(found)), flush=True)
            keep(arguments.config, found)


if __name__ == "__main__":
    main()
