"""The network: backbone, neck, head."""

import torch
from torch import Tensor, nn

from dermaffinity.heads import Head, HeadOutput
from dermaffinity.models.backbones import Backbone
from dermaffinity.models.necks import Neck


class LesionNetwork(nn.Module):
    """Images (N, 3, H, W) to a head's output; each part tells the next its size when it is built.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import AffinityHead
        >>> from dermaffinity.models import LesionNetwork, SmallConvNet, UnitNeck
        >>> backbone = SmallConvNet()
        >>> neck = UnitNeck(backbone.num_features)
        >>> network = LesionNetwork(backbone, neck, AffinityHead(neck.embedding_dim, 7)).eval()
        >>> network(torch.zeros(2, 3, 64, 64)).scores.shape
        torch.Size([2, 7])
    """

    def __init__(self, backbone: Backbone | nn.Flatten, neck: Neck, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def on_features(self) -> "LesionNetwork":
        """The network behind its backbone: features (N, F, 1, 1) stand for images; neck and head are the same."""
        return LesionNetwork(nn.Flatten(), self.neck, self.head)

    def forward(self, images: Tensor) -> HeadOutput:
        """Scores, embedding and centers; neck and head always run in float32."""
        features = self.backbone(images)
        # Half precision underflows the similarities and rounds away what is left of the margin.
        with torch.autocast(device_type=images.device.type, enabled=False):
            return self.head(self.neck(features.float()))
