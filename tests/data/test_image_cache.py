"""Decoded images in mapped files: the pixels that were decoded, whatever was interrupted, damaged or full."""

import errno
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from dermaffinity.data import image_cache
from dermaffinity.data.image_cache import MappedImages, cached
from dermaffinity.errors import DataError

FACTS = {"images": "eleven", "stage": "none"}


class Pictures(list):
    """Eleven images of different widths, which count how often they are decoded."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        super().__init__(random.integers(0, 256, (8, 9 + width, 3), dtype=np.uint8) for width in range(11))
        self.decoded: list[int] = []

    def __getitem__(self, row):
        self.decoded.append(row)
        return super().__getitem__(row)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Three images fit into a file, two are decoded at once."""
    monkeypatch.setenv("DERMAFFINITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_cache, "_IMAGES", 3)
    monkeypatch.setattr(image_cache, "_BLOCK", 2)
    return tmp_path / "cache"


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/images-*.bin"))


def same(found, expected) -> bool:
    return len(found) == len(expected) and all(np.array_equal(a, b) for a, b in zip(found, list(expected), strict=True))


def test_images_are_decoded_once_and_come_as_they_were():
    pictures, steps = Pictures(), []
    found = cached(pictures, FACTS, 1, lambda *counts: steps.append(counts))
    assert same(found, Pictures())
    assert not found[0].flags.writeable
    assert sorted(pictures.decoded) == list(range(11))
    assert steps == [(count, 11) for count in (2, 3, 5, 6, 8, 9, 11)]
    assert same(cached(pictures, FACTS, 1), Pictures())
    assert len(pictures.decoded) == 11


def test_other_facts_are_another_cache_and_its_folder_says_which(cache):
    cached(Pictures(), FACTS, 1)
    cached(Pictures()[:2], FACTS | {"images": "two"}, 1)
    assert len(list(cache.iterdir())) == 2
    assert sorted(path.read_text() for path in cache.glob("*/about.json"))[0].startswith('{\n  "images": "eleven"')


def test_an_interrupted_cache_is_continued_and_a_cut_file_is_decoded_again(cache):
    class Killed(Pictures):
        def __getitem__(self, row):
            if row == 7:
                raise KeyboardInterrupt
            return super().__getitem__(row)

    with pytest.raises(KeyboardInterrupt):
        cached(Killed(), FACTS, 1)
    assert len(files(cache)) == 2
    content = files(cache)[0].read_bytes()
    files(cache)[0].write_bytes(content[:-1])
    (files(cache)[0].parent / ".images-00002.bin.abc.part").write_bytes(b"half")
    pictures = Pictures()
    assert same(cached(pictures, FACTS, 1), Pictures())
    assert sorted(pictures.decoded) == [0, 1, 2, 6, 7, 8, 9, 10]
    assert files(cache)[0].read_bytes() == content
    assert not list(cache.glob("*/.*.part"))


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff" * 24, bytes(600)])
def test_a_file_that_is_not_what_it_should_be_is_refused(cache, damage):
    found = cached(Pictures(), FACTS, 1)
    files(cache)[1].write_bytes(damage)
    with pytest.raises(DataError, match=r"images-00001\.bin: missing or incomplete; run the command again"):
        MappedImages(found.folder, 11)


def test_a_pickle_holds_no_pixels():
    found = cached(Pictures(), FACTS, 1)
    content = pickle.dumps(found)
    assert len(content) < 1000
    assert same(pickle.loads(content), Pictures())


def test_a_damaged_image_is_named_and_what_was_decoded_is_kept(cache):
    class Damaged(Pictures):
        def __getitem__(self, row):
            if row == 9:
                raise DataError("nine.png: damaged")
            return super().__getitem__(row)

    with pytest.raises(DataError, match=r"nine\.png: damaged"):
        cached(Damaged(), FACTS, 1)
    assert len(files(cache)) == 3


def test_a_disk_that_is_too_small_is_told_before_anything_is_decoded():
    pictures = Pictures()
    with pytest.raises(
        DataError, match=r"decoded images need about 1000000000\.0 GB here, and .* are free\. Free some"
    ):
        cached(pictures, FACTS, 10**18)
    assert pictures.decoded == []


def test_a_disk_that_fills_up_is_one_sentence_and_what_was_decoded_is_kept(cache, monkeypatch):
    sync, synced = os.fsync, []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 4:  # what the folder is about and a file, each with its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"images-00001\.bin: the disk is full\. Free some space and run the command"):
        cached(Pictures(), FACTS, 1)
    assert len(files(cache)) == 1


def count_decoded(results) -> None:
    pictures = Pictures()
    found = cached(pictures, FACTS, 1)
    results.put((len(pictures.decoded), same(found, Pictures())))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_that_need_the_same_images_decode_them_once():
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=count_decoded, args=(results,)) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(0, True), (11, True)]
