import io
import os
import pickle
import stat
import threading
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from dermaffinity.data.library import ImageLibrary
from dermaffinity.errors import DataError


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "library"
    (root / "ak" / "A1").mkdir(parents=True)
    (root / "ak" / "A1" / "A1.png").write_bytes(b"plain")
    (root / "ak" / ".DS_Store").write_bytes(b"clutter")
    (root / "Thumbs.db").write_bytes(b"clutter")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "A2.png").write_bytes(b"clutter")
    members = {"B1/B1.png": b"zipped", "B1/": b"", "__MACOSX/B1/._B1.png": b"clutter", "B1/._B1.png": b"clutter"}
    make_zip(root / "more" / "BCC.ZIP", members)
    return root


def test_files_lists_plain_and_zipped_files_sorted_and_without_clutter(root):
    assert ImageLibrary(root).files() == ["ak/A1/A1.png", "more/BCC.ZIP/B1/B1.png"]


def test_contents_are_told_by_suffix_and_else_by_how_a_file_begins(tmp_path):
    encoded = io.BytesIO()
    Image.new("RGB", (4, 4)).save(encoded, "JPEG")
    photograph = encoded.getvalue()
    files = {
        "a.HEIC": b"whatever it is", "b.jfif": b"", "c.gif": b"", "d.jp2": b"", "e.avif": b"", "f.DCM": b"",
        "scan": photograph, "photo.image": photograph, "1.2.840.10008": photograph,
        "clip.mov": b"\0\0\0\x14ftypqt  ", "more.rar": b"Rar!", "empty.bin": b"",
        "labels.csv": photograph, "README": b"", "notes.TXT": b"", "DICOMDIR": bytes(128) + b"DICM",
        ".hidden": photograph,
    }  # fmt: skip
    for name, content in files.items():
        path = tmp_path / "plain/deep" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    make_zip(tmp_path / "zipped.zip", {**files, "inner.zip": b"PK", "void/": b""})
    make_zip(tmp_path / "void.zip", {})
    (tmp_path / "void/void").mkdir(parents=True)
    images = ["1.2.840.10008", "a.HEIC", "b.jfif", "c.gif", "d.jp2", "e.avif", "f.DCM", "photo.image", "scan"]
    beside = ["DICOMDIR", "README", "labels.csv", "notes.TXT"]
    others = ["clip.mov", "empty.bin", "more.rar"]
    found = ImageLibrary(tmp_path).contents()
    assert found.images == [f"{folder}/{name}" for folder in ("plain/deep", "zipped.zip") for name in images]
    assert found.beside == [f"{folder}/{name}" for folder in ("plain/deep", "zipped.zip") for name in beside]
    others_zipped = ["clip.mov", "empty.bin", "inner.zip", "more.rar"]
    assert found.others == [*(f"plain/deep/{n}" for n in others), *(f"zipped.zip/{n}" for n in others_zipped)]
    assert found.empty == ["void.zip/", "void/", "void/void/", "zipped.zip/void/"]
    alone = ImageLibrary(tmp_path / "zipped.zip").contents()
    assert alone == (images, beside, others_zipped, ["void/"])


def test_only_the_beginning_of_a_file_is_read_where_that_is_asked(root):
    library = ImageLibrary(root)
    assert library.read("ak/A1/A1.png", 2) == b"pl"
    assert library.read("more/BCC.ZIP/B1/B1.png", 3) == b"zip"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_in_a_folder_is_no_image_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert ImageLibrary(tmp_path).contents().others == ["pipe"]


def test_read_finds_plain_and_zipped_files(root):
    library = ImageLibrary(root)
    assert library.read("ak/A1/A1.png") == b"plain"
    assert library.read("more/BCC.ZIP/B1/B1.png") == b"zipped"


def test_a_library_may_be_one_archive(root):
    library = ImageLibrary(root / "more" / "BCC.ZIP")
    assert library.files() == ["B1/B1.png"]
    assert library.read("B1/B1.png") == b"zipped"


def test_a_folder_named_like_an_archive_is_a_folder(tmp_path):
    (tmp_path / "old.zip").mkdir()
    (tmp_path / "old.zip" / "a.png").write_bytes(b"plain")
    assert ImageLibrary(tmp_path).files() == ["old.zip/a.png"]
    assert ImageLibrary(tmp_path).read("old.zip/a.png") == b"plain"


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"absent: expected the folder or \.zip archive of an image library, found nothing"
    ):
        ImageLibrary(tmp_path / "absent")


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret", "ak/../../secret", "", "ak\0.png"])
def test_paths_out_of_the_library_are_refused(root, path):
    (root.parent / "secret").write_bytes(b"secret")
    with pytest.raises(DataError, match="is not a path inside an image library"):
        ImageLibrary(root).read(path)


@pytest.mark.parametrize("path", ["ak/absent.png", "more/BCC.ZIP/B1/absent.png", "ak"])
def test_a_file_that_is_not_there_is_named(root, path):
    with pytest.raises(DataError, match=path):
        ImageLibrary(root).read(path)


def test_links_out_of_the_library_are_refused_and_links_inside_are_followed(root):
    secret = root.parent / "secret.png"
    secret.write_bytes(b"secret")
    (root / "inside.png").symlink_to(root / "ak" / "A1" / "A1.png")
    assert ImageLibrary(root).read("inside.png") == b"plain"
    (root / "outside.png").symlink_to(secret)
    (root / "folder").symlink_to(root.parent)
    (root / "dangling.png").symlink_to(root / "absent.png")
    with pytest.raises(DataError, match="a link out of the library"):
        ImageLibrary(root).read("outside.png")
    with pytest.raises(DataError, match="a link out of the library"):
        ImageLibrary(root).read("folder/secret.png")
    with pytest.raises(DataError) as refused:
        ImageLibrary(root).files()
    copy = (
        f"To allow them, put the files themselves in their place: cp -rL {root} {root}-copy makes a copy to use instead"
    )
    assert refused.value.problems == (
        "1 link to nothing, remove or renew: dangling.png",
        f"2 links to places outside the library: folder, outside.png. {copy}",
    )


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../evil.png", "leads out of the archive"),
        ("a/../../evil.png", "leads out of the archive"),
        ("/etc/evil.png", "absolute or foreign path"),
        ("a\\evil.png", "absolute or foreign path"),
        ("C:/evil.png", "absolute or foreign path"),
    ],
)
def test_archives_with_hostile_names_are_refused_by_archive_and_member(tmp_path, name, fault):
    make_zip(tmp_path / "evil.zip", {"good.png": b"", name: b""})
    with pytest.raises(DataError, match=rf"evil\.zip: member .*{fault}"):
        ImageLibrary(tmp_path).files()
    with pytest.raises(DataError, match=fault):
        ImageLibrary(tmp_path).read("evil.zip/good.png")


def test_all_faults_of_all_archives_are_listed_at_once(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../out.png", b"")
    (tmp_path / "two.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError) as refused:
        ImageLibrary(tmp_path).files()
    text = str(refused.value)
    assert "'link.png' is a link" in text
    assert "'../out.png' leads out" in text
    assert "two.zip: not a readable zip archive" in text


def test_what_can_be_used_of_a_library_is_listed_where_the_rest_is_told(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/two.zip").write_bytes(b"not a zip")
    (tmp_path / "sub/gone.png").symlink_to("nowhere.png")
    make_zip(tmp_path / "good.zip", {"a.png": b""})
    problems = {}
    contents = ImageLibrary(tmp_path).contents(problems.__setitem__)
    assert contents.images == ["good.zip/a.png"]
    assert problems == {
        "sub/two.zip": "not a readable zip archive (File is not a zip file); copy or download it again",
        "sub/gone.png": "a link to nothing; remove or renew it",
    }
    with pytest.raises(DataError, match="parts of this library cannot be used"):
        ImageLibrary(tmp_path).contents()


def test_encrypted_members_are_refused(tmp_path):
    path = make_zip(tmp_path / "locked.zip", {"a.png": b"content"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"'a\.png' is encrypted"):
        ImageLibrary(tmp_path).files()


def test_an_archive_bomb_is_refused_and_a_blank_mask_is_not(tmp_path):
    make_zip(tmp_path / "blank.zip", {"mask.bmp": bytes(8 << 20)})
    assert ImageLibrary(tmp_path).files() == ["blank.zip/mask.bmp"]
    make_zip(tmp_path / "bomb.zip", {"bomb.png": bytes(65 << 20)})
    with pytest.raises(DataError, match=r"'bomb\.png' unpacks to 65 MiB from \d+ bytes"):
        ImageLibrary(tmp_path).files()


def test_members_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", b"2")
    with pytest.raises(DataError, match=r"two members named 'a\.png'"):
        ImageLibrary(tmp_path).files()


def test_a_damaged_member_is_named(tmp_path):
    path = make_zip(tmp_path / "damaged.zip", {"a.png": bytes(range(256)) * 8})
    content = bytearray(path.read_bytes())
    content[45:60] = bytes(15)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.zip/a\.png: cannot be read"):
        ImageLibrary(tmp_path).read("damaged.zip/a.png")


def test_a_library_reads_after_pickling(root):
    library = ImageLibrary(root)
    library.files()
    assert pickle.loads(pickle.dumps(library)).read("more/BCC.ZIP/B1/B1.png") == b"zipped"


@pytest.fixture
def many(tmp_path: Path) -> tuple[ImageLibrary, dict[str, bytes]]:
    members = {f"{i}.png": os.urandom(3000) for i in range(200)}
    make_zip(tmp_path / "many.zip", members)
    return ImageLibrary(tmp_path), {f"many.zip/{name}": content for name, content in members.items()}


def test_threads_read_one_archive_at_once(many):
    library, members = many
    wrong = []

    def read_all() -> None:
        wrong.extend(name for name, content in members.items() if library.read(name) != content)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_read_one_archive_at_once(many):
    library, members = many
    library.files()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            good = all(library.read(name) == content for name, content in members.items())
            os._exit(0 if good else 1)
        children.append(child)
    assert all(library.read(name) == content for name, content in members.items())
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_an_hdf5_file_is_an_archive_of_images_by_its_name_alone(tmp_path):
    for name in ("weights.h5", "train-image.hdf5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["ISIC_1"] = np.void(b"\xff\xd8\xff encoded")
    library = ImageLibrary(tmp_path)
    assert library.files() == ["train-image.hdf5/ISIC_1.jpg", "weights.h5"]
    assert library.read("train-image.hdf5/ISIC_1.jpg") == b"\xff\xd8\xff encoded"
    assert pickle.loads(pickle.dumps(library)).read("train-image.hdf5/ISIC_1.jpg").endswith(b"encoded")
    with pytest.raises(DataError, match="no such file in the archive"):
        library.read("train-image.hdf5/ISIC_2.jpg")
