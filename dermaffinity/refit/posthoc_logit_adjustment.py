"""Post-hoc logit adjustment: the class frequencies are taken out of the bias."""

import torch

from dermaffinity.heads.base import Head, Predictions, log_shares
from dermaffinity.refit.base import Refit, balanced_accuracy, check_tau, chosen_tau, linear_layer


class PosthocLogitAdjustment(Refit):
    r"""Takes the log share of each class in training from its logits.

    .. math:: b_c \leftarrow b_c - \tau \log \pi_c, \qquad \pi_c = \frac{n_c}{\sum_k n_k}

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, https://arxiv.org/abs/2007.07314, Eq. 9.

    Args:
        tau: τ, at least 0; 0 changes nothing, 1 is right for calibrated probabilities. None for the value among 0, 0.1,
            …, 2 with the best balanced accuracy on the inner validation images, the smallest of several.

    Examples:
        >>> import torch
        >>> from dermaffinity.heads import LinearHead, Predictions
        >>> from dermaffinity.refit import PosthocLogitAdjustment
        >>> head, labels, embedding = LinearHead(2, 2), torch.tensor([0] * 9 + [1]), torch.randn(10, 2)
        >>> output, before = head(embedding), head.linear.bias.detach().clone()
        >>> seen = Predictions(output.scores, head.probabilities(output), embedding, output.centers, labels)
        >>> chosen = PosthocLogitAdjustment(tau=1.0)(head, seen, seen, seed=0)
        >>> (head.linear.bias - before).diff().item() > 0  # the rare class is preferred more than before
        True
    """

    def __init__(self, *, tau: float | None = 1.0) -> None:
        check_tau(tau)
        self.tau = tau

    @torch.no_grad()
    def __call__(self, head: Head, training: Predictions, validation: Predictions, *, seed: int) -> dict[str, float]:
        """See `Refit`."""
        linear = linear_layer(head)
        log_share = log_shares(torch.bincount(training.labels, minlength=len(linear.bias)).clamp_min(1))  # (C,)

        def score(tau: float) -> float:
            return balanced_accuracy(validation.scores - tau * log_share, validation.labels)

        tau = chosen_tau(score) if self.tau is None else self.tau
        linear.bias.sub_(tau * log_share)
        return {"tau": tau}
