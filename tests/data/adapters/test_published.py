"""The published datasets that come as images and tables: their counts hold, and their facts show in the records."""

import io
from collections import Counter

import h5py
import numpy as np
import pytest

from dermaffinity.data.adapters.base import adapter_class
from dermaffinity.data.adapters.derm7pt import Derm7ptAdapter
from dermaffinity.data.adapters.fitzpatrick17k import Fitzpatrick17kAdapter
from dermaffinity.data.adapters.isic import IsicAdapter
from dermaffinity.data.adapters.milk10k import Milk10kAdapter
from dermaffinity.errors import ConfigError, DataError, ManifestError

# As the datasets' own pages and papers state them.
TOTALS = {
    "bcn20000": 12_413, "ddi": 656, "derm7pt": 1_011, "fitzpatrick17k": 16_577, "hiba": 1_616, "isic2019": 25_331,
    "isic2020": 33_126, "milk10k": 10_480, "pad_ufes_20": 2_298, "slice3d": 401_059,
}  # fmt: skip


@pytest.fixture
def read(fake, tmp_path):
    """Records by image id, and the adapter's notes."""

    def read(name, files=None, **options):
        source = fake.write_tree(tmp_path / name, files or fake.published_files(name))
        adapter = adapter_class(name)(source, **{"partial": True} | options)
        records = list(adapter.records())
        return {record.image.rpartition("/")[2].partition(".")[0]: record for record in records}, adapter

    return read


@pytest.mark.parametrize("name", TOTALS)
def test_other_counts_than_the_published_ones_are_refused_without_partial(name, read):
    assert sum(adapter_class(name).published.values()) == TOTALS[name]
    with pytest.raises(DataError, match=r"other counts than published: .* instead of .*\. --partial accepts") as caught:
        read(name, partial=False)
    assert len(caught.value.problems) == 1
    _, adapter = read(name)
    known = Counter(adapter.rows([])["label"])
    if "all" in adapter.published:
        known = Counter(all=known.total())
    adapter.partial, adapter.published = False, known
    assert list(adapter.records()), "the right counts are accepted"


@pytest.mark.parametrize("name", [*TOTALS, "isic"])
def test_missing_images_and_another_versions_columns_are_one_clear_summary(name, fake, tmp_path):
    files = fake.published_files(name)
    if name != "slice3d":
        files.pop(next(path for path in files if path.lower().endswith(("jpg", "png"))))
        source = fake.write_tree(tmp_path / "a", files)
        adapter = adapter_class(name)(source)
        adapter.published = {}
        with pytest.raises(DataError, match=r"1 image of \d+ not among the files: .*\. The library has such files as"):
            list(adapter.records())
    table = max((path for path in files if path.endswith(".csv")), key=lambda path: len(files[path]))
    files[table] = b"one,other\n1,2\n"
    with pytest.raises(DataError, match=r"(?s)columns found are 'one', 'other'.*no column"):
        list(adapter_class(name)(fake.write_tree(tmp_path / "b", files), partial=True).records())
    del files[table]
    with pytest.raises(DataError, match=r"no table .* in .*, one is needed\. .*SOURCE"):
        list(adapter_class(name)(fake.write_tree(tmp_path / "c", files)).records())


def test_isic2019_has_lesions_as_groups_and_images_without_one_as_their_own(read):
    records, _ = read("isic2019")
    assert records["ISIC_0000000"].group == records["ISIC_0000001"].group == "HAM_0000000"
    alone = records["ISIC_0000005_downsampled"]
    assert alone.group == alone.image
    assert dict(records["ISIC_0000000"].extra) == {"age": 45, "site": "anterior torso", "sex": "female"}


def test_milk10k_joins_labels_by_lesion_and_the_supplement_tells_bowens_disease_apart(read, fake, tmp_path):
    records, _ = read("milk10k")
    assert records["ISIC_0000000"].group == records["ISIC_0000001"].group == "IL_0000000"
    assert (records["ISIC_0000000"].label, records["ISIC_0000000"].extra["skin_tone"]) == ("AKIEC", 0)
    assert records["ISIC_0000000"].diagnoses == ("Squamous cell carcinoma in situ",)
    source = fake.write_tree(tmp_path / "again", fake.published_files("milk10k"))
    dermoscopic = Milk10kAdapter(source, images="dermoscopic", partial=True)
    assert {record.extra["image_type"] for record in dermoscopic.records()} == {"dermoscopic"}
    assert sum(dermoscopic.published.values()) == 5240
    manifest = Milk10kAdapter(source, partial=True).prepare(folds=2, vocabulary="isic8")
    assert manifest.class_counts() | {"AK": 0, "SCC": 0} == dict.fromkeys(manifest.classes, 8) | {"AK": 0, "SCC": 0}
    assert (manifest.class_counts()["AK"], manifest.class_counts()["SCC"]) == (4, 12)


def test_bcn20000_leaves_out_the_diseases_of_its_test_part(read):
    records, adapter = read("bcn20000", images="all")
    assert len(records) == 66
    assert [record.image for record in records.values() if record.test] == [
        f"BCN_20k_test/BCN_0000000{k}.jpg" for k in (997, 998)
    ]
    assert "left out 1 image with other labels: OOD 1" in adapter.notes
    assert records["BCN_0000000000"].extra["split"] == "train"
    assert adapter.published == {"all": 18_946}


def test_pad_ufes_20_keeps_what_does_not_tell_the_label(read):
    records, _ = read("pad_ufes_20")
    assert {*records["PAT_0_1_9"].extra} == {"age", "sex", "site", "skin_tone", "patient_id", "lesion_id"}
    assert records["PAT_0_1_9"].extra["sex"] == "female"
    assert records["PAT_0_1_9"].group == records["PAT_0_0_9"].group == "PAT_0"


def test_derm7pt_joins_cases_by_their_clinical_photograph_and_counts_split_rows_from_zero(read):
    records, _ = read("derm7pt")
    assert records["Fal000"].group == records["Fal001"].group == "C0"
    assert records["Fal002"].group == "C1"
    assert len({records[f"Fal{k:03}"].group for k in range(4, 8)}) == 1
    assert [records[f"Fal{k:03}"].extra["split"] for k in (19, 20, 24, 25)] == ["train", "valid", "valid", "test"]
    assert records["Fal016"].diagnoses == ("melanoma (in situ)",)
    assert sum(Derm7ptAdapter.published.values()) == 1011


def test_the_official_split_of_derm7pt_is_a_manifest_without_training_images_of_tested_cases(fake, tmp_path):
    files = fake.published_files("derm7pt")
    adapter = Derm7ptAdapter(fake.write_tree(tmp_path / "whole", files), partial=True)
    manifest = adapter.prepare(protocol="presplit")
    split = dict(zip(manifest.rows["image"].str[-7:-4], manifest.rows["fold"], strict=True))
    assert split == {f"{k:03}": 0 if k >= 25 else -1 for k in range(40) if k != 24}  # 25 is of the same case
    assert adapter.notes[-1] == "left out 1 training image of groups that the test part has as well"
    strict = Derm7ptAdapter(tmp_path / "whole")
    strict.published = {}
    with pytest.raises(ManifestError, match=r"1 group in both .*: C12; .*with --partial, or deal new folds"):
        strict.prepare(protocol="presplit")
    files["release_v0/meta/test_indexes.csv"] = b"indexes\n39\n40\n-1\n"
    with pytest.raises(DataError, match=r"test_indexes\.csv names no lines of meta\.csv from 0 on: 40, -1"):
        Derm7ptAdapter(fake.write_tree(tmp_path / "other", files), partial=True).prepare()
    files = {path: content for path, content in files.items() if "indexes" not in path}
    with pytest.raises(ConfigError, match="derm7pt brings no test set of its own"):
        Derm7ptAdapter(fake.write_tree(tmp_path / "bare", files), partial=True).prepare(protocol="presplit")


def test_fitzpatrick17k_has_three_partitions_and_leaves_out_what_is_wrongly_labeled(read):
    records, adapter = read("fitzpatrick17k")
    assert f"{5:032x}" not in records
    assert "left out 1 image marked as wrongly labeled" in adapter.notes
    assert records[f"{0:032x}"].extra["skin_tone"] is None or np.isnan(records[f"{0:032x}"].extra["skin_tone"])
    nine, _ = read("fitzpatrick17k", experiment="nine")
    assert nine[f"{8:032x}"].label == "malignant melanoma"
    _, adapter = read("fitzpatrick17k", experiment="114")
    assert adapter.classes == ("dermatofibroma", "melanoma", "psoriasis")
    assert adapter.malignant == ("melanoma",)
    assert sum(Fitzpatrick17kAdapter(adapter.library.root, experiment="nine").published.values()) == 16577


def test_ddi_is_read_in_other_classes_by_its_diseases(read):
    _, adapter = read("ddi")
    assert adapter.prepare(folds=2, vocabulary="ham7").class_counts() == {"mel": 8, "nv": 8}
    records, _ = read("ddi")
    assert records["000001"].extra == {"skin_tone": 34, "disease": "melanocytic-nevi"}


def test_isic_takes_the_finest_diagnosis_up_to_the_level_and_joins_patients_and_lesions(read):
    records, adapter = read("isic")
    assert "left out 1 image without a diagnosis" in adapter.notes
    assert adapter.classes == ("Hemorrhagic lesions", "Melanoma in situ", "Nevus")
    assert adapter.malignant == ("Melanoma in situ",)
    assert {records[f"ISIC_{k:07}"].group for k in range(4)} == {"IP_0000000"}, "by patient, or by the lesion of one"
    assert "mel_thick_mm" not in records["ISIC_0000000"].extra
    assert records["ISIC_0000000"].diagnoses[:2] == ("Nevus, Spitz", "Nevus")
    _, first = read("isic", level="1")
    assert first.classes == ("Benign", "Malignant")
    _, chosen = read("isic", level="5", classes=["Nevus, Spitz", "Melanoma in situ"], image_type="dermoscopic")
    assert chosen.classes == ("Nevus, Spitz", "Melanoma in situ")
    with pytest.raises(DataError, match=r"no image of the type 'RCM: tile'; .* has clinical: close-up, dermoscopic"):
        read("isic", image_type="RCM: tile")
    _, adapter = read("isic")
    assert adapter.prepare(folds=2, vocabulary="ham7").class_counts() == {"mel": 8, "nv": 8}


def test_a_download_of_the_archive_before_its_levels_is_read_as_well(fake, tmp_path):
    files = {path: content for path, content in fake.published_files("isic").items() if path.endswith(("jpg", "JPG"))}
    ids = [f"ISIC_{k:07}" for k in range(12)]
    lines = ["isic_id,benign_malignant,diagnosis", *(f"{name},benign,nevus" for name in ids[:6])]
    lines += [f"{name},malignant,melanoma" for name in ids[6:]]
    files["metadata.csv"] = "\n".join(lines).encode()
    adapter = IsicAdapter(fake.write_tree(tmp_path / "old", files))
    assert adapter.prepare(folds=2).class_counts() == {"melanoma": 6, "nevus": 6}
    assert adapter.malignant == ("melanoma",)


def test_isic2020_goes_by_its_diagnoses_in_other_classes(read):
    _, adapter = read("isic2020")
    assert adapter.prepare(folds=2, vocabulary="isic8").class_counts() == {"MEL": 8, "NV": 4}
    assert "left out 4 images whose label has no class of isic8: benign 4" in adapter.notes


def test_slice3d_reads_hdf5_and_reports_broken_rows(read, fake, tmp_path):
    records, _ = read("slice3d")
    assert records["ISIC_0000008"].image == "train-image.hdf5/ISIC_0000008.jpg"
    assert {*records["ISIC_0000008"].extra} == {"age", "sex", "site"}
    files = fake.published_files("slice3d")
    stored = io.BytesIO(files["train-image.hdf5"])
    with h5py.File(stored, "a") as file:
        for key, broken in (("ISIC_0000000", np.void(b"nothing")), ("ISIC_0000001", np.zeros(4))):
            del file[key]
            file[key] = broken
    files["train-image.hdf5"] = stored.getvalue()
    _, adapter = read("slice3d", files)
    adapter.partial = False
    adapter.published = {}
    with pytest.raises(DataError, match=r"2 of 16 images cannot be read\.") as caught:
        adapter.prepare(folds=2)
    assert any("a row that is no encoded image" in problem for problem in caught.value.problems)
    adapter.partial = True
    assert adapter.prepare(folds=2).class_counts() == {"benign": 6, "malignant": 8}
    assert "left out: 2 of 16 images cannot be read" in adapter.notes


def test_slice3d_reads_the_challenges_own_files_too(fake, tmp_path):
    files = {f"ISIC_2024_Training_Input/ISIC_{k:07}.jpg": fake.picture(k) for k in range(8)}
    files["ISIC_2024_Training_GroundTruth.csv"] = "\n".join(
        ["isic_id,malignant", *(f"ISIC_{k:07},{float(k > 3)}" for k in range(8))]
    ).encode()
    files["ISIC_2024_Training_Metadata.csv"] = "\n".join(
        ["isic_id,patient_id,age_approx,sex,anatom_site_general", *(f"ISIC_{k:07},P{k},60,male,head" for k in range(8))]
    ).encode()
    adapter = adapter_class("slice3d")(fake.write_tree(tmp_path / "own", files), partial=True)
    assert adapter.prepare(folds=2).class_counts() == {"benign": 4, "malignant": 4}


def test_a_damaged_hdf5_file_is_one_clear_sentence(fake, tmp_path):
    files = fake.published_files("slice3d") | {"train-image.hdf5": b"half a download"}
    with pytest.raises(DataError, match=r"train-image.hdf5: not a readable HDF5 file .*; copy or download it again"):
        list(adapter_class("slice3d")(fake.write_tree(tmp_path / "half", files), partial=True).records())
