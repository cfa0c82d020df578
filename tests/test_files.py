import errno
import json
import os
import stat
from pathlib import Path

import pytest

from dermaffinity.errors import BusyError, DataError
from dermaffinity.files import atomic_write, hold, link_or_copy, sweep_partial, write_json


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".part"))


def write(path: Path, text: str, error: BaseException | None = None) -> None:
    with atomic_write(path) as file:
        file.write(text)
        if error is not None:
            raise error


def test_text_and_bytes_arrive_as_they_were_written(tmp_path):
    write(tmp_path / "a.txt", "σ = 1\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "σ = 1\r\n".encode()
    with atomic_write(tmp_path / "b.bin", "wb") as file:
        file.write(b"\x00\r\n")
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\r\n"
    assert leftovers(tmp_path) == []


def test_missing_folders_are_made(tmp_path):
    write(tmp_path / "runs" / "trial" / "a.txt", "new")
    assert (tmp_path / "runs" / "trial" / "a.txt").read_text() == "new"


def test_until_the_file_is_complete_readers_see_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    write(path, "old")
    with atomic_write(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_writing_keeps_the_old_file_and_leaves_no_part(tmp_path, error):
    path = tmp_path / "a.txt"
    write(path, "old")
    with pytest.raises(error):
        write(path, "ne", error())
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_so_and_keeps_the_old_file(tmp_path, monkeypatch, code):
    path = tmp_path / "a.txt"
    write(path, "old")

    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match=r"a\.txt: the disk is full.*Free some space.*what was written before is kept"):
        write(path, "new")
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_disk_that_fills_in_the_middle_of_a_write_is_said_so(tmp_path):
    with pytest.raises(DataError, match="the disk is full"):
        write(tmp_path / "a.txt", "first part", OSError(errno.ENOSPC, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", fail)
    with pytest.raises(DataError, match=r"a\.txt: cannot be written \(Permission denied\); choose another place"):
        write(tmp_path / "a.txt", "new")


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "runs" / "a.txt", "new")
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "runs" / "trial" / "a.txt", "new")


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENAMETOOLONG])
def test_a_place_where_no_file_can_be_made_is_named_and_what_is_written_keeps_its_own_faults(
    tmp_path, monkeypatch, code
):
    with pytest.raises(OSError, match=os.strerror(code)) as other:
        write(tmp_path / "a.txt", "new", OSError(code, os.strerror(code)))
    assert not isinstance(other.value, DataError)

    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.mkstemp", fail)
    with pytest.raises(DataError, match=rf"a\.txt: cannot be written \({os.strerror(code)}\); choose another place"):
        write(tmp_path / "a.txt", "new")
    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(DataError, match=r"fold-0: cannot be written"):
        hold(tmp_path / "fold-0", timeout=0).__enter__()


def test_a_folder_where_the_file_should_be_is_named(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(DataError, match=r"a\.txt: cannot be written"):
        write(tmp_path / "a.txt", "new")
    assert leftovers(tmp_path) == []


def test_other_errors_are_not_hidden(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path / "a.txt", "new")
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_new_file_has_the_permissions_of_any_other_and_a_replaced_one_keeps_its_own(tmp_path):
    path = tmp_path / "a.txt"
    before = os.umask(0o027)
    try:
        write(path, "new")
        assert os.umask(0o027) == 0o027  # looking at the mask must not change it
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write(path, "newer")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_of_a_symbolic_link_the_file_itself_gets_a_second_place(tmp_path):
    (tmp_path / "blobs").mkdir(), (tmp_path / "cache").mkdir()
    (tmp_path / "blobs" / "1").write_bytes(b"weights")
    (tmp_path / "cache" / "weights").symlink_to("../blobs/1")
    link_or_copy(tmp_path / "cache" / "weights", tmp_path / "own" / "weights")
    assert not (tmp_path / "own" / "weights").is_symlink()
    assert (tmp_path / "own" / "weights").read_bytes() == b"weights"


def test_a_second_place_that_cannot_be_is_named_and_nothing_is_left(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    (tmp_path / "taken").mkdir()
    for path in (source / "path", tmp_path / "taken"):
        with pytest.raises(DataError, match=f"{path.name}: cannot be written"):
            link_or_copy(source, path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["source", "taken"]


@pytest.mark.parametrize("can_link", [True, False])
def test_a_second_place_of_a_file_takes_no_space_where_links_exist(tmp_path, monkeypatch, can_link):
    source, path = tmp_path / "source", tmp_path / "deep" / "path"
    source.write_bytes(b"weights")
    if not can_link:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "another disk")))
    for _ in range(2):  # over itself as well
        link_or_copy(source, path)
        assert path.read_bytes() == b"weights"
        assert path.samefile(source) == can_link
        assert [one.name for one in path.parent.iterdir()] == ["path"]
    with atomic_write(source) as file:  # what is written anew leaves the other as it was
        file.write("new")
    assert path.read_bytes() == b"weights"
    link_or_copy(source, path)
    assert path.read_bytes() == b"new"


def test_json_is_indented_utf8_and_ends_with_a_line(tmp_path):
    write_json(tmp_path / "a.json", {"σ": [1, 2.5]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"σ": [1, 2.5]}
    assert "σ" in text
    assert text.endswith("}\n")


def test_a_value_that_is_no_json_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": {1, 2}})
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert leftovers(tmp_path) == []


def test_sweeping_removes_parts_and_nothing_else(tmp_path):
    for name in (".a.txt.x1.part", "a.part", "a.txt", ".lock"):
        (tmp_path / name).write_text("")
    sweep_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a.part", "a.txt"]


def test_a_held_folder_is_refused_to_others_until_it_is_let_go(tmp_path):
    folder = tmp_path / "fold-0"
    with hold(folder, timeout=0), pytest.raises(BusyError, match="fold-0: another process is working here"):
        hold(folder, timeout=0).__enter__()
    with hold(folder, timeout=0):
        assert folder.is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        hold(tmp_path / "runs" / "fold-0", timeout=0).__enter__()
