"""What every adapter promises, for every adapter there is: a new one only needs a line in ``sources``."""

import hashlib
import inspect
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from dermaffinity.data.adapter_options import adapter_options
from dermaffinity.data.adapters.base import DatasetAdapter, Record, adapter_class, adapter_names
from dermaffinity.data.adapters.phantom import write_phantom
from dermaffinity.data.library import ImageLibrary
from dermaffinity.data.manifest import COLUMNS, read_manifest, write_manifest
from dermaffinity.errors import ConfigError, DataError, ManifestError

ADAPTERS = adapter_names()
PUBLISHED = (
    "bcn20000", "ddi", "derm7pt", "fitzpatrick17k", "hiba", "isic", "isic2019", "isic2020", "milk10k", "pad_ufes_20",
    "slice3d",
)  # fmt: skip


@pytest.fixture
def sources(request, tmp_path, fake):
    """For each adapter, a tiny sound library and the options to read it with."""

    def phantom():
        write_phantom(tmp_path / "phantom", fraction=0.01, image_size=32)
        return tmp_path / "phantom"

    def table():
        files, truth, metadata = fake.isic2019_tables()
        tables = {"truth.csv": "\n".join(truth).encode(), "metadata.csv": "\n".join(metadata).encode()}
        return fake.write_tree(tmp_path / "table", files | tables)

    def published(name):
        return fake.write_tree(tmp_path / name, fake.published_files(name)), {"partial": True}

    return {name: partial(published, name) for name in PUBLISHED} | {
        "dermofit": lambda: (request.getfixturevalue("small_dermofit").write(), {"partial": True}),
        "ham10000": lambda: (request.getfixturevalue("ham_source"), {}),
        "image_folder": lambda: (request.getfixturevalue("folder_source"), {}),
        "mnist": lambda: (request.getfixturevalue("mnist_source"), {}),
        "phantom": lambda: (phantom(), {}),
        "table": lambda: (table(), {}),
    }


def test_the_adapters_are_the_modules_of_the_package(sources):
    assert sorted(sources) == ADAPTERS


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_says_who_it_is(name):
    adapter = adapter_class(name)
    assert adapter.name == name
    assert adapter.citation
    assert adapter.license
    assert set(adapter.malignant) <= set(adapter.classes)


@pytest.mark.parametrize("name", ADAPTERS)
def test_options_are_keyword_only_typed_and_have_defaults(name):
    source, *options = inspect.signature(adapter_class(name)).parameters.values()
    assert source.name == "source"
    for option in options:
        assert option.kind is inspect.Parameter.KEYWORD_ONLY
        assert option.default is not inspect.Parameter.empty
        assert option.annotation is not inspect.Parameter.empty


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_missing_source_ends_with_how_to_get_the_data(name, tmp_path):
    with pytest.raises(DataError, match="no folder or archive") as caught:
        adapter_class(name)(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in caught.value.message
    assert caught.value.message.endswith(adapter_class(name).how_to_get(None))


@pytest.mark.parametrize("name", ADAPTERS)
def test_prepare_freezes_sorted_hashed_grouped_rows(name, sources, tmp_path):
    source, options = sources[name]()
    adapter = adapter_class(name)(source, **options)
    seen = []
    manifest = adapter.prepare(
        folds=2, protocol="group", seed=5, on_progress=lambda done, total: seen.append((done, total))
    )
    rows = manifest.rows
    assert tuple(rows.columns[: len(COLUMNS)]) == COLUMNS
    assert rows["image"].is_monotonic_increasing
    assert seen == [(done, len(rows)) for done in range(1, len(rows) + 1)]
    assert set(rows["label"]) == set(manifest.classes)
    assert rows.groupby("group")["fold"].nunique().max() == 1
    library = ImageLibrary(manifest.root)
    for row in rows.itertuples():
        assert hashlib.sha256(library.read(row.image)).hexdigest() == row.sha256
    assert set(rows["mask"].dropna()) <= set(library.files())
    assert str(source) not in rows.to_csv() + manifest.source

    path = tmp_path / "out" / f"{manifest.name}.csv"
    write_manifest(manifest, path)
    again = read_manifest(path)
    assert (
        again.split_hash
        == manifest.split_hash
        == adapter_class(name)(source, **options).prepare(folds=2, protocol="group", seed=5).split_hash
    )
    pd.testing.assert_frame_equal(again.rows, rows, check_dtype=False)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_image_protocol_splits_images_and_keeps_the_groups_in_the_table(name, sources):
    source, options = sources[name]()
    by_group = adapter_class(name)(source, **options).prepare(folds=2, protocol="group")
    by_image = adapter_class(name)(source, **options).prepare(folds=2, protocol="image")
    assert by_image.protocol == "image"
    assert by_image.rows["group"].tolist() == by_group.rows["group"].tolist()
    assert by_image.split_hash != by_group.split_hash


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_datasets_own_split_is_the_default_where_there_is_one_and_refused_elsewhere(name, sources):
    source, options = sources[name]()
    adapter = adapter_class(name)(source, **options)
    if not adapter.presplit:
        assert (adapter.prepare().folds, adapter.prepare().protocol) == (3, "group")
        with pytest.raises(ConfigError, match=f"{name} brings no test set of its own"):
            adapter.prepare(protocol="presplit")
        return
    assert adapter.prepare().protocol == ("group" if adapter.prefers_folds else "presplit")
    manifest = adapter.prepare(protocol="presplit")
    assert (manifest.folds, manifest.protocol) == (1, "presplit")
    assert sorted(manifest.rows["fold"].unique()) == [-1, 0]
    with pytest.raises(ConfigError, match="folds=2 with the protocol presplit: a dataset's own split has 1 fold"):
        adapter.prepare(folds=2, protocol="presplit")
    with pytest.raises(ConfigError, match="folds=1 with the protocol group"):
        adapter.prepare(folds=1, protocol="group")


def test_an_unknown_adapter_is_refused_with_the_near_miss():
    with pytest.raises(ConfigError, match=r"no adapter 'dermafit' \(did you mean 'dermofit'\?\); there are bcn20000"):
        adapter_class("dermafit")
    with pytest.raises(ConfigError, match="there are"):
        adapter_class("base")


class _Scripted(DatasetAdapter):
    """Gives whatever records the test wants."""

    name = "scripted"
    citation = license = "none"
    classes = ("a", "b")
    malignant = ()
    script: tuple[Record, ...] = ()

    def records(self):
        yield from self.script

    def how_to_get(self) -> str:
        return "From nowhere."


def test_records_that_make_no_manifest_are_all_reported(tmp_path):
    adapter = _Scripted(tmp_path)
    adapter.script = (Record("1.png", None, "a", "1"), Record("1.png", None, "a", "1"), Record("2.png", None, "c", "2"))
    with pytest.raises(ManifestError) as caught:
        adapter.prepare()
    assert caught.value.problems == (
        "1 image listed 2 times: 1.png",
        "1 image with the label 'c', which is none of the classes a, b: 2.png",
        "class b has no image",
    )


def test_external_records_get_no_fold(tmp_path, fake):
    names = [f"{label}{number}.png" for label in "ab" for number in range(4)]
    fake.write_tree(tmp_path, {name: fake.picture(number) for number, name in enumerate(names)})
    adapter = _Scripted(tmp_path)
    adapter.script = tuple(Record(name, None, name[0], name, external=name[1] == "3") for name in names)
    manifest = adapter.prepare()
    assert manifest.external()["image"].tolist() == ["a3.png", "b3.png"]
    assert sorted(manifest.development()["fold"]) == [0, 0, 1, 1, 2, 2]


def test_importing_the_adapters_stays_cheap():
    script = "import sys, dermaffinity.data.adapters.phantom, dermaffinity.data.adapters.ham10000; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "sklearn", "scipy", "matplotlib", "imagehash"} & set(loaded)


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system takes UTF-8 names alone")
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_file_name_that_is_not_utf_8_is_refused_with_the_command_that_renames_it(name, sources):
    source, options = sources[name]()
    some_folder = next(path for path in sorted(source.rglob("*")) if path.is_file()).parent
    Path(os.fsdecode(os.fsencode(some_folder) + b"/na\xefve.png")).write_bytes(b"")
    with pytest.raises(DataError, match=r"1 file name of .* not in UTF-8: .*na\\xefve.png\. Rename .*convmv") as caught:
        adapter_class(name)(source, **options).prepare()
    str(caught.value).encode()


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_help_lists_every_option_with_its_default_and_description(name):
    _, *parameters = inspect.signature(adapter_class(name)).parameters.values()
    listed = adapter_options()[name]
    assert [option.name for option in listed] == [parameter.name for parameter in parameters]
    for option, parameter in zip(listed, parameters, strict=True):
        shown = {"()": "none", "None": "none", "False": "false"}.get(str(parameter.default), str(parameter.default))
        assert option.default == shown
        assert option.kind
        assert option.description.endswith(".")


def test_the_kind_of_an_option_is_told_in_words():
    kinds = {(name, option.name): option.kind for name, options in adapter_options().items() for option in options}
    assert kinds["image_folder", "classes"] == "a text, or several as [a, b]"
    assert kinds["image_folder", "groups"] == "a file"
    assert kinds["ham10000", "experiment"] == "all or hamfit-7 or hamfit-5"
    assert kinds["dermofit", "partial"] == "true or false"
    assert kinds["mnist", "label_noise"] == "a number"
