"""The features of published tables, from the packages that define them; both fetch Inception-v3's weights when first used.

TorchFidelityFeatures    torch-fidelity's extractors, by default the Inception-v3 of the original FID: `Frechet` of them is FID
CleanFIDFeatures         clean-fid's resizing and Inception-v3
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.errors import InputError
from score_sde_analytic.extras import optional
from score_sde_analytic.metrics.features import BytePixels, Features, ModuleFeatures


class _First(nn.Module):
    """An extractor that gives a tuple of layers, as the single layer that was asked for."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, x: Tensor) -> Tensor:
        return self.extractor(x)[0]


class TorchFidelityFeatures(ModuleFeatures):
    """A layer of an extractor that torch-fidelity knows, fed 8-bit RGB.

    Args:
        data_range: of the data, which become 0..255.
        extractor: "inception-v3-compat" (FID), "vgg16", "clip-vit-b-32", "dinov2-vit-b-14", ..., or one that was registered.
        layer: one of the extractor's: for Inception "64", "192", "768", "2048" or "logits_unbiased".
        weights: path of the weights, where they should not be fetched.

    Raises:
        ImportError: torch-fidelity or something it needs is absent.
        InputError: it knows no such extractor or layer, or cannot load the weights.
    """

    def __init__(
        self, data_range: DataRange, extractor: str = "inception-v3-compat", layer: str = "2048", weights: str | None = None
    ) -> None:
        utils = _require("torch_fidelity.utils", "torch-fidelity")
        given = {} if weights is None else {"feature_extractor_weights_path": weights}
        try:
            module = utils.create_feature_extractor(extractor, [layer], cuda=False, verbose=False, **given)
        except Exception as error:  # its checks raise plain Exception
            raise InputError(f"torch-fidelity cannot make {extractor!r} with layer {layer!r}: {error}") from error
        super().__init__(_First(module), f"{extractor} {layer}", BytePixels(data_range))


class CleanFIDFeatures(Features):
    """clean-fid's Inception-v3 after its antialiased resizing to 299 x 299 (Parmar et al., CVPR 2022).

    Args:
        data_range: of the data, which become 0..255.
        mode: "clean", "legacy_pytorch" or "legacy_tensorflow".

    Raises:
        ImportError: clean-fid or something it needs is absent.
        InputError: an unknown mode.
    """

    def __init__(self, data_range: DataRange, mode: str = "clean", device: torch.device | str = "cpu") -> None:
        if mode not in ("clean", "legacy_pytorch", "legacy_tensorflow"):
            raise InputError(f"clean-fid has modes clean, legacy_pytorch and legacy_tensorflow, not {mode!r}")
        network = _require("cleanfid.features", "clean-fid")
        resize = _require("cleanfid.resize", "clean-fid")
        self.name = f"clean-fid {mode}"
        self._bytes = BytePixels(data_range)
        self._device = torch.device(device)
        self._resize: Any = resize.build_resizer(mode)
        self._network: Any = network.build_feature_extractor(mode, self._device, use_dataparallel=False)

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, " batch *dims"]) -> Float64[Tensor, "batch d"]:
        images = self._bytes(x).movedim(1, -1).cpu().numpy()
        resized = np.stack([self._resize(image) for image in images]).transpose(0, 3, 1, 2)
        return self._network(torch.from_numpy(resized).float().to(self._device)).double().flatten(1).to(x.device)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "prepare": self._bytes.__qualname__}


def _require(module: str, package: str) -> Any:
    return optional(module, extra="fidelity", user=f"features of {package}", package=f"{package} and torchvision")
