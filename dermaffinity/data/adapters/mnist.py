"""MNIST with some digits made rare and some labels made wrong: the digit experiments of Hayat et al., ICCV 2019."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dermaffinity.data.adapters.base import DatasetAdapter, Record
from dermaffinity.data.idx import read_idx
from dermaffinity.errors import DataError

DIGITS = tuple("0123456789")
"""The classes."""

RARE_DIGITS = {"odd": DIGITS[1::2], "even": DIGITS[::2], "first": DIGITS[:5]}
"""Which digits an experiment makes rare, by the first word of its name."""

_EXPERIMENT = re.compile(rf"({'|'.join(RARE_DIGITS)})-([0-9]+(?:\.[0-9]+)?)")
_STANDARD = "standard"
_PARTS = {"train": False, "t10k": True}  # by the files' prefix, whether it is the test set


class MnistAdapter(DatasetAdapter):
    """Reads MNIST from the four files of its distribution, compressed or not, in any folder of the source.

    The test set is MNIST's own, complete and with true labels whatever the experiment. Which training images are kept
    and which labels are wrong follows from the seed of ``prepare``: of two experiments with one seed, the one that
    keeps fewer images of a digit keeps some of the other's, and the one with fewer wrong labels has some of the
    other's. No writer is known, so that every image is a group of its own.

    Args:
        source: The folder that torchvision downloads MNIST into, or any other with the four files.
        experiment: ``standard`` for all training images, or which digits are rare and how many percent of their
            training images are kept: ``odd-10``, ``even-25``, ``first-2.5`` (``first``: the digits 0 to 4).
        label_noise: Share of the training images kept whose label is replaced by another digit, all of them equally
            likely, in [0, 1). The column ``digit`` keeps the true one.

    Examples:
        >>> from dermaffinity.data.adapters import MnistAdapter
        >>> MnistAdapter.classes
        ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """

    name = "mnist"
    citation = "LeCun, Bottou, Bengio, Haffner, Proc. IEEE 86(11):2278-2324 (1998), doi:10.1109/5.726791"
    license = "CC BY-SA 3.0"
    classes: tuple[str, ...] = DIGITS
    malignant: tuple[str, ...] = ()
    presplit: bool = True

    def __init__(self, source: Path, *, experiment: str = "standard", label_noise: float = 0.0) -> None:
        super().__init__(source)
        self.rare, self.kept = _parse(experiment)
        if not 0 <= label_noise < 1:
            raise ValueError(f"label_noise must be in [0, 1), got {label_noise}")
        self.label_noise = label_noise
        self.experiment = experiment + (f"-noise-{100 * label_noise:g}" if label_noise else "")
        self.manifest_name = f"{self.name}-{self.experiment}"

    def how_to_get(self) -> str:
        """See :meth:`DatasetAdapter.how_to_get`."""
        return (
            "MNIST is free: python -c \"import torchvision; torchvision.datasets.MNIST('FOLDER', download=True)\" puts "
            "it into FOLDER. SOURCE needs train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
            "t10k-labels-idx1-ubyte, each plain or with .gz."
        )

    def records(self) -> Iterator[Record]:
        """See :meth:`DatasetAdapter.records`; all of MNIST with its true labels."""
        files = self.files()
        images = {prefix: _archives(files, f"{prefix}-images-idx3-ubyte") for prefix in _PARTS}
        labels = {prefix: _files(files, f"{prefix}-labels-idx1-ubyte") for prefix in _PARTS}
        problems = [
            f"{'no' if not found else 'more than one'} {prefix}-{kind}-ubyte{': ' if found else ''}{', '.join(found)}"
            for kind, parts in (("images-idx3", images), ("labels-idx1", labels))
            for prefix, found in parts.items()
            if len(found) != 1
        ]
        if problems:
            raise DataError(f"{self.name}: {self.library.root} does not hold MNIST once. {self.how_to_get()}", problems)
        for prefix, test in _PARTS.items():
            (archive,), (label_file,) = images[prefix].items(), labels[prefix]
            yield from self._part(archive, label_file, prefix, test)

    def select(self, records: list[Record], seed: int) -> list[Record]:
        """Thins the rare digits of the training images, then changes labels among what is left."""
        order = np.random.default_rng([seed, 0]).permutation(len(records))
        quota = {digit: self._quota(records, digit) for digit in DIGITS}
        kept = np.zeros(len(records), dtype=bool)
        for position in order:
            record = records[position]
            if not record.test:
                quota[record.label] -= 1
            kept[position] = record.test or quota[record.label] >= 0
        return [record for record, keep in zip(self._with_wrong_labels(records, kept, seed), kept, strict=True) if keep]

    def _quota(self, records: list[Record], digit: str) -> int:
        number = sum(record.label == digit and not record.test for record in records)
        return max(1, round(number * self.kept)) if digit in self.rare else number

    def _with_wrong_labels(self, records: list[Record], kept: np.ndarray, seed: int) -> list[Record]:
        if not self.label_noise:
            return records
        random = np.random.default_rng([seed, 1])
        order, steps = random.permutation(len(records)), random.integers(1, len(DIGITS), len(records))
        training = [position for position in order if kept[position] and not records[position].test]
        changed = list(records)
        for position in training[: round(self.label_noise * len(training))]:
            digit = (int(records[position].label) + steps[position]) % len(DIGITS)
            changed[position] = records[position]._replace(label=DIGITS[digit])
        return changed

    def _part(self, archive: tuple[str, list[str]], label_file: str, prefix: str, test: bool) -> Iterator[Record]:
        folder, names = archive
        labels = read_idx(self.library.read(label_file), label_file)
        if labels.shape != (len(names),):
            sizes = " x ".join(map(str, labels.shape))
            raise DataError(f"{self.name}: {folder} holds {len(names):,} images, but {label_file} {sizes} labels")
        if not len(labels) or labels.max() >= len(DIGITS):
            found = f"the label {labels.max()}" if len(labels) else "no label"
            raise DataError(f"{self.name}: {label_file} holds {found}; the classes are the digits 0 to 9")
        for name, label in zip(names, labels.tolist(), strict=True):
            group = f"{prefix}-{name.removesuffix('.pgm')}"
            yield Record(f"{folder}/{name}", None, DIGITS[label], group, {"digit": label}, test=test)


def _parse(experiment: str) -> tuple[tuple[str, ...], float]:
    """Which digits are rare, and the share of their training images that is kept."""
    if experiment == _STANDARD:
        return (), 1.0
    parsed = _EXPERIMENT.fullmatch(experiment)
    if not parsed or not 0 < float(parsed[2]) <= 100:
        raise ValueError(
            f"experiment must be {_STANDARD}, or {', '.join(RARE_DIGITS)} with the percentage that is kept, such as "
            f"odd-10, got {experiment!r}"
        )
    return RARE_DIGITS[parsed[1]], float(parsed[2]) / 100


def _archives(files: list[str], name: str) -> dict[str, list[str]]:
    """The images in each archive of that name; the compressed one where both lie side by side, as torchvision does."""
    found: dict[str, list[str]] = {}
    for path in files:
        archive, _, image = path.rpartition("/")
        if _name(archive) in (name, f"{name}.gz"):
            found.setdefault(archive, []).append(image)
    return {archive: found[archive] for archive in _compressed_first(list(found))}


def _files(files: list[str], name: str) -> list[str]:
    return _compressed_first([path for path in files if _name(path) in (name, f"{name}.gz")])


def _name(path: str) -> str:
    """Of 70,000 paths, in a tenth of the time of ``PurePosixPath``."""
    return path.rpartition("/")[2]


def _compressed_first(paths: list[str]) -> list[str]:
    return [path for path in paths if f"{path}.gz" not in paths]
