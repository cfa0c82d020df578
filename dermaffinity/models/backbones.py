"""Backbones map images (N, 3, H, W) to features (N, F)."""

import hashlib
import shlex
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dermaffinity.errors import ConfigError

VIEWS = (1, 2, 4, 8)
"""How many views of an image `views_of` can give: the sizes of groups of symmetries, one within the next."""
# Images that pass through a network together in all their views; more would take memory and save no time.
_AT_ONCE = 32


class Backbone(nn.Module, ABC):
    """Maps normalized images (N, 3, H, W) to features (N, ``num_features``).

    Examples:
        >>> import torch
        >>> from dermaffinity.models import Backbone, SmallConvNet
        >>> backbone = SmallConvNet()
        >>> isinstance(backbone, Backbone), backbone.num_features
        (True, 128)
        >>> backbone(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 128])
    """

    num_features: int

    def stages(self) -> list[list[str]]:
        """Names of the parameters in order from the image on, in parts that can be frozen or learn more slowly.

        One part unless a backbone says otherwise.
        """
        return [[name for name, _ in self.named_parameters()]]

    def freeze(self, number: int) -> None:
        """Keeps the parameters of the first stages, and their normalization statistics, as they are.

        Raises:
            ValueError: When there are not so many.
        """
        stages = self.stages()
        if not 0 <= number <= len(stages):
            raise ValueError(f"frozen_stages must be from 0 to {len(stages)}, got {number}")
        for name in (name for stage in stages[:number] for name in stage):
            self.get_parameter(name).requires_grad_(False)

    def train(self, mode: bool = True) -> "Backbone":
        """As of every module, but for frozen ones, whose statistics no batch changes."""
        super().train(mode)
        for module in self.modules():
            own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
            if own and not any(own):
                module.eval()
        return self


class ResNet18(Backbone):
    """torchvision's ResNet-18 up to its global average pooling; 512 features, none negative.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

    Args:
        weights: ``"imagenet"`` for torchvision's ImageNet weights (downloaded once, then taken from its cache), the
            path of a torchvision ResNet-18 ``state_dict``, whose last layer is left out and may be any, or None for
            random weights.
        frozen_stages: How many of the first five stages (the stem and four groups of blocks) stay as they start, their
            normalization statistics as well; for weights that were learned elsewhere.
        pooled_stages: How many of the last of the four groups of blocks give features, each averaged over the image: 1
            for the last alone, 2, 3 or 4 for 768, 896 or 960 features. Earlier ones see color and texture.
        views: In evaluation the features are the mean over 1, 2, 4 or 8 symmetries of a square image, at that many
            times the work: the image, its mirror image, both turned by 180 degrees, all of them turned by 90 degrees.
        sizes: Sides in pixels, at least 32, of squares that images are resized to; the features of all sizes side by
            side. Fixed filters see coarse structure in a small image and texture in a large one. None for images as
            they come.

    Examples:
        >>> import torch
        >>> from dermaffinity.models import ResNet18
        >>> backbone = ResNet18(weights=None).eval()
        >>> backbone(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 512])
    """

    def __init__(
        self,
        *,
        weights: str | None = "imagenet",
        frozen_stages: int = 0,
        pooled_stages: int = 1,
        views: Literal[1, 2, 4, 8] = 1,
        sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= pooled_stages <= 4:
            raise ValueError(f"pooled_stages must be from 1 to 4, got {pooled_stages}")
        if views not in VIEWS:
            raise ValueError(f"views must be 1, 2, 4 or 8, got {views}")
        if sizes is not None and (len(set(sizes)) < max(1, len(sizes)) or min(sizes) < 32):
            raise ValueError(f"sizes must be different sides of at least 32 pixels, or null, got {list(sizes)}")
        try:
            from torchvision.models import ResNet18_Weights, resnet18
        except RuntimeError as error:  # "operator torchvision::nms does not exist"
            raise ConfigError(
                f"torchvision cannot be used with the installed torch {torch.__version__} ({error}). The two must be "
                "built alike: install both together, by plain name, into a fresh environment."
            ) from error
        network = resnet18(weights=None)
        network.fc = nn.Identity()
        if weights is not None:
            imagenet = weights == "imagenet"
            state = _download(ResNet18_Weights.IMAGENET1K_V1) if imagenet else _read(Path(weights), network)
            network.load_state_dict(_without_last_layer(state))
        self.network = network
        self.num_features = sum((64, 128, 256, 512)[-pooled_stages:]) * (1 if sizes is None else len(sizes))
        self.pooled_stages = pooled_stages
        self.views = views
        self.sizes = sizes
        self.freeze(frozen_stages)

    def stages(self) -> list[list[str]]:
        """See `Backbone.stages`."""
        starts = (("conv1.", "bn1."), "layer1.", "layer2.", "layer3.", "layer4.")
        names = [name.removeprefix("network.") for name, _ in self.named_parameters()]
        return [[f"network.{name}" for name in names if name.startswith(start)] for start in starts]

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, F) of images (N, 3, H, W); with several views in evaluation, or with sizes, H equals W."""
        if self.training or self.views == 1:
            return self._features(images)
        return mean_over_views(self._features, images, self.views)

    def _features(self, images: Tensor) -> Tensor:
        if self.sizes is None:
            return self._pooled(images)
        return torch.cat([self._pooled(_resized(images, size)) for size in self.sizes], dim=1)

    def _pooled(self, images: Tensor) -> Tensor:
        network = self.network
        maps, pooled = network.maxpool(network.relu(network.bn1(network.conv1(images)))), []
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            maps = stage(maps)
            pooled.append(network.avgpool(maps).flatten(1))
        return torch.cat(pooled[-self.pooled_stages :], dim=1)


class SmallConvNet(Backbone):
    """Four convolution blocks for runs of seconds, such as the demo; 128 features, none negative.

    Not for results: it starts from random weights and sees little of an image.

    Examples:
        >>> import torch
        >>> from dermaffinity.models import SmallConvNet
        >>> SmallConvNet()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 128])
    """

    num_features = 128

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        blocks = []
        for width_in, width_out in pairwise(widths):
            blocks += [
                nn.Conv2d(width_in, width_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        self.layers = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 128) of images (N, 3, H, W), H and W at least 16."""
        return self.layers(images)


class DigitNet(Backbone):
    """Three 5 × 5 convolutions of 32, 64 and 128 filters and one fully connected layer; 128 features, none negative.

    The network of the digit experiments of Hayat et al., ICCV 2019. The paper gives the layers' sizes; the maximum
    pooling after each convolution, from 28 × 28 to 14, 7 and 3, is this project's choice. Digits are gray, so that it
    sees the mean of the channels.

    Examples:
        >>> import torch
        >>> from dermaffinity.models import DigitNet
        >>> DigitNet()(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2, 128])
    """

    num_features = 128

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),  # after the maximum, which it does not change, because there is less to do
            nn.Conv2d(32, 64, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 128, 5, padding=2),
            nn.MaxPool2d(3, stride=2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(128 * 9, 128),
            nn.ReLU(inplace=True),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 128) of images (N, 3, H, W), H and W from 28 to 35."""
        if not all(28 <= side <= 35 for side in images.shape[2:]):
            raise ValueError(
                f"DigitNet sees images of 28 × 28 pixels, got {tuple(images.shape[2:])}; set data.image_size to 28"
            )
        return self.layers(images.mean(dim=1, keepdim=True))


def views_of(images: Tensor, views: int) -> Iterator[Tensor]:
    """Square images (N, 3, S, S) as they are, then flipped and rotated, one symmetry after the other.

    Args:
        images: Whose pixels are moved, never interpolated.
        views: One of `VIEWS`: 1 the image alone; 2 with its mirror image; 4 with both turned by 180 degrees; 8 with
            those four turned by 90 degrees, which are all symmetries of the square.

    Examples:
        >>> import torch
        >>> from dermaffinity.models import views_of
        >>> image = torch.tensor([[[[1, 2], [3, 4]]]])
        >>> [view.flatten().tolist() for view in views_of(image, 2)]  # the image, and its mirror image
        [[1, 2, 3, 4], [2, 1, 4, 3]]
    """
    for view in range(views):
        # By no turn torch would copy the images.
        turned = images if view < 2 else images.rot90((2, 2, 1, 1, 3, 3)[view - 2], dims=(2, 3))
        yield turned.flip(3) if view % 2 else turned


def batches_of_views(images: Tensor, views: int) -> Iterator[Tensor]:
    """The ``views`` of images (N, 3, S, S), one view after the other, in one batch or in one for each view.

    One batch is faster for few images, and an exported graph then holds the network once.
    """
    together = views > 1 and (torch.compiler.is_exporting() or views * images.shape[0] <= _AT_ONCE)
    return iter([torch.cat(list(views_of(images, views)))]) if together else views_of(images, views)


def mean_over_views(features: Callable[[Tensor], Tensor], images: Tensor, views: int) -> Tensor:
    """The mean (N, F) of the features of each of the ``views`` of images (N, 3, S, S)."""
    batches = batches_of_views(images, views)
    return torch.cat([features(batch) for batch in batches]).unflatten(0, (views, -1)).mean(dim=0)


def _resized(images: Tensor, size: int) -> Tensor:
    """Images (N, 3, S, S) as (N, 3, size, size), without aliasing."""
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def _download(weights: Any) -> dict[str, Tensor]:
    file = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(weights.url).name)
    # torch checks a file when it is downloaded, and never again; the name ends in the beginning of its SHA-256.
    if file.is_file() and not _sha256(file).startswith(file.stem.rpartition("-")[2]):
        raise ConfigError(
            f"{file}: these ImageNet weights are damaged or cut. Delete the file, and the next run downloads it again: "
            f"rm {shlex.quote(str(file))}"
        )
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # every kind of failed connection, and a proxy's page in the file's place
        raise ConfigError(
            f"the ImageNet weights could not be downloaded ({error}). Without a connection, give a torchvision "
            "ResNet-18 state_dict by its path, --set backbone.weights=PATH, or start from random weights, "
            "--set backbone.weights=null"
        ) from error


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{file}: these ImageNet weights cannot be read ({error.strerror})") from error


def _without_last_layer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def _read(path: Path, network: nn.Module) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(
            f"backbone.weights: there is no file {path}; allowed are 'imagenet', null, or the path of a torchvision "
            "ResNet-18 state_dict"
        )
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: tensor.shape for name, tensor in _without_last_layer(state).items()}
    except Exception as error:  # whatever torch.load raises; its text advises to allow pickle
        raise ConfigError(f"backbone.weights: {path} is not a state_dict that torch can read") from error
    if found != expected:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ConfigError(
            f"backbone.weights: {path} is not a torchvision ResNet-18 state_dict; {len(differing)} of its entries "
            f"differ in name or shape, the first is {differing[0]!r}"
        )
    return state
