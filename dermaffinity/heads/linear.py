"""The usual last layer of a classifier."""

from torch import Tensor, nn

from dermaffinity.heads.base import Head, HeadOutput, ScoreKind
from dermaffinity.heads.centers import cosines


class LinearHead(Head):
    """One affine map from the embedding to C logits.

    Args:
        embedding_dim: Size D of the embedding.
        num_classes: Number of classes C, at least 2.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import LinearHead
        >>> head = LinearHead(embedding_dim=512, num_classes=7)
        >>> head(torch.randn(2, 512)).scores.shape
        torch.Size([2, 7])
    """

    score_kind = ScoreKind.LOGIT

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        super().__init__(embedding_dim, num_classes)
        self.linear = nn.Linear(embedding_dim, num_classes)

    def forward(self, embedding: Tensor) -> HeadOutput:
        """Logits of a batch of embeddings (N, D)."""
        return HeadOutput(self.linear(embedding), embedding, self.linear.weight.unsqueeze(1))

    def probabilities(self, output: HeadOutput) -> Tensor:
        """Softmax over the logits (N, C)."""
        return output.scores.softmax(dim=1)

    def distance_to(self, embedding: Tensor, points: Tensor) -> Tensor:
        """One minus the cosine of the angle between embedding and point: (N, P), in [0, 2].

        A class vector is a direction; how far along it an embedding lies tells confidence, not likeness.
        """
        return 1 - cosines(embedding, points)
