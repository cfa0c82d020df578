import re
import unicodedata

import pytest

from dermaffinity.data.adapters.image_folder import ImageFolderAdapter
from dermaffinity.data.manifest import read_manifest, write_manifest
from dermaffinity.errors import ConfigError, DataError, ManifestError


def test_top_folders_are_the_classes_and_each_image_is_its_own_group_by_default(folder_source):
    manifest = ImageFolderAdapter(folder_source, malignant=["wart"]).prepare(folds=2)
    assert manifest.name == "my-clinic"
    assert manifest.classes == ("nevus", "wart")
    assert manifest.malignant == ("wart",)
    assert manifest.class_counts() == {"nevus": 8, "wart": 8}
    assert manifest.rows["group"].tolist() == manifest.rows["image"].tolist()
    assert "no groups given" in manifest.source
    assert manifest.rows["mask"].isna().all()


def test_a_pattern_finds_the_group_in_the_file_name(folder_source):
    adapter = ImageFolderAdapter(folder_source, group_pattern=r"^(\d+)_")
    manifest = adapter.prepare(folds=2)
    assert set(manifest.rows["group"]) == {"0", "1", "2", "3"}
    assert manifest.rows.groupby("group")["fold"].nunique().max() == 1
    assert "groups by the pattern" in manifest.source


def test_a_pattern_must_match_every_name_and_have_one_group(folder_source):
    with pytest.raises(DataError, match=r"finds no group in 8 file names: nevus/0_b.jpg, nevus/1_b.jpg"):
        list(ImageFolderAdapter(folder_source, group_pattern=r"(\d)_a").records())
    with pytest.raises(ConfigError, match=r"one capture group, such as .*, and has 0"):
        ImageFolderAdapter(folder_source, group_pattern=r"^\d+_")
    with pytest.raises(ConfigError, match="is no regular expression"):
        ImageFolderAdapter(folder_source, group_pattern="(")


def write_groups(folder, lines):
    path = folder / "groups.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_table_gives_the_groups_by_path_file_name_or_id(fake, tmp_path):
    source = fake.write_tree(
        tmp_path / "lib", {f"{n}.png": fake.picture(i) for i, n in enumerate(["a/1", "a/2", "b/1", "b/3"])}
    )
    groups = write_groups(tmp_path, ["note,image,group", ",a/1.png,ann", ",2.PNG,bob", ",b/1.png,ann", ",3,bob"])
    records = {record.image: record.group for record in ImageFolderAdapter(source, groups=groups).records()}
    assert records == {"a/1.png": "ann", "a/2.png": "bob", "b/1.png": "ann", "b/3.png": "bob"}


def test_every_problem_of_the_csv_is_reported_at_once(fake, tmp_path):
    names = ["a/1", "a/2", "a/4", "b/1", "b/3"]
    source = fake.write_tree(tmp_path / "lib", {f"{n}.png": fake.picture(i) for i, n in enumerate(names)})
    lines = ["image,group", "1.png,ann", "2.png,", "14.png,bob", "3.png,cy", "b/3.png,dan"]
    with pytest.raises(DataError, match=r"groups file .* does not fit the library") as caught:
        list(ImageFolderAdapter(source, groups=write_groups(tmp_path, lines)).records())
    assert caught.value.problems == (
        "1 line whose image is not in the library: '14.png' (line 4). The library has such files as '4.png'",
        "1 line whose image may mean several files; give its path: '1.png' (line 2)",
        "1 line without a group: '2.png' (line 3)",
        "1 line with another group than a line above gives the image: 'b/3.png' (line 6: 'dan', above: 'cy')",
        "4 images without a group: a/1.png, a/2.png, a/4.png, b/1.png",
    )


def test_a_csv_that_is_none_is_told_apart_from_one_that_lacks_columns(folder_source, tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(ImageFolderAdapter(folder_source, groups=tmp_path / "none.csv").records())
    with pytest.raises(DataError, match=r"columns found are 'image', 'patient'.*\n  - no column 'group'"):
        list(ImageFolderAdapter(folder_source, groups=write_groups(tmp_path, ["image,patient", "a,b"])).records())
    with pytest.raises(ConfigError, match="not from both"):
        ImageFolderAdapter(folder_source, groups=tmp_path / "g.csv", group_pattern="(.)")


def test_named_classes_choose_folders_and_their_order(fake, tmp_path):
    source = fake.write_tree(
        tmp_path / "lib", {f"{n}.png": fake.picture(i) for i, n in enumerate(["a/1", "b/1", "c/1"])}
    )
    groups = write_groups(tmp_path, ["image,group", "a/1.png,x", "b/1.png,y", "c/1.png,z"])
    adapter = ImageFolderAdapter(source, classes=["c", "a"], groups=groups)
    assert adapter.classes == ("c", "a")
    assert {record.label for record in adapter.records()} == {"a", "c"}


def test_what_makes_no_library_is_reported_at_once(fake, tmp_path):
    source = fake.write_tree(
        tmp_path / "lib", {"nevus/1.png": fake.picture(1), "stray.png": fake.picture(2), "notes.txt": b""}
    )
    with pytest.raises(DataError) as caught:
        ImageFolderAdapter(source, classes=["naevus"], malignant=["melanoma"])
    assert caught.value.problems == (
        "there is no folder for the class 'naevus' (did you mean 'nevus'?)",
        "the malignant 'melanoma' is not a class; there are naevus",
        "1 image without label, outside every class folder: stray.png. Put each image into the folder of its class, "
        "or move it out of the library",
        "two classes are the least, found 1. Point SOURCE at a folder that holds one folder of images for each class.",
    )


def test_a_class_folder_without_an_image_is_refused_with_a_way_out(fake, tmp_path):
    files = {f"{label}/{i}.png": fake.picture(i) for label in ("nevus", "my wart") for i in (1, 2)}
    files |= {f"melanoma/{n}.mov": b"no image" for n in range(3)} | {"notes/todo.txt": b""}
    source = fake.write_tree(tmp_path / "lib", files)
    (source / "keratosis").mkdir()
    with pytest.raises(DataError) as caught:
        ImageFolderAdapter(source)
    assert caught.value.problems == (
        "no image among the 0 files of the folder 'keratosis'",
        "no image among the 3 files of the folder 'melanoma'",
        "no image among the 1 file of the folder 'notes'; put its images there, or read only the other folders: "
        """--set 'classes=["my wart", "nevus"]'""",
    )
    with pytest.raises(DataError) as caught:
        ImageFolderAdapter(source, classes=["nevus", "melanoma", "wart"])
    assert caught.value.problems[:2] == (
        "there is no folder for the class 'wart' (did you mean 'my wart'?)",
        "no image among the 3 files of the folder 'melanoma'; put its images there, or read only the other folders: "
        """--set 'classes=["my wart", "nevus"]'""",
    )
    adapter = ImageFolderAdapter(source, classes=["nevus", "my wart"])
    assert len(list(adapter.records())) == 4
    assert adapter.notes == []


def test_a_class_folder_without_an_image_is_refused_within_the_parts_of_a_split_as_well(fake, tmp_path):
    files = {f"{part}/{label}/1.png": fake.picture(1) for part in ("train", "test") for label in ("nevus", "wart")}
    files |= {"train/melanoma/film.mov": b"no image", "train/labels.csv": b"", "docs/readme.txt": b""}
    with pytest.raises(DataError) as caught:
        ImageFolderAdapter(fake.write_tree(tmp_path / "lib", files))
    (problem,) = caught.value.problems
    assert problem.startswith("no image among the 1 file of the folder 'melanoma'; put its images there")


def test_images_are_found_whatever_their_names_and_other_files_are_counted_and_named(fake, tmp_path):
    files = {"a/1.jfif": fake.picture(1, "jpg"), "a/scan": fake.picture(2), "b/3.gif": fake.picture(3, "gif")}
    files |= {"b/4.jp2": fake.picture(4, "jpeg2000"), "b/Thumbs.db": b"", "b/labels.csv": b"", "README.md": b""}
    files |= {"b/5.avif": fake.picture(5, "avif"), "b/clip.mov": b"film", "top.psd": b"8BPS"}
    adapter = ImageFolderAdapter(fake.write_tree(tmp_path / "lib", files))
    assert [record.image for record in adapter.records()] == ["a/1.jfif", "a/scan", "b/3.gif", "b/4.jp2", "b/5.avif"]
    assert adapter.notes == ["left out 2 files in no image format that is read here: b/clip.mov, top.psd"]
    assert adapter.prepare(folds=2).class_counts() == {"a": 2, "b": 3}


def test_a_fault_that_many_images_share_is_told_once(fake, folder_source):
    for n in range(4):
        (folder_source / "nevus" / f"{n}_a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="4 of 16 images cannot be read") as caught:
        ImageFolderAdapter(folder_source).prepare(folds=2)
    (problem,) = caught.value.problems
    assert problem.startswith("4 files: not an image in any of the formats JPEG")
    assert problem.endswith(": nevus/0_a.jpg, nevus/1_a.jpg, nevus/2_a.jpg, nevus/3_a.jpg")


def test_class_folders_may_be_archives(fake, tmp_path):
    source = fake.write_tree(tmp_path / "lib", {"a.zip/x/1.png": fake.picture(1), "b/1.png": fake.picture(2)})
    assert {r.image: r.label for r in ImageFolderAdapter(source).records()} == {"a.zip/x/1.png": "a", "b/1.png": "b"}


def test_images_that_cannot_be_read_are_all_named(fake, folder_source):
    (folder_source / "nevus" / "0_a.jpg").write_bytes(b"")
    (folder_source / "wart" / "0_a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="2 of 16 images cannot be read") as caught:
        ImageFolderAdapter(folder_source).prepare()
    assert [re.match(r"\w+/0_a.jpg", problem)[0] for problem in caught.value.problems] == [
        "nevus/0_a.jpg",
        "wart/0_a.jpg",
    ]


def patients(fake, folder, groups):
    """A library of two classes; the table says which patient each image shows."""
    source = fake.write_tree(folder / "lib", {f"{'ab'[i % 2]}/{i}.png": fake.picture(i) for i in range(len(groups))})
    return source, write_groups(folder, ["image,group", *(f"{i}.png,{group}" for i, group in enumerate(groups))])


def test_blanks_around_a_patient_make_no_other_patient(fake, tmp_path):
    source, groups = patients(fake, tmp_path, [f"P{i // 4}{' ' * (i % 2)}" for i in range(36)])
    manifest = ImageFolderAdapter(source, groups=groups).prepare()
    assert set(manifest.rows["group"]) == {f"P{i}" for i in range(9)}
    assert manifest.rows.groupby("group")["fold"].nunique().max() == 1


def test_patients_that_look_alike_are_refused_before_hashing_unless_they_are_said_to_differ(fake, tmp_path):
    source, groups = patients(fake, tmp_path, ["3", "3.0", "P1", "p1", "x", "y"])
    adapter, hashed = ImageFolderAdapter(source, groups=groups), []
    with pytest.raises(ManifestError, match=r"'3' and '3\.0', 'P1' and 'p1'\. Write each in one way.*--exact-ids"):
        adapter.prepare(folds=2, on_progress=lambda *counts: hashed.append(counts))
    assert hashed == []
    assert ImageFolderAdapter(source, groups=groups).prepare(folds=2, exact_ids=True).rows["group"].nunique() == 6


def test_patterns_and_classes_may_not_look_alike_either(fake, tmp_path):
    names = ["a/1_x", "a/01_y", "a/2_x", "b/3_x", "b/4_x"]
    source = fake.write_tree(tmp_path / "lib", {f"{n}.png": fake.picture(i) for i, n in enumerate(names)})
    with pytest.raises(ManifestError, match=r"group names that differ only in .*: '01' and '1'"):
        ImageFolderAdapter(source, group_pattern=r"^(\d+)_").prepare(folds=2)
    files = {f"{label}/{i}.png": fake.picture(3 * i + k) for k, label in enumerate(["nevus", "Nevus"]) for i in (0, 1)}
    with pytest.raises(ManifestError, match=r"class names that differ only in .*: 'Nevus' and 'nevus'"):
        ImageFolderAdapter(fake.write_tree(tmp_path / "two", files)).prepare(folds=2)


def test_file_names_that_look_alike_are_no_patients(fake, tmp_path):
    source = fake.write_tree(
        tmp_path / "lib", {f"{n}.png": fake.picture(i) for i, n in enumerate(["a/1", "a/01", "b/1", "b/2"])}
    )
    assert ImageFolderAdapter(source).prepare(folds=2).rows["group"].is_unique


def test_unicode_forms_of_folders_files_and_tables_are_one_and_paths_stay_as_on_the_disk(fake, tmp_path):
    names = ["Nävus/Löwe1.png", "Nävus/Löwe2.png", "Wärze/Löwe3.png", "Wärze/Löwe4.png"]
    on_disk = [unicodedata.normalize("NFD", name) for name in names]
    source = fake.write_tree(tmp_path / "lib", {name: fake.picture(i) for i, name in enumerate(on_disk)})
    groups = write_groups(tmp_path, ["image,group", *(f"{name},{i}" for i, name in enumerate(names))])
    adapter = ImageFolderAdapter(source, classes=["Wärze", "Nävus"], malignant=["Nävus"], groups=groups)
    manifest = adapter.prepare(folds=2)
    assert manifest.classes == ("Wärze", "Nävus")
    assert manifest.rows["image"].tolist() == on_disk
    assert manifest.rows["group"].tolist() == ["0", "1", "2", "3"]
    by_pattern = ImageFolderAdapter(source, group_pattern="(ö.*)1|2").records
    with pytest.raises(DataError, match="finds no group in 3 file names"):
        list(by_pattern())


def test_a_manifest_of_decomposed_names_can_be_read_again(fake, tmp_path):
    on_disk = [unicodedata.normalize("NFD", f"{label}/Löwe{i}.png") for label in ("Nävus", "Wärze") for i in (0, 1)]
    source = fake.write_tree(tmp_path / "lib", {name: fake.picture(i) for i, name in enumerate(on_disk)})
    write_manifest(ImageFolderAdapter(source).prepare(folds=2), tmp_path / "lib.csv")
    assert read_manifest(tmp_path / "lib.csv").rows["image"].tolist() == on_disk


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_how_a_groups_table_was_read_is_noted(fake, tmp_path, encoding):
    source = fake.write_tree(tmp_path / "lib", {f"{n}.png": fake.picture(i) for i, n in enumerate(["a/ö", "b/2"])})
    groups = tmp_path / "groups.csv"
    groups.write_bytes("image;group\nö.png;Ann\n2.png;Bob\n".encode(encoding))
    adapter = ImageFolderAdapter(source, groups=groups)
    assert [record.group for record in adapter.records()] == ["Ann", "Bob"]
    said = {"utf-8": "UTF-8", "cp1252": "cp1252", "utf-16": "UTF-16"}[encoding]
    assert adapter.notes == [f"{groups}: read as 2 lines, semicolon-separated, {said}"]


def test_mismatches_of_a_table_are_summed_up(fake, tmp_path):
    source, groups = patients(fake, tmp_path, list("abcdef"))
    groups.write_text("image,group\n" + "".join(f"IMG{i}.png,x\n" for i in range(500)))
    with pytest.raises(DataError) as caught:
        list(ImageFolderAdapter(source, groups=groups).records())
    unknown, ungrouped = caught.value.problems
    assert unknown.startswith("500 lines whose image is not in the library: 'IMG0.png' (line 2), 'IMG1.png' (line 3), ")
    assert " and 492 more. The library has such files as " in unknown
    assert ungrouped.startswith("6 images without a group")


SPLIT = [f"{part}/{label}/{i}.png" for part in ("Train", "valid", "TEST") for label in "ab" for i in range(2)]


def split_library(fake, folder, names=SPLIT):
    return fake.write_tree(folder, {name: fake.picture(i) for i, name in enumerate(names)})


@pytest.mark.parametrize("wrapper", ["", "wrapper/", "wrapper.zip/", "wrapper.zip/wrapper/"])
def test_split_folders_are_the_librarys_own_split(fake, tmp_path, wrapper):
    adapter = ImageFolderAdapter(split_library(fake, tmp_path / "lib", [wrapper + name for name in SPLIT]))
    assert adapter.classes == ("a", "b")
    (note,) = adapter.notes
    assert note.startswith("the folders TEST, Train, valid are the parts of a split")
    assert "--protocol group" in note
    manifest = adapter.prepare()
    assert (manifest.protocol, manifest.folds) == ("presplit", 1)
    fold = {
        image.removeprefix(wrapper).split("/")[0]: fold
        for image, fold in zip(*(manifest.rows[c] for c in ("image", "fold")), strict=True)
    }
    assert fold == {"Train": -1, "valid": -1, "TEST": 0}


def test_split_folders_may_be_dealt_anew(fake, tmp_path):
    manifest = ImageFolderAdapter(split_library(fake, tmp_path / "lib")).prepare(folds=2, protocol="group")
    assert manifest.class_counts() == {"a": 6, "b": 6}
    assert sorted(manifest.rows["fold"].unique()) == [0, 1]
    without_test = ImageFolderAdapter(split_library(fake, tmp_path / "two", SPLIT[:8]))
    assert "no test folder" in without_test.notes[0]
    assert without_test.prepare(folds=2).protocol == "group"


def test_archives_of_a_split_hold_their_own_name_once_more(fake, tmp_path):
    names = [name.replace("/", ".zip/", 1) for name in SPLIT] + ["Train.zip/Train/a/9.png"]
    adapter = ImageFolderAdapter(split_library(fake, tmp_path / "lib", names))
    assert adapter.classes == ("a", "b")
    assert adapter.presplit


def test_split_folders_beside_others_are_refused_unless_they_are_the_classes(fake, tmp_path):
    source = split_library(fake, tmp_path / "lib", [*SPLIT, "extra/1.png"])
    with pytest.raises(
        DataError, match=r"TEST, Train, valid look like the parts of a split, and beside them lie extra. Move"
    ):
        ImageFolderAdapter(source)
    adapter = ImageFolderAdapter(source, classes=["Train", "TEST"])
    assert not adapter.presplit
    assert {record.label for record in adapter.records()} == {"Train", "TEST"}


@pytest.mark.parametrize("wrapper", ["", "wrapper/"])
def test_a_part_of_a_split_without_class_folders_is_named_with_what_is_allowed(fake, tmp_path, wrapper):
    names = [f"{wrapper}{name}" for name in (*SPLIT[:4], "TEST/8.png", "TEST/9.png")]
    with pytest.raises(DataError) as caught:
        ImageFolderAdapter(split_library(fake, tmp_path / "lib", names))
    test = f"{wrapper}TEST"
    assert caught.value.problems == (
        f"2 images without label, outside every class folder: {test}/8.png, {test}/9.png. The parts of a split hold "
        f"one folder for each class, as in {test}/a/; sort the images of {test} into such folders, or move {test} out "
        "of the library if their classes are not known",
    )


def test_one_folder_around_the_classes_is_named_with_the_command_that_reads_them(fake, tmp_path):
    names = [f"My Lesions/{label}/{i}.png" for label in ("no 1", "no 2") for i in range(2)]
    source = split_library(fake, tmp_path / "lib", names)
    with pytest.raises(DataError) as caught:
        ImageFolderAdapter(source, malignant=["no 1"])
    assert str(caught.value) == (
        f"image_folder: {source} holds one folder, My Lesions, and in it no 1, no 2. If those are the classes: "
        f"dermaffinity prepare image_folder '{source}/My Lesions'"
    )
    archive = fake.write_zip(tmp_path / "a.zip", {name: fake.picture(i) for i, name in enumerate(names)})
    with pytest.raises(DataError) as caught:
        ImageFolderAdapter(archive)
    assert caught.value.message.endswith(
        f"""dermaffinity prepare image_folder {archive} --set 'classes=["no 1", "no 2"]'"""
    )
    assert ImageFolderAdapter(archive, classes=["no 1", "no 2"]).prepare(folds=2).class_counts() == {
        "no 1": 2,
        "no 2": 2,
    }


def test_a_single_class_in_folders_of_patients_is_no_library_of_patients(fake, tmp_path):
    with pytest.raises(DataError, match="holds one folder, nevus, and in it p1, p2"):
        ImageFolderAdapter(split_library(fake, tmp_path / "lib", ["nevus/p1/1.png", "nevus/p2/1.png"]))
    with pytest.raises(DataError, match="two classes are the least, found 1"):
        ImageFolderAdapter(split_library(fake, tmp_path / "flat", ["nevus/1.png", "nevus/2.png"]))


def test_a_training_folder_beside_what_is_no_part_of_a_split_is_named(fake, tmp_path):
    files = {f"train/{label}/1.png": fake.picture(1) for label in ("nevus", "wart")} | {
        "unlabeled/2.png": fake.picture(2)
    }
    with pytest.raises(
        DataError, match=r"train looks like a part of a split.*found train, unlabeled.*lib/train, or name"
    ):
        ImageFolderAdapter(fake.write_tree(tmp_path / "lib", files))


def test_a_loose_image_does_not_hide_a_wrapper(fake, tmp_path):
    files = {f"data/{label}/1.png": fake.picture(1) for label in ("nevus", "wart")} | {"a.png": fake.picture(2)}
    with pytest.raises(DataError, match="holds one folder, data, and in it nevus, wart"):
        ImageFolderAdapter(fake.write_tree(tmp_path / "lib", files))
