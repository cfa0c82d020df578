"""Where CoSen's costs end: 200 simulated trainings at each cost rate, by the paper's rule, at hamfit-7's class counts.

The inner validation error of 121 images falls from 75 to 35 % within some epochs, with the chance of a sample that
small. Printed is the largest cost ratio after 24 epochs, and how often it is below 2, where CoSen hardly differs from
softmax.
"""

import math

import torch
from side_by_side import result

from dermaffinity.heads import Predictions
from dermaffinity.losses import CoSenLoss

COUNTS, IMAGES, EPOCHS, TRAININGS = torch.tensor([70, 136, 146, 37, 43, 188, 69]), 121, 24, 200


def main() -> None:
    torch.manual_seed(0)
    labels = torch.arange(len(COUNTS)).repeat_interleave((COUNTS / COUNTS.sum() * IMAGES).round().int().clamp_min(2))
    for rate in (0.1, 0.3, 0.5, 0.8, 1.0):
        ratios = torch.tensor([final_ratio(rate, labels) for _ in range(TRAININGS)])
        low, middle, high = ratios.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
        below = 100 * (ratios < 2).float().mean()
        print(f"rate {rate:.1f}: ratio {middle:4.1f} (90 % within {low:.1f} to {high:.1f}), below 2 in {below:3.0f} %")
    result("CoSen's largest cost ratio at rate 1, simulated", middle)


def final_ratio(rate: float, labels: torch.Tensor) -> float:
    loss = CoSenLoss(COUNTS, 16, cost_rate=rate)
    directions = torch.randn(len(COUNTS), 16)
    for epoch in range(EPOCHS):
        recall = 0.65 - 0.4 * math.exp(-epoch / 3)
        right = torch.rand(len(labels)) < recall
        predicted = torch.where(right, labels, torch.randint(len(COUNTS), labels.shape))
        scores = torch.nn.functional.one_hot(predicted, len(COUNTS)).float()
        embedding = recall * directions[labels] + torch.randn(len(labels), 16)
        found = Predictions(scores, scores.softmax(dim=1), embedding, torch.zeros(len(COUNTS), 1, 16), labels)
        ratio = loss.on_epoch_end(epoch, found)["largest_cost_ratio"]
    return ratio


if __name__ == "__main__":
    main()
