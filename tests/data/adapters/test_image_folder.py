import re

import pytest

from dermaffinity.data.adapters.image_folder import ImageFolderAdapter
from dermaffinity.errors import ConfigError, DataError


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


def test_a_csv_gives_the_groups_by_path_or_by_a_name_that_occurs_once(fake, tmp_path):
    source = fake.write_tree(
        tmp_path / "lib", {f"{n}.png": fake.picture(i) for i, n in enumerate(["a/1", "a/2", "b/1", "b/3"])}
    )
    groups = write_groups(tmp_path, ["note,image,group", ",a/1.png,ann", ",2.png,bob", ",b/1.png,ann", ",3.png,bob"])
    records = {record.image: record.group for record in ImageFolderAdapter(source, groups=groups).records()}
    assert records == {"a/1.png": "ann", "a/2.png": "bob", "b/1.png": "ann", "b/3.png": "bob"}


def test_every_problem_of_the_csv_is_reported_at_once(fake, tmp_path):
    names = ["a/1", "a/2", "a/4", "b/1", "b/3"]
    source = fake.write_tree(tmp_path / "lib", {f"{n}.png": fake.picture(i) for i, n in enumerate(names)})
    lines = ["image,group", "1.png,ann", "2.png,", "9.png,bob", "3.png,cy", "b/3.png,dan"]
    with pytest.raises(DataError, match=r"groups file .* does not fit the library") as caught:
        list(ImageFolderAdapter(source, groups=write_groups(tmp_path, lines)).records())
    assert caught.value.problems == (
        "line 2: '1.png': 2 images have this name, give the path",
        "line 3: '2.png' has no group",
        "line 4: '9.png': no such image",
        "line 6: 'b/3.png' is in group 'dan' here and in 'cy' above",
        "4 images without a group: a/1.png, a/2.png, a/4.png, b/1.png",
    )


def test_a_csv_that_is_none_is_told_apart_from_one_that_lacks_columns(folder_source, tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(ImageFolderAdapter(folder_source, groups=tmp_path / "none.csv").records())
    with pytest.raises(DataError, match="lacks the column group; it needs image and group"):
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
        "1 image without label, outside every class folder: stray.png",
        "two classes are the least, found 1. Point SOURCE at a folder that holds one folder of images for each class.",
    )


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
