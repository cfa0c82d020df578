"""Learnable weight scaling: one factor per class for the trained last layer."""

import torch

from dermaffinity.heads.base import Head, Predictions
from dermaffinity.refit.base import Refit, class_balanced_cross_entropy, linear_layer, minimize


class LearnableScaling(Refit):
    r"""Multiplies the logit of each class, weights and bias, by a factor, learned with every class counting alike.

    .. math:: \min_s \frac{1}{C} \sum_c \frac{1}{n_c} \sum_{i: y_i = c} -\log \mathrm{softmax}_c(s \circ z_i)
              + \frac{\lambda}{2} \lVert s \rVert^2

    over the training images with their logits z; LWS. The objective is convex: its minimum, which is the same for every
    seed, is found, where the paper takes five epochs of SGD that draws each class equally often. Weight decay and the
    scaled bias are those of the authors' code.

    Source: Kang et al., ICLR 2020, https://arxiv.org/abs/1910.09217, Section 4.3.

    Args:
        weight_decay: λ, positive; without it, the factors of well-told-apart images grow without end.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import LinearHead, Predictions
        >>> from dermaffinity.refit import LearnableScaling
        >>> head, labels, embedding = LinearHead(2, 2), torch.tensor([0, 0, 1]), torch.randn(3, 2)
        >>> before = head.linear.weight.detach().clone()
        >>> with torch.no_grad():
        ...     output = head(embedding)
        >>> seen = Predictions(output.scores, head.probabilities(output), embedding, output.centers, labels)
        >>> numbers = LearnableScaling()(head, seen, seen, seed=0)
        >>> torch.cosine_similarity(head.linear.weight, before).detach().abs().round(decimals=3)  # only lengths change
        tensor([1., 1.])
    """

    def __init__(self, *, weight_decay: float = 5e-4) -> None:
        if not weight_decay > 0:
            raise ValueError(f"weight_decay must be positive, got {weight_decay}")
        self.weight_decay = weight_decay

    def __call__(self, head: Head, training: Predictions, validation: Predictions, *, seed: int) -> dict[str, float]:
        """See `Refit`."""
        linear = linear_layer(head)
        # Copied, because gradients do not flow into what was computed in inference mode.
        logits, labels = training.scores.to(torch.float64, copy=True), training.labels.clone()
        scale = torch.ones(logits.shape[1], dtype=torch.float64, requires_grad=True)  # (C,)

        def objective() -> torch.Tensor:
            fit = class_balanced_cross_entropy(scale * logits, labels)
            return fit + self.weight_decay / 2 * scale.square().sum()

        minimize(objective, [scale])
        with torch.no_grad():
            linear.weight.mul_(scale[:, None])
            linear.bias.mul_(scale)
        return {"smallest_scale": scale.min().item(), "largest_scale": scale.max().item()}
