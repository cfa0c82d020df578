"""Classifier retraining: a new last layer on the trained embedding."""

import torch

from dermaffinity.heads.base import Head, Predictions
from dermaffinity.refit.base import Refit, class_balanced_cross_entropy, linear_layer, minimize


class ClassifierRetraining(Refit):
    r"""Trains the linear layer anew, from zero, with every class counting alike; cRT.

    .. math:: \min_{W, b} \frac{1}{C} \sum_c \frac{1}{n_c} \sum_{i: y_i = c} -\log \mathrm{softmax}_c(W f_i + b)
              + \frac{\lambda}{2} \lVert W \rVert^2

    over the training images. The objective is convex: its minimum, which is the same for every seed, is found, where
    the paper takes ten epochs of SGD that draws each class equally often.

    Source: Kang et al., ICLR 2020, https://arxiv.org/abs/1910.09217, Section 4.1.

    Args:
        weight_decay: λ, positive; without it, the weights of separable images grow without end.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import LinearHead, Predictions
        >>> from dermaffinity.refit import ClassifierRetraining
        >>> head, labels = LinearHead(2, 2), torch.tensor([0] * 9 + [1])
        >>> embedding = torch.where(labels[:, None] == 1, 1.0, -1.0) + 0.1 * torch.randn(10, 2)
        >>> output = head(embedding)
        >>> seen = Predictions(output.scores, head.probabilities(output), embedding, output.centers, labels)
        >>> numbers = ClassifierRetraining()(head, seen, seen, seed=0)
        >>> head(embedding).scores.argmax(dim=1).tolist()  # the rare class counts as much as the common one
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    """

    def __init__(self, *, weight_decay: float = 5e-4) -> None:
        if not weight_decay > 0:
            raise ValueError(f"weight_decay must be positive, got {weight_decay}")
        self.weight_decay = weight_decay

    def __call__(self, head: Head, training: Predictions, validation: Predictions, *, seed: int) -> dict[str, float]:
        """See `Refit`."""
        linear = linear_layer(head)
        # Copied, because gradients do not flow into what was computed in inference mode.
        embedding, labels = training.embedding.to(torch.float64, copy=True), training.labels.clone()
        weight = torch.zeros(linear.weight.shape, dtype=torch.float64, requires_grad=True)  # (C, D)
        bias = torch.zeros(len(weight), dtype=torch.float64, requires_grad=True)

        def objective() -> torch.Tensor:
            fit = class_balanced_cross_entropy(embedding @ weight.T + bias, labels)
            return fit + self.weight_decay / 2 * weight.square().sum()

        value = minimize(objective, [weight, bias])
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        return {"retraining_objective": value}
