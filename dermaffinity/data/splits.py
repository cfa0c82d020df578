"""Which images are tested together: stratified folds, inner validation, and how much a split leaks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dermaffinity.errors import ManifestError, count_of

Protocol = Literal["group", "image", "presplit"]
"""How images are dealt: whole groups, single images, or as the dataset itself divides them."""

TRAINING_ONLY = -1
"""The fold of images that are trained on and never tested: those of a dataset that brings its own test set."""

# Enough for Dermofit and HAM10000 to come out even at the first; small awkward libraries use them all.
_RESTARTS = 50
# Exchanging two groups is tried among this many kinds of group at a time, which bounds time and memory.
_EXCHANGED_KINDS = 128
# Against the evenness of the classes: the total only decides between splits that are equally even.
_TOTAL_WEIGHT = 1e-3
# Against all evenness: a part without a class cannot be evaluated.
_LACKING = 1e6
# Changes of the cost that are rounding errors.
_NEGLIGIBLE = 1e-6

_Cost = Callable[[np.ndarray], np.ndarray]


def assign_folds(
    labels: Sequence[str],
    groups: Sequence[str],
    *,
    folds: int = 3,
    protocol: Literal["group", "image"] = "group",
    seed: int = 0,
) -> np.ndarray:
    """Deals N images into K stratified folds.

    Protocol ``group`` keeps every group whole; the counts of a class differ by at most one image between folds wherever
    the groups allow it, and the fold sizes too. It does not depend on the order of the rows. Protocol ``image`` ignores
    groups, as most published results do (scikit-learn's ``StratifiedKFold``).

    Args:
        labels: (N,) class of each image.
        groups: (N,) group of each image: its patient or lesion. A group may hold several classes.
        folds: K, at least 2.
        protocol: See above.
        seed: The same seed gives the same folds.

    Returns:
        (N,) int, 0 to K−1.

    Raises:
        ManifestError: Listing each class with too few groups (protocol ``image``: images) to be in every fold.

    Examples:
        >>> from dermaffinity.data import assign_folds
        >>> labels = ["mel", "mel", "nv", "nv", "mel", "nv"]
        >>> patients = ["P1", "P1", "P2", "P3", "P4", "P4"]
        >>> assign_folds(labels, patients, folds=2)  # no patient is in both
        array([1, 1, 1, 0, 0, 0])
    """
    label_of, group_of = _columns(labels, groups)
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    if protocol not in ("group", "image"):
        raise ValueError(f"protocol must be 'group' or 'image', got {protocol!r}")
    if not len(label_of):
        raise ManifestError("there are no images to split")
    classes, class_index = np.unique(label_of, return_inverse=True)
    counts, group_index = _group_counts(class_index, group_of)
    available = (counts > 0).sum(axis=0) if protocol == "group" else counts.sum(axis=0)  # (C,)
    rare = [
        f"{name}: {count_of(count, protocol)}" for name, count in zip(classes, available, strict=True) if count < folds
    ]
    if rare:
        raise ManifestError(
            f"every class needs at least {folds} {protocol}s for {folds} folds; use fewer with --folds, or leave the "
            "class out: empty its labels, or list the others as --set 'classes=[A, B]'",
            rare,
        )
    if protocol == "image":
        return _image_folds(class_index, folds, seed)
    lacking = np.full((folds, len(classes)), _LACKING)
    assigned = _deal(counts, np.full(folds, 1 / folds), lacking, np.random.default_rng(seed))[group_index]
    absent = [(fold, name) for fold in range(folds) for name in np.setdiff1d(classes, label_of[assigned == fold])]
    if absent:
        problems = [f"fold {fold} would have no {name}" for fold, name in absent]
        raise ManifestError("no split was found that keeps groups whole and has every class in every fold", problems)
    return assigned


def inner_validation(
    labels: Sequence[str], groups: Sequence[str], *, fraction: float = 0.15, seed: int = 0
) -> np.ndarray:
    """Cuts a stratified validation part out of N training rows; groups stay whole.

    A class in a single group stays in training. Every other class has at least one image on either side, unless groups
    that mix classes forbid it: then training comes first.

    Args:
        labels: (N,) class of each image.
        groups: (N,) group of each image.
        fraction: Share of every class to cut out, in (0, 1).
        seed: The same seed gives the same part, whatever the order of the rows.

    Returns:
        (N,) bool, True for validation.

    Examples:
        >>> from dermaffinity.data import inner_validation
        >>> labels, patients = ["mel", "nv"] * 6, [f"P{number // 2}" for number in range(12)]
        >>> inner_validation(labels, patients, fraction=0.2)  # one of six patients
        array([False, False,  True,  True, False, False, False, False, False,
               False, False, False])
    """
    label_of, group_of = _columns(labels, groups)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}")
    _, class_index = np.unique(label_of, return_inverse=True)
    counts, group_index = _group_counts(class_index, group_of)
    several = (counts > 0).sum(axis=0) > 1  # (C,)
    lacking = np.stack([np.full(len(several), 1e3 * _LACKING), several * _LACKING])  # (2, C): training, validation
    parts = _deal(counts, np.array([1 - fraction, fraction]), lacking, np.random.default_rng(seed))
    return parts[group_index] == 1


@dataclass(frozen=True)
class Leak:
    """How many test images have relatives in the training images of their fold; all counts by class.

    Args:
        images: Test images.
        group_mates: Those whose group has another image in training.
        same_label: Those whose group has another image of the same class in training.

    Examples:
        >>> from dermaffinity.data import measure_leak
        >>> leak = measure_leak(["mel", "mel", "nv", "nv"], ["P1", "P1", "P2", "P3"], folds=[0, 1, 0, 1])
        >>> leak.share, leak.group_mates
        (0.5, {'mel': 2, 'nv': 0})
    """

    images: dict[str, int]
    group_mates: dict[str, int]
    same_label: dict[str, int]

    @property
    def share(self) -> float:
        """Of all test images, the share with a group mate in training; 0 without images."""
        return sum(self.group_mates.values()) / max(1, sum(self.images.values()))


def measure_leak(labels: Sequence[str], groups: Sequence[str], folds: Sequence[int]) -> Leak:
    """Counts, with each fold tested in turn, the test images whose group is in the other folds too.

    Images of the fold `TRAINING_ONLY` are no test images.

    Args:
        labels: (N,) class of each image.
        groups: (N,) group of each image.
        folds: (N,) fold of each image; leave external rows out.

    Examples:
        >>> from dermaffinity.data import measure_leak
        >>> measure_leak(["mel", "mel", "nv", "nv"], ["P1", "P1", "P2", "P3"], folds=[0, 0, 0, 1]).share
        0.0
    """
    label_of, group_of = _columns(labels, groups)
    fold_of = np.asarray(folds, dtype=np.int64)
    if fold_of.shape != label_of.shape:
        raise ValueError(f"got {len(label_of)} labels but {len(fold_of)} folds")
    classes, class_index = np.unique(label_of, return_inverse=True)
    _, group_index = np.unique(group_of, return_inverse=True)
    mates = _in_several_folds(group_index, fold_of)
    same = _in_several_folds(group_index * len(classes) + class_index, fold_of)

    def by_class(chosen: np.ndarray) -> dict[str, int]:
        counts = np.bincount(class_index[chosen & (fold_of != TRAINING_ONLY)], minlength=len(classes))
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))

    return Leak(by_class(np.ones(len(label_of), dtype=bool)), by_class(mates), by_class(same))


def _in_several_folds(key: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the images that share an image's key lie in more than one fold."""
    pairs = np.unique(np.stack([key, fold_of], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=key.max(initial=0) + 1)[key] > 1


def _columns(labels: Sequence[str], groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    label_of, group_of = np.asarray(labels, dtype=str), np.asarray(groups, dtype=str)
    if len(label_of) != len(group_of):
        raise ValueError(f"got {len(label_of)} labels but {len(group_of)} groups")
    return label_of, group_of


def _group_counts(class_index: np.ndarray, group_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G, C) images of each class in each group, groups sorted by name; and (N,) the group of each image."""
    names, group_index = np.unique(group_of, return_inverse=True)
    counts = np.zeros((len(names), class_index.max(initial=-1) + 1), dtype=np.int64)
    np.add.at(counts, (group_index, class_index), 1)
    return counts, group_index


def _image_folds(class_index: np.ndarray, folds: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedKFold

    assigned = np.empty(len(class_index), dtype=np.int64)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, test) in enumerate(splitter.split(class_index, class_index)):
        assigned[test] = fold
    return assigned


def _deal(counts: np.ndarray, share: np.ndarray, lacking: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deals groups into parts so that every class is shared out as asked.

    Groups with the same counts are interchangeable, so the search is over how many of each kind a part gets: a small
    matrix, whatever the number of images. Each restart deals every kind out in proportion, places what is left over
    where it helps most, then moves and exchanges groups while that brings the counts closer to the shares.

    Args:
        counts: (G, C) images of each class in each group.
        share: (K,) of every class that each part should get; sums to 1.
        lacking: (K, C) cost of a part that has no image of a class.
        rng: Decides between equally good splits, and which groups of a kind go where.

    Returns:
        (G,) int, the part of each group.
    """
    kinds, kind_of = np.unique(counts, axis=0, return_inverse=True)  # (T, C), (G,)
    kind_of = kind_of.reshape(-1)
    available = np.bincount(kind_of, minlength=len(kinds))  # (T,)
    images = np.column_stack([kinds, kinds.sum(axis=1)])  # (T, C + 1): the total is one more class, of little weight
    wanted = share[:, None] * (available @ images)  # (K, C + 1)
    weight = 1 / wanted  # As in Pearson's chi-square: one image more matters in a rare class, not in a common one.
    weight[:, -1] *= _TOTAL_WEIGHT
    lacking = np.column_stack([lacking, np.zeros(len(share))])

    def cost(held: np.ndarray) -> np.ndarray:
        """(..., K, C + 1) images held to (..., K) cost."""
        return (weight * (held - wanted) ** 2 + lacking * (held == 0)).sum(axis=-1)

    best_dealt, best_cost = np.empty((0, 0), dtype=np.int64), np.inf
    for _ in range(_RESTARTS):
        dealt = np.floor(available[:, None] * share).astype(np.int64)  # (T, K)
        _place_rest(dealt, available, images, cost, rng)
        _improve(dealt, images, cost, rng)
        held = dealt.T @ images
        total_cost = float(cost(held).sum())
        if total_cost < best_cost:
            best_dealt, best_cost = dealt, total_cost
        if total_cost < _LACKING and (np.abs(held - wanted) < 1).all():
            break
    parts = np.empty(len(counts), dtype=np.int64)
    for kind, dealt in enumerate(best_dealt):
        members = rng.permutation(np.flatnonzero(kind_of == kind))
        parts[members] = np.repeat(np.arange(len(share)), dealt)
    return parts


def _place_rest(
    dealt: np.ndarray, available: np.ndarray, images: np.ndarray, cost: _Cost, rng: np.random.Generator
) -> None:
    """Gives out what was not dealt yet, in any order, each group to the part that needs it most; changes ``dealt``."""
    held = dealt.T @ images
    rest = np.repeat(np.arange(len(dealt)), available - dealt.sum(axis=1, dtype=np.int64))
    for kind in rng.permutation(rest):
        part = (cost(held + images[kind]) - cost(held)).argmin()
        dealt[kind, part] += 1
        held[part] += images[kind]


def _improve(dealt: np.ndarray, images: np.ndarray, cost: _Cost, rng: np.random.Generator) -> None:
    """Moves single groups, or exchanges two where no move helps, until neither lowers the cost; changes ``dealt``."""
    parts = np.arange(dealt.shape[1])
    while True:
        held = dealt.T @ images  # (K, C + 1)
        now = cost(held)  # (K,)
        leaving = np.where(dealt > 0, cost(held - images[:, None]) - now, np.inf)  # (T, K)
        joining = cost(held + images[:, None]) - now  # (T, K)
        moves = leaving[:, :, None] + joining[:, None, :]  # (T, from, to)
        moves[:, parts, parts] = np.inf
        kind, source, target = np.unravel_index(moves.argmin(), moves.shape)
        if moves[kind, source, target] < -_NEGLIGIBLE:
            dealt[kind, source] -= 1
            dealt[kind, target] += 1
            continue
        chosen = rng.permutation(len(dealt))[:_EXCHANGED_KINDS]
        difference = images[chosen, None] - images[chosen]  # (S, S, C + 1)
        change = cost(held - difference[:, :, None]) - now  # (S, S, K): a part gives the first kind for the second
        change = np.where(dealt[chosen, None] > 0, change, np.inf)
        exchanges = change[:, :, :, None] + change.swapaxes(0, 1)[:, :, None, :]  # (S, S, K, K)
        exchanges[:, :, parts, parts] = np.inf
        first, second, source, target = np.unravel_index(exchanges.argmin(), exchanges.shape)
        if exchanges[first, second, source, target] >= -_NEGLIGIBLE:
            return
        dealt[chosen[first], [source, target]] += [-1, 1]
        dealt[chosen[second], [source, target]] += [1, -1]
