import re
from collections import Counter
from pathlib import Path

import pytest

from dermaffinity.data.adapters.dermofit import (
    EXPERIMENTS,
    PUBLISHED_COUNTS,
    SUSPECTED_DUPLICATES,
    DermofitAdapter,
    class_code,
    lesion_group,
)
from dermaffinity.errors import DataError

LONG_NAMES = {
    "AK": "Actinic Keratosis Images",
    "BCC": "Basal Cell Carcinoma Images",
    "ML": "Melanocytic Nevus (mole) Images",
    "SCC": "Squamous Cell Carcinoma Images",
    "SK": "Seborrhoeic Keratosis Images",
    "IEC": "Intraepithelial Carcinoma Images",
    "PYO": "Pyogenic Granuloma Images",
    "VASC": "Haemangioma Images",
    "DF": "Dermatofibroma Images",
    "MEL": "Malignant Melanoma Images",
}


def all_name(code):
    return code if code in ("AK", "PYO") else f"ALL{code}"


# Where image and mask of a lesion lie, and where the lesion list; the numbers are those of the module's docstring.
LAYOUTS = {
    "1 class folders": ("{code}/{id}/{id}.png", "{code}/{id}/{id}mask.png", "lesionlist.txt"),
    "2 ALL folders": ("{all}/{id}/{id}.png", "{all}/{id}/{id}mask.png", None),
    "2 flat ALL folders, masks apart": ("{all}/{id}.png", "originalMasks/{all}/{id}.png", None),
    "3 long names": ("{long}/{id}/{id}.png", "{long}/{id}/{id}mask.png", None),
    "4 no class folders": ("images/{id}/{id}.png", "images/{id}/{id}mask.png", "lesionlist.txt"),
    "4 images and targets": (
        "Dermofit Database/images/{id}.png",
        "Dermofit Database/targets/{id}.png",
        "Dermofit Database/LesionList.txt",
    ),
    "zips of ALL folders": ("{all}.zip/{all}/{id}/{id}.png", "{all}.zip/{all}/{id}/{id}mask.png", None),
    "zips with long names": ("{long}.zip/{id}/{id}.PNG", "{long}.zip/{id}/{id}MASK.PNG", "lesionlist.txt"),
    "one zip": (
        "dermofit.zip/{code}/{id}/{id}.png",
        "dermofit.zip/{code}/{id}/{id}mask.png",
        "dermofit.zip/lesionlist.txt",
    ),
}


def library_in(layout, lesions, pictures, mask):
    image, mask_path, lesion_list = LAYOUTS[layout]
    files = {}
    for identifier, code in lesions:
        names = {"id": identifier, "code": code.lower(), "all": all_name(code), "long": LONG_NAMES[code]}
        files[image.format(**names)] = pictures[identifier]
        files[mask_path.format(**names)] = mask
    if lesion_list:
        lines = (f"{number:>5}   {identifier}   {code}\n" for number, (identifier, code) in enumerate(lesions, start=1))
        files[lesion_list] = "".join(lines).encode()
    # What macOS leaves in a zip and a folder.
    any_image = next(iter(files))
    top, _, member = any_image.rpartition(".zip/")
    prefix = f"{top}.zip/" if top else ""
    files[f"{prefix}__MACOSX/{Path(member).parent}/._{Path(member).name}"] = b"not an image"
    files[f"{prefix}.DS_Store"] = b"clutter"
    return files


def unevenness(rows):
    counts = rows.groupby(["label", "fold"]).size().unstack(fill_value=0)
    return (counts.max(axis=1) - counts.min(axis=1)).max()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_1300_images_at_the_published_counts_with_groups_kept_whole(
    layout, lesions, pictures, fake, tmp_path
):
    manifest = DermofitAdapter(
        fake.write_tree(tmp_path / "library", library_in(layout, lesions, pictures, fake.mask()))
    ).prepare(seed=1)
    rows = manifest.rows
    assert len(rows) == 1300
    assert manifest.class_counts() == PUBLISHED_COUNTS
    for image, mask in zip(rows["image"], rows["mask"], strict=True):
        assert Path(mask).stem.lower().removesuffix("mask") == Path(image).stem.lower()
    assert {Path(image).stem: label for image, label in zip(rows["image"], rows["label"], strict=True)} == dict(lesions)
    assert rows["group"].nunique() == 1073
    assert Counter(Counter(rows["group"]).values()) == {1: 917, 2: 116, 3: 21, 4: 10, 5: 6, 6: 3}
    assert rows.groupby("group")["fold"].nunique().max() == 1
    assert unevenness(rows) <= 1
    assert sorted(rows["fold"].value_counts()) == [433, 433, 434]


def test_a_zip_may_be_the_source_itself(lesions, pictures, fake, tmp_path):
    files = {
        name.removeprefix("dermofit.zip/"): content
        for name, content in library_in("one zip", lesions, pictures, fake.mask()).items()
    }
    manifest = DermofitAdapter(fake.write_zip(tmp_path / "library.zip", files)).prepare()
    assert manifest.class_counts() == PUBLISHED_COUNTS


def test_the_five_class_experiment_reads_its_960_images_and_needs_no_other_class(lesions, pictures, fake, tmp_path):
    files = library_in("zips with long names", lesions, pictures, fake.mask())
    wanted = {f"{LONG_NAMES[code]}.zip" for code in EXPERIMENTS["5-class"]} | {"lesionlist.txt"}
    files = {name: content for name, content in files.items() if name.split("/")[0] in wanted}
    manifest = DermofitAdapter(fake.write_tree(tmp_path / "library", files), experiment="5-class").prepare()
    assert manifest.name == "dermofit-5"
    assert manifest.classes == ("AK", "BCC", "ML", "SCC", "SK")
    assert manifest.malignant == ("BCC", "SCC")
    assert manifest.class_counts() == {code: PUBLISHED_COUNTS[code] for code in manifest.classes}
    assert sorted(manifest.rows["fold"].value_counts()) == [320, 320, 320]
    assert unevenness(manifest.rows) <= 1


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("ak", "AK"),
        ("ALLBCC", "BCC"),
        ("AllMel.ZIP", "MEL"),
        ("Melanocytic Nevus (mole) Images", "ML"),
        ("Melanocytic Nevus", "ML"),
        ("haemangioma images.zip", "VASC"),
        ("seborrhoeic_keratosis", "SK"),
        ("images", None),
        ("Dermofit Database", None),
        ("all", None),
        ("D12f", None),  # a lesion, not DF
        ("A5k", None),
    ],
)
def test_a_folder_names_its_class_by_code_or_long_name(folder, code):
    assert class_code(folder) == code


@pytest.mark.parametrize(
    ("identifier", "group"),
    [("P337a", "P337"), ("P337f", "P337"), ("p202", "P202"), ("B573", "B573"), ("B573b", "B573"), ("A70", "A70")],
)
def test_letter_and_number_are_the_group(identifier, group):
    assert lesion_group(identifier) == group


def test_suspected_duplicates_share_a_group_and_no_person_is_in_two_pairs():
    for first, second in SUSPECTED_DUPLICATES:
        assert lesion_group(first) == lesion_group(second)
    assert lesion_group("P82a") == lesion_group("C159a") == "C159+P82"
    assert len({lesion_group(i) for pair in SUSPECTED_DUPLICATES for i in pair}) == 4
    persons = [re.match(r"[A-Z]\d+", identifier)[0] for pair in SUSPECTED_DUPLICATES for identifier in pair]
    assert len(set(persons)) == 8


def test_wrong_counts_are_told_class_by_class_and_refused_unless_partial(small_dermofit):
    source = small_dermofit.write()
    with pytest.raises(DataError, match="--partial") as caught:
        list(DermofitAdapter(source).records())
    assert caught.value.problems == tuple(
        f"{code}: 6 images, published are {count}" for code, count in PUBLISHED_COUNTS.items()
    )
    assert DermofitAdapter(source, partial=True).prepare().class_counts() == dict.fromkeys(PUBLISHED_COUNTS, 6)


def problems_of(library, **options):
    with pytest.raises(DataError) as caught:
        list(DermofitAdapter(library.write(), **options).records())
    return [problem for problem in caught.value.problems if "published" not in problem]


def test_every_contradiction_is_reported_at_once(small_dermofit, fake):
    del small_dermofit.files["ak/B1/B1mask.png"]
    small_dermofit.files["ml/B900/B900mask.png"] = fake.mask()
    small_dermofit.files["ml/B901/B901.png"] = fake.picture(901)
    small_dermofit.files["ml/B2/b2.png"] = fake.picture(902)
    small_dermofit.files["ml/holiday.png"] = fake.picture(903)
    small_dermofit.files["elsewhere/B904.png"] = fake.picture(904)
    small_dermofit.lines[2] = "     3   B3   NEVUS"
    small_dermofit.lines[3] = "     4   B4   MEL"
    small_dermofit.lines[4] = "B5 AK"
    small_dermofit.lines.append("    61   B61   SK")
    assert sorted(problems_of(small_dermofit)) == [
        "1 file named neither <lesion id>.png nor <lesion id>mask.png, such as P337a.png: ml/holiday.png",
        "1 image found both in ak and in ml, keep one copy: b2.png",
        "1 image of two classes: ak/B4/B4.png lies in a folder of AK, lesionlist.txt says MEL",
        "1 image without label, outside every class folder and not in a lesionlist.txt: elsewhere/B904.png",
        "1 line of lesionlist.txt without image: b61",
        "1 line, expected 'number id CLASS': lesionlist.txt, line 5: 'B5 AK'",
        "1 line, unknown class 'NEVUS'; known are AK, BCC, ML, SCC, SK, IEC, PYO, VASC, DF, MEL: "
        "lesionlist.txt, line 3",
        "1 mask without image: ml/B900/B900mask.png",
        "2 images without mask: ak/B1/B1.png, ml/B901/B901.png",
        "3 images without line in lesionlist.txt: ak/B3/B3.png, ak/B5/B5.png, ml/B901/B901.png",
    ]


def test_partial_accepts_gaps_but_no_contradiction(small_dermofit):
    del small_dermofit.files["ak/B1/B1mask.png"]
    del small_dermofit.files["ak/B2/B2.png"]
    small_dermofit.lines.append("    61   B61   SK")
    small_dermofit.lines[3] = "     4   B4   MEL"
    assert problems_of(small_dermofit, partial=True) == [
        "1 image of two classes: ak/B4/B4.png lies in a folder of AK, lesionlist.txt says MEL"
    ]
    small_dermofit.lines[3] = "     4   B4   AK"
    records = {record.image: record for record in DermofitAdapter(small_dermofit.write(), partial=True).records()}
    assert len(records) == 59
    assert records["ak/B1/B1.png"].mask is None


def test_archives_left_beside_their_unpacked_folders_are_one_problem_for_each_class(small_dermofit, fake):
    for number in range(1, 7):
        small_dermofit.files[f"AK.zip/AK/B{number}/B{number}.png"] = fake.picture(number - 1)
    assert problems_of(small_dermofit) == [
        "6 images found both in AK.zip and in ak, keep one copy: B1.png, B2.png, B3.png, B4.png, B5.png, B6.png"
    ]


def test_one_id_in_lists_that_disagree_is_a_problem(small_dermofit):
    small_dermofit.lines.append("    61   b1   SK")
    assert problems_of(small_dermofit) == [
        "1 line, two classes of one id: lesionlist.txt, line 61: b1 is SK here and AK above"
    ]


def test_without_any_image_the_error_says_where_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"no <lesion id>.png in .* licensed .* by Edinburgh Innovations"):
        list(DermofitAdapter(tmp_path).records())


def test_archives_within_an_archive_must_be_unpacked_once(fake, tmp_path):
    source = fake.write_zip(tmp_path / "all.zip", {"ALLBCC.zip": b"PK"})
    with pytest.raises(DataError, match="unpack the outer one"):
        list(DermofitAdapter(source).records())


def test_an_unknown_experiment_is_an_error_in_the_call(tmp_path):
    with pytest.raises(ValueError, match="10-class, 5-class, got '7-class'"):
        DermofitAdapter(tmp_path, experiment="7-class")
