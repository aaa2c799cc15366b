"""Package metadata; tool configuration lives in pyproject.toml, pinned versions in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

README = Path("README.md").read_text(encoding="utf-8")
REPORT = ["matplotlib>=3.9", "contourpy>=1.2.1", "jinja2>=3.1"]
RUNNER = ["absl-py>=2.0", "ml-collections>=1.0", *REPORT]
GRIDS = ["numba>=0.60"]
ODE = ["torchdiffeq>=0.2.5"]
SDE = ["torchsde>=0.2.6"]
FIDELITY = ["torch-fidelity>=0.4", "clean-fid>=0.1.35", "torchvision"]  # the Inception features of published tables
HUB = ["datasets>=2.14"]  # Dataset.from_parquet and load_from_disk of Hugging Face's data sets
TRANSLATE = ["scikit-image>=0.24"]  # structural similarity of images
CODING = ["constriction>=0.4"]  # entropy coder of lossless files
SCALE = ["accelerate>=1.0"]  # one network trained by several processes
IMAGES = ["diffusers>=0.34", "scikit-learn>=1.5"]
DOCS = ["sphinx>=8.1", "furo>=2024.8.6", "myst-nb>=1.2", "sphinx-copybutton>=0.5.2", "latex2mathml>=3.77", "ipykernel>=6.29"]
TEST = [
    "pytest>=8",
    "pytest-cov>=5",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "beartype>=0.18.2",
    "ruff>=0.6",
    "mypy>=1.11",
    "transformers>=4.48",  # text encoders of pipelines
    "setuptools>=77.0.3",  # builds the wheel that the tests install
]
APPLICATION = {"score_sde_analytic.runners": "runners", "score_sde_analytic.configs": "configs"}

setup(
    name="score_sde_analytic",
    version="0.2.0",
    description="Optimal reverse variances, optimal time grids and bits/dim of pretrained diffusion models, without training",
    # Pictures and pages lie in the repository, where a reader of the package index cannot follow.
    long_description=re.sub(r"!?\[([^\]]*)\]\((?!http)[^)]*\)", lambda m: "" if m[0][0] == "!" else m[1], README),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=[
        "diffusion models",
        "score-based generative models",
        "Analytic-DPM",
        "likelihood",
        "bits per dimension",
        "fast sampling",
        "dynamic programming",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Mathematics",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # The application lies beside the library in the repository, and inside it where it is installed.
    packages=[*find_packages(include=["score_sde_analytic", "score_sde_analytic.*"]), *APPLICATION],
    package_dir=APPLICATION,
    entry_points={"console_scripts": ["score-sde-analytic = score_sde_analytic.runners.main:cli"]},
    package_data={"score_sde_analytic": ["assets/*/*", "report/templates/*", "py.typed"]},
    install_requires=[
        "torch>=2.5",
        "numpy>=2.0",
        "scipy>=1.15",  # scipy.optimize.elementwise
        "safetensors>=0.4",
        "jaxtyping>=0.2.33",
        "tqdm>=4.66",
    ],
    extras_require={
        "report": REPORT,
        "runner": RUNNER,
        "images": IMAGES,
        "hub": HUB,
        "grids": GRIDS,
        "coding": CODING,
        "translate": TRANSLATE,
        "ode": ODE,
        "sde": SDE,
        "fidelity": FIDELITY,
        "docs": RUNNER + IMAGES + GRIDS + DOCS,
        "scale": SCALE,
        "test": RUNNER + IMAGES + GRIDS + ODE + SDE + CODING + TRANSLATE + SCALE + TEST,
    },
)
