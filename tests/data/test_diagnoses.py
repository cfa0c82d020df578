import pytest
import yaml

from dermaffinity.data import diagnoses
from dermaffinity.data.adapters.base import adapter_class, adapter_names
from dermaffinity.data.diagnoses import class_in, is_malignant, known_classes, unmapped_note
from dermaffinity.errors import ConfigError

BOWEN, VASCULAR = "Squamous cell carcinoma in situ", "Benign soft tissue proliferations - Vascular"
CONTENTS = diagnoses._contents()


def test_every_name_in_the_file_leads_to_classes_that_are_there():
    assert {key for row in CONTENTS["diagnoses"].values() for key in row} == set(CONTENTS["classes"])
    for row in CONTENTS["diagnoses"].values():
        for vocabulary, code in row.items():
            assert code in known_classes(vocabulary).names
    for section, labels in CONTENTS["labels"].items():
        assert labels["source"], section
        assert {diagnosis for label, diagnosis in labels.items() if label != "source"} <= set(CONTENTS["diagnoses"])
    for vocabulary in CONTENTS["classes"]:
        known = known_classes(vocabulary)
        assert {row[vocabulary] for row in CONTENTS["diagnoses"].values() if vocabulary in row} == set(known.names)
        assert set(known.malignant) <= set(known.names)


@pytest.mark.parametrize(
    ("vocabulary", "adapter"), [("ham7", "ham10000"), ("isic8", "isic2019"), ("dermofit10", "dermofit")]
)
def test_a_library_in_its_own_classes_is_itself(vocabulary, adapter):
    known, own = known_classes(vocabulary), adapter_class(adapter)
    assert set(known.names) == set(own.classes)
    assert set(known.malignant) == set(own.malignant)
    assert [class_in(vocabulary, [code], adapter) for code in known.names] == list(known.names)


@pytest.mark.parametrize(
    ("labels", "adapter", "ham7", "isic8", "dermofit10"),
    [
        (["SCC"], "pad_ufes_20", None, "SCC", "SCC"),
        (["NEV"], "pad_ufes_20", "nv", "NV", "ML"),
        (["akiec"], "ham10000", "akiec", None, None),
        (["AKIEC"], "milk10k", "akiec", "AK", "AK"),
        (["Squamous cell carcinoma in situ, Bowens disease", BOWEN], "isic", "akiec", "SCC", "IEC"),
        (["Hemangioma, Cherry", "Hemangioma", VASCULAR, "Benign"], "isic", "vasc", "VASC", "VASC"),
        (["INF"], "milk10k", None, None, None),
        (["melanoma-in-situ"], "ddi", "mel", "MEL", "MEL"),
        (["Basal Cell  carcinoma"], "table", "bcc", "BCC", "BCC"),
        (["psoriasis"], "fitzpatrick17k", None, None, None),
    ],
)
def test_labels_have_the_classes_that_the_datasets_facts_say(labels, adapter, ham7, isic8, dermofit10):
    assert [class_in(v, labels, adapter) for v in CONTENTS["classes"]] == [ham7, isic8, dermofit10]


def test_the_archives_names_are_those_of_its_own_hierarchy():
    hierarchy = pytest.importorskip("isic_metadata.diagnosis_hierarchical")
    known = {level for diagnosis in hierarchy.DiagnosisEnum for level in diagnosis.value.split(":")}
    assert set(CONTENTS["labels"]["isic"]) - {"source"} <= known


def test_every_adapter_with_diagnoses_as_classes_has_them_in_the_vocabulary():
    coarse = {"mnist", "table", "image_folder", "isic", "hiba", "slice3d", "isic2020", "ddi", "fitzpatrick17k"}
    for name in set(adapter_names()) - coarse:
        assert any(class_in("ham7", [code], name) for code in adapter_class(name).classes), name


def test_unknown_classes_are_refused_and_unmapped_labels_counted_and_named():
    with pytest.raises(ConfigError, match=r"no classes 'ham8' \(did you mean 'ham7'\?\); allowed are ham7, isic8"):
        known_classes("ham8")
    assert unmapped_note([], "ham7") == []
    assert unmapped_note(["SCC", "INF", "SCC"], "ham7") == [
        "left out 3 images whose label has no class of ham7: SCC 2, INF 1"
    ]
    assert [is_malignant(label, "table") for label in ("Melanoma", "nevus", "AK", "wart")] == [
        True,
        False,
        False,
        False,
    ]


def test_the_file_has_no_key_twice():
    lines = diagnoses.Path(diagnoses.__file__).with_name("diagnoses.yaml").read_text().splitlines()
    section, seen = "", set()
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            indent, key = len(line) - len(line.lstrip()), line.partition(": ")[0].strip().rstrip(":")
            section = key if indent <= 2 else section
            assert (section, indent, key) not in seen, line
            seen.add((section, indent, key))
    assert yaml.safe_load("\n".join(lines)) == CONTENTS
