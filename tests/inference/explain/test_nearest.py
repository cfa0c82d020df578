"""What speaks for a prediction: each number by a plain way to it."""

import numpy as np
import pandas as pd
import pytest
import torch

from dermaffinity.heads import AffinityHead, HeadOutput, LinearHead
from dermaffinity.inference.explain import nearest_examples, occlusion_map
from dermaffinity.inference.model_folder import TrainingExamples


def output_at(embedding, head):
    return head(torch.tensor([embedding]))


def test_examples_are_ordered_by_their_distance_in_units_of_the_median_one():
    head = AffinityHead(2, 2)  # squared Euclidean distance
    known = TrainingExamples(["far", "near", "same"], ["a", "b", "a"], torch.tensor([[3.0, 0], [0, 2], [0, 0]]))
    found = nearest_examples([head], [output_at([0.0, 0.0], head)], [known])
    expected = pd.DataFrame(
        {
            "image": ["same", "near", "far"],
            "label": ["a", "b", "a"],
            "distance": [0, 1, 9 / 4],
            "fold_models": [1, 1, 1],
        }
    )
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_members_of_any_scale_have_one_vote_and_only_on_images_that_they_learned_from():
    heads = [AffinityHead(1, 2), LinearHead(2, 2)]
    outputs = [HeadOutput(torch.zeros(1, 2), torch.tensor([[0.0]]), torch.zeros(2, 1, 1))]
    outputs.append(HeadOutput(torch.zeros(1, 2), torch.tensor([[5.0, 0.0]]), torch.zeros(2, 1, 2)))
    first = TrainingExamples(["x", "y", "z"], ["a", "b", "a"], torch.tensor([[10.0], [20.0], [10.0]]))  # 1, 4, 1
    # 1 - cosine, in halves: 2, 1 and 0 times the median
    second = TrainingExamples(["x", "w", "v"], ["a", "b", "b"], torch.tensor([[-9.0, 0], [0, 1], [1, 0]]))
    found = nearest_examples(heads, outputs, [first, second]).set_index("image")
    assert found.index.tolist() == ["v", "w", "z", "x", "y"]
    assert found["distance"].to_dict() == pytest.approx({"v": 0, "w": 1, "z": 1, "x": 1.5, "y": 4})
    assert found["fold_models"].to_dict() == {"v": 1, "w": 1, "z": 1, "x": 2, "y": 1}
    assert nearest_examples(heads, outputs, [None, second])["image"].tolist() == ["v", "w", "x"]
    assert nearest_examples(heads, outputs, [None, None]) is None


def test_no_more_than_a_handful_is_shown():
    head = LinearHead(2, 2)
    known = TrainingExamples([str(k) for k in range(50)], ["a"] * 50, torch.randn(50, 2))
    assert len(nearest_examples([head], [output_at([1.0, 0.0], head)], [known])) == 6


def test_the_map_shows_where_the_probability_hangs_and_how_much_of_it():
    image = torch.zeros(3, 32, 32)
    image[:, 8:14, 20:26] = 1.0

    def probabilities(images):
        seen = images[:, :, 8:14, 20:26].mean(dim=(1, 2, 3))  # 1 uncovered, 0 when covered with the mean color
        return torch.stack([0.2 + 0.6 * seen, 0.8 - 0.6 * seen], dim=1)

    lost = occlusion_map(probabilities, image, 0)
    assert type(lost) is np.ndarray
    assert lost.shape == (32, 32)
    assert lost.min() == pytest.approx(0, abs=1e-6)
    assert 0.2 < lost.max() <= 0.6
    row, column = np.unravel_index(lost.argmax(), lost.shape)
    assert 8 <= row < 14
    assert 20 <= column < 26
    assert lost[20:, :16].max() == pytest.approx(0, abs=1e-6)
    # Of the other class nothing is lost anywhere: it gains.
    assert occlusion_map(probabilities, image, 1).max() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("side", [16, 17, 33])
def test_the_map_has_the_size_of_the_image(side):
    found = occlusion_map(lambda images: images.mean(dim=(2, 3)).softmax(dim=1), torch.rand(3, side, side), 2)
    assert found.shape == (side, side)
    assert found.min() >= 0
    assert found.max() <= 1
