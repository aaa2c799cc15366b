"""The README's picture: emoji by 5 network calls and by 50, from what `make demo` sampled.

python -m benchmarks.emoji_picture [--workdir results/emoji] [--output docs/figures/emoji.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from score_sde_analytic.configs.emoji import get_config
from score_sde_analytic.runners import datasets

from score_sde_analytic.files import load_arrays

ROWS = (
    ("5 calls, DDPM", "samples_log_snr", "beta_K5"),
    ("5 calls, table", "samples_fewest", "K5"),
    ("50 calls, DDPM", "samples_log_snr", "beta_K50"),
)
SHOWN = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("results/emoji"))
    parser.add_argument("--output", type=Path, default=Path("docs/figures/emoji.png"))
    options = parser.parse_args()
    strips = {
        label: load_arrays(options.workdir / f"{file}.safetensors", "samples")[0][name][:SHOWN] for label, file, name in ROWS
    }
    strips["test images"] = datasets.splits(get_config()).held("test", SHOWN).numpy()
    figure = Figure(figsize=(8.0, 2.8), layout="constrained")
    for axes, (label, x) in zip(figure.subplots(len(strips), 1), strips.items(), strict=True):
        axes.imshow(strip(x))
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
        axes.spines[:].set_visible(False)
    figure.savefig(options.output, dpi=150)
    print(f"Written: {options.output}")


def strip(x: np.ndarray) -> np.ndarray:
    """Images in [-1, 1] side by side, apart by two white pixels."""
    pixels = np.pad(np.clip(0.5 + 0.5 * x, 0.0, 1.0), ((0, 0), (0, 0), (0, 0), (1, 1)), constant_values=1.0)
    return np.concatenate(list(pixels.transpose(0, 2, 3, 1)), axis=1)


if __name__ == "__main__":
    main()
