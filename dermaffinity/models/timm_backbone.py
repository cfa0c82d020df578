"""Every image network of timm as a backbone, for experiments beyond ResNet-18."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dermaffinity.errors import ConfigError, did_you_mean
from dermaffinity.models.backbones import Backbone


class TimmBackbone(Backbone):
    """A network of timm up to its global pooling; the paper's face experiments use its SE-ResNet-50.

    Needs the extra ``faces``. Source of the default: Hu et al., "Squeeze-and-excitation networks", CVPR 2018.

    Args:
        name: A name of ``timm.list_models()``.
        weights: ``"pretrained"`` for those that timm downloads, the path of a ``state_dict`` of this network (of torch,
            or ``.safetensors``), whose classifier is left out, or None for random weights.

    Examples:
        >>> import torch
        >>> from dermaffinity.models import TimmBackbone
        >>> backbone = TimmBackbone(name="resnet10t", weights=None).eval()
        >>> backbone(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 512])
    """

    def __init__(self, *, name: str = "seresnet50", weights: str | None = "pretrained") -> None:
        super().__init__()
        try:
            import timm
        except ModuleNotFoundError as error:
            raise ConfigError(
                "backbone: TimmBackbone needs timm, which is not installed; pip install 'dermaffinity[faces]'"
            ) from error
        # Other names, such as hf-hub:…, would download code and weights from anywhere.
        if not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models(), 3)
            raise ConfigError(f"backbone.name: timm {timm.__version__} has no network {name!r}{hint}")
        network: Any
        try:
            network = timm.create_model(name, pretrained=weights == "pretrained", num_classes=0)
        except Exception as error:  # whatever a failed download, or a damaged file of an earlier one, raises
            raise ConfigError(
                f"backbone.weights: timm cannot give pretrained weights of {name} ({' '.join(str(error).split())}). "
                f"If an earlier download was cut, delete it from {torch.hub.get_dir()} or Hugging Face's cache. "
                "Give a state_dict by its path, --set backbone.weights=PATH, or start from random weights, "
                "--set backbone.weights=null"
            ) from error
        if weights is not None and weights != "pretrained":
            _load(network, Path(weights), name)
        self.network = network
        self.num_features = network.head_hidden_size

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, F) of images (N, 3, H, W)."""
        return self.network(images)


def _load(network: Any, path: Path, name: str) -> None:
    if not path.is_file():
        raise ConfigError(
            f"backbone.weights: there is no file {path}; allowed are 'pretrained', null, or the path of a state_dict"
        )
    try:
        state = _read(path)
    except Exception as error:  # whatever torch and safetensors raise; torch's text advises to allow pickle
        raise ConfigError(f"backbone.weights: {path} is not a state_dict that torch can read") from error
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"backbone.weights: {path} is not a state_dict of {name}; {' '.join(str(error).split())[:300]}"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return dict(torch.load(path, map_location="cpu", weights_only=True))
