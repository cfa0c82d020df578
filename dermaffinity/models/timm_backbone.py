"""Every image network of timm as a backbone, for experiments beyond ResNet-18."""

import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dermaffinity.errors import ConfigError, did_you_mean
from dermaffinity.models.backbones import VIEWS, Backbone, mean_over_views

_HUB = "hf-hub:"
# Of ImageNet, as every image is normalized before it reaches a backbone.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TimmBackbone(Backbone):
    """A network of timm up to its global pooling; the paper's face experiments use its SE-ResNet-50.

    Images come normalized as ImageNet is; a network that was trained on another mean and standard deviation gets its
    own, which are saved with it. Transformers take images of any size: their positions are interpolated, and an image
    whose side no patch divides is padded. Needs the extra ``faces``. Source of the default: Hu et al.,
    "Squeeze-and-excitation networks", CVPR 2018.

    Args:
        name: A name of ``timm.list_models()``, such as ``resnet18.fb_swsl_ig1b_ft_in1k`` with the tag of its weights.
        weights: ``"pretrained"`` for those that timm downloads; ``"hf-hub:OWNER/NAME"`` for the ``model.safetensors``
            of another repository; the path of a ``state_dict`` (of torch, or ``.safetensors``); or None for random
            weights. The classifier is left out.
        frozen_stages: How many of the first stages, as timm divides the network, stay as they start, their
            normalization statistics as well: of a ResNet the stem and four groups of blocks, of a transformer the
            patches and each block. -1 for all.
        views: In evaluation the features are the mean over 1, 2, 4 or 8 symmetries of a square image, at that many
            times the work; see `dermaffinity.models.ResNet18`.

    Examples:
        >>> import torch
        >>> from dermaffinity.models import TimmBackbone
        >>> backbone = TimmBackbone(name="resnet10t", weights=None).eval()
        >>> backbone(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 512])
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        *,
        name: str = "seresnet50",
        weights: str | None = "pretrained",
        frozen_stages: int = 0,
        views: Literal[1, 2, 4, 8] = 1,
    ) -> None:
        super().__init__()
        try:
            import timm
        except ModuleNotFoundError as error:
            raise ConfigError(
                "backbone: TimmBackbone needs timm, which is not installed; pip install 'dermaffinity[faces]'"
            ) from error
        if views not in VIEWS:
            raise ValueError(f"views must be 1, 2, 4 or 8, got {views}")
        # Other names, such as hf-hub:…, would take the network itself from anywhere, and a saved model with it.
        if not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models(), 3)
            raise ConfigError(f"backbone.name: timm {timm.__version__} has no network {name!r}{hint}")
        self.network: Any = _network(name, weights)
        self.num_features = self.network.head_hidden_size
        self.views = views
        self.freeze(len(self.stages()) if frozen_stages == -1 else frozen_stages)
        own = self.network.pretrained_cfg
        mean, std = (torch.tensor(own.get(key) or value) for key, value in (("mean", _MEAN), ("std", _STD)))
        self.register_buffer("scale", (torch.tensor(_STD) / std).view(3, 1, 1))
        self.register_buffer("shift", ((torch.tensor(_MEAN) - mean) / std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, F) of images (N, 3, H, W); with several views in evaluation, H equals W."""
        images = images * self.scale + self.shift
        if self.training or self.views == 1:
            return self.network(images)
        return mean_over_views(self.network, images, self.views)

    def stages(self) -> list[list[str]]:
        """See `Backbone.stages`; as timm divides its networks."""
        from timm.models import group_parameters

        groups = group_parameters(self.network, self.network.group_matcher(coarse=True))
        return [[f"network.{name}" for name in groups[stage]] for stage in sorted(groups)]


def _network(name: str, weights: str | None) -> Any:
    import timm

    # Of transformers alone, which else take images of one size.
    fixed = timm.get_pretrained_cfg_value(name, "fixed_input_size")
    options: Any = {"dynamic_img_size": True, "dynamic_img_pad": True} if fixed else {}
    try:
        network: Any = timm.create_model(name, pretrained=weights == "pretrained", num_classes=0, **options)
        if weights is not None and weights.startswith(_HUB):
            from huggingface_hub import hf_hub_download

            # No other file of a repository: this kind holds no code.
            weights = hf_hub_download(weights.removeprefix(_HUB), "model.safetensors")
    except Exception as error:  # whatever a failed download, or a damaged file of an earlier one, raises
        raise ConfigError(
            f"backbone.weights: cannot get {weights} weights of {name} ({' '.join(str(error).split())}). If an earlier "
            f"download was cut, delete it from {torch.hub.get_dir()} or Hugging Face's cache. Give a state_dict by its "
            "path, --set backbone.weights=PATH, or start from random weights, --set backbone.weights=null"
        ) from error
    if weights is not None and weights != "pretrained":
        _load(network, Path(weights), name)
    return network


def _load(network: Any, path: Path, name: str) -> None:
    if not path.is_file():
        raise ConfigError(
            f"backbone.weights: there is no file {path}; allowed are 'pretrained', 'hf-hub:OWNER/NAME', null, or the "
            "path of a state_dict"
        )
    try:
        state = _read(path)
    except Exception as error:  # whatever torch and safetensors raise; torch's text advises to allow pickle
        raise ConfigError(f"backbone.weights: {path} is not a state_dict that torch can read") from error
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    try:
        # What timm does with the names and positions of files from elsewhere; not every network has it.
        converted = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", lambda state, _: state)
        state = converted(state, network)
        state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}
        network.load_state_dict(state)
    except Exception as error:  # of a conversion that meets other names: KeyError and others
        raise ConfigError(
            f"backbone.weights: {path} is not a state_dict of {name}; {' '.join(str(error).split())[:300]}"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return dict(torch.load(path, map_location="cpu", weights_only=True))
