"""τ-normalization: class vectors brought to more equal lengths."""

import torch

from dermaffinity.heads.base import Head, Predictions
from dermaffinity.refit.base import Refit, balanced_accuracy, check_tau, chosen_tau, linear_layer


class TauNormalization(Refit):
    r"""Divides the weights of each class by a power of their length, which has grown with the class's frequency.

    .. math:: w_c \leftarrow \frac{w_c}{\lVert w_c \rVert^\tau}, \qquad b_c \leftarrow 0

    Source: Kang et al., ICLR 2020, https://arxiv.org/abs/1910.09217, Section 4.3; as there, the bias is left out.

    Args:
        tau: τ, at least 0; 0 leaves the weights, 1 makes all lengths one. None for the value among 0, 0.1, …, 2 with
            the best balanced accuracy on the inner validation images, the smallest of several.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import LinearHead, Predictions
        >>> from dermaffinity.refit import TauNormalization
        >>> head, labels, embedding = LinearHead(2, 2), torch.tensor([0, 0, 1]), torch.randn(3, 2)
        >>> output = head(embedding)
        >>> seen = Predictions(output.scores, head.probabilities(output), embedding, output.centers, labels)
        >>> TauNormalization(tau=1.0)(head, seen, seen, seed=0)
        {'tau': 1.0}
        >>> head.linear.weight.norm(dim=1).detach()  # all classes have class vectors of one length
        tensor([1.0000, 1.0000])
    """

    def __init__(self, *, tau: float | None = None) -> None:
        check_tau(tau)
        self.tau = tau

    @torch.no_grad()
    def __call__(self, head: Head, training: Predictions, validation: Predictions, *, seed: int) -> dict[str, float]:
        """See `Refit`."""
        linear = linear_layer(head)

        def normalized(tau: float) -> torch.Tensor:
            length = linear.weight.norm(dim=1, keepdim=True).clamp_min(torch.finfo(linear.weight.dtype).eps)  # (C, 1)
            return linear.weight / length**tau

        def score(tau: float) -> float:
            return balanced_accuracy(validation.embedding @ normalized(tau).T, validation.labels)

        tau = chosen_tau(score) if self.tau is None else self.tau
        linear.weight.copy_(normalized(tau))
        linear.bias.zero_()
        return {"tau": tau}
