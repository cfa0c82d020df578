"""The usual last layer of a classifier."""

from torch import Tensor, nn

from dermaffinity.heads.base import Head, HeadOutput, ScoreKind


class LinearHead(Head):
    """One affine map from the embedding to C logits.

    Args:
        embedding_dim: Size D of the embedding.
        num_classes: Number of classes C, at least 2.
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
