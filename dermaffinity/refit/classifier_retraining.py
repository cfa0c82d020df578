"""Classifier retraining: a new last layer on the trained embedding."""

import torch

from dermaffinity.heads.base import Head, Predictions
from dermaffinity.refit.base import Refit, class_balanced_cross_entropy, linear_layer, minimize

_WEIGHT_DECAYS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


class ClassifierRetraining(Refit):
    r"""Trains the linear layer anew, from zero, with every class counting alike; cRT.

    .. math:: \min_{W, b} \frac{1}{C} \sum_c \frac{1}{n_c} \sum_{i: y_i = c} -\log \mathrm{softmax}_c(W f_i + b)
              + \frac{\lambda}{2} \lVert W \rVert^2

    over the training images. The objective is convex: its minimum, which is the same for every seed, is found, where
    the paper takes ten epochs of SGD that draws each class equally often.

    Source: Kang et al., ICLR 2020, https://arxiv.org/abs/1910.09217, Section 4.1.

    Args:
        weight_decay: λ, positive; without it, the weights of separable images grow without end. None for the value
            among 0.001, 0.003, …, 0.3 with the least cross-entropy on the inner validation images, each class counting
            alike.
        standardized: Whether λ acts on weights of dimensions that are scaled to variance 1; for features as a backbone
            gives them, whose scales differ.

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

    def __init__(self, *, weight_decay: float | None = 5e-4, standardized: bool = False) -> None:
        if weight_decay is not None and not weight_decay > 0:
            raise ValueError(f"weight_decay must be positive, got {weight_decay}; None chooses it")
        self.weight_decay = weight_decay
        self.standardized = standardized

    def __call__(self, head: Head, training: Predictions, validation: Predictions, *, seed: int) -> dict[str, float]:
        """See `Refit`."""
        linear = linear_layer(head)
        # Copied, because gradients do not flow into what was computed in inference mode.
        embedding, labels = training.embedding.to(torch.float64, copy=True), training.labels.clone()
        mean, scale = torch.zeros_like(embedding[0]), torch.ones_like(embedding[0])
        if self.standardized:
            mean, scale = embedding.mean(dim=0), embedding.std(dim=0, correction=0)
            scale = torch.where(scale > 0, scale, 1)
        scaled, found = (embedding - mean) / scale, []
        # From strong to weak, each from the minimum before it, which is near.
        weight = torch.zeros(linear.weight.shape, dtype=torch.float64, requires_grad=True)  # (C, D)
        bias = torch.zeros(len(weight), dtype=torch.float64, requires_grad=True)
        for decay in _WEIGHT_DECAYS if self.weight_decay is None else (self.weight_decay,):

            def objective(decay: float = decay) -> torch.Tensor:
                fit = class_balanced_cross_entropy(scaled @ weight.T + bias, labels)
                return fit + decay / 2 * weight.square().sum()

            value = minimize(objective, [weight, bias])
            with torch.no_grad():
                linear.weight.copy_(weight / scale)
                linear.bias.copy_(bias - weight @ (mean / scale))
                loss = class_balanced_cross_entropy(head(validation.embedding).scores, validation.labels).item()
                found.append((loss, decay, value, linear.weight.clone(), linear.bias.clone()))
        _, decay, value, *parameters = min(found, key=lambda one: one[0])
        with torch.no_grad():
            linear.weight.copy_(parameters[0])
            linear.bias.copy_(parameters[1])
        return {"retraining_objective": value, "weight_decay": decay}
