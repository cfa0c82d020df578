"""Reading an image library where it lies: plain files, or images inside archives that are never unpacked."""

import os
import shlex
import stat
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dermaffinity.data.hdf5 import Hdf5Images
from dermaffinity.data.idx import IdxImages
from dermaffinity.data.images import IMAGE_SUFFIXES, looks_like_image
from dermaffinity.errors import DataError, count_of, some_of

OnProblem = Callable[[str, str], None]

# A 16-bit RGB image of the largest size that images.py accepts is about half of this.
_MAX_FILE_BYTES = 1 << 30
# Deflate reaches 1,032:1 on a blank mask, which is harmless while the mask is small.
_MAX_RATIO = 200
_RATIO_MATTERS_FROM_BYTES = 64 << 20

# Others hold weights, features and the like.
_HDF5 = ("image.hdf5", "images.hdf5", "image.h5", "images.h5")
_CLUTTER = {"__macosx", "thumbs.db", "desktop.ini"}
_HEAD_BYTES = 1024

# Tables, texts and documents, which nobody takes for a lost image.
_BESIDE_SUFFIXES = frozenset(
    {
        ".csv",
        ".tsv",
        ".tab",
        ".parquet",
        ".xls",
        ".xlsx",
        ".ods",
        ".json",
        ".jsonl",
        ".xml",
        ".xmp",
        ".aae",
        ".yaml",
        ".yml",
        ".ini",
        ".log",
    }
    | {
        ".txt",
        ".md",
        ".rst",
        ".rtf",
        ".html",
        ".htm",
        ".pdf",
        ".doc",
        ".docx",
        ".odt",
        ".url",
        ".lnk",
        ".md5",
        ".sha256",
    }
)
_BESIDE_NAMES = {"readme", "license", "licence", "dicomdir"}


class Contents(NamedTuple):
    """The files of a library, sorted by what they are; whether images can be decoded is not known yet."""

    images: list[str]  # by their suffix, or else by how they begin
    beside: list[str]  # tables, texts and documents, by their names
    others: list[str]  # neither: videos, archives in archives, unknown formats
    empty: list[str]  # folders and archives without any file


class ImageLibrary:
    """A folder of image files, some or all of them inside ``.zip`` archives; or one such archive.

    Files are named by POSIX paths relative to the root. A file in an archive of the folder is
    ``ARCHIVE.zip/member/path.jpg``; an archive within an archive is an ordinary file. MNIST's image files, whose names
    end in ``-idx3-ubyte`` or ``-idx3-ubyte.gz``, are archives of PGM images, see `IdxImages`; HDF5 files whose
    names end in ``image`` or ``images`` are archives of encoded images, see `Hdf5Images`.

    Several threads may read at once, and so may forked processes; a pickled library is only its root.

    Args:
        root: The folder, or one ``.zip`` file.

    Raises:
        DataError: When there is no such folder or archive.

    Examples:
        >>> from pathlib import Path
        >>> from dermaffinity.data import ImageLibrary
        >>> library = ImageLibrary(Path("FOLDER"))
        >>> library.files()[:2]
        ['ak/B32b/B32b.png', 'ak/B32b/B32bmask.png']
        >>> len(library.read("ak/B32b/B32b.png")) > 0
        True
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        if not (self.root.is_dir() or _is_archive(self.root)):
            found = "another kind of file" if self.root.exists() else "nothing"
            raise DataError(f"{root}: expected the folder or .zip archive of an image library, found {found}")
        self._forget_archives()

    def __reduce__(self) -> tuple[type["ImageLibrary"], tuple[Path]]:
        return ImageLibrary, (self.root,)

    def files(self) -> list[str]:
        """Sorted paths of all files, members of archives included; hidden files and system clutter are left out.

        Raises:
            DataError: Listing every link out of the library, unreadable folder and unusable archive.
        """
        return [path for path in self._entries() if not path.endswith("/")]

    def contents(self, on_problem: OnProblem | None = None) -> Contents:
        """What `files` gives, sorted by what it is. Only files whose suffix tells nothing are looked into.

        Args:
            on_problem: Told the path and the fault of each part that cannot be used; the others are given then.

        Raises:
            DataError: As for `files`, without ``on_problem``.
        """
        contents, entries = Contents([], [], [], []), self._entries(on_problem)
        filled: set[str] = set()  # folders
        for path in entries:
            name = PurePosixPath(path.lower())
            if path.endswith("/"):
                continue
            filled.update(f"{parent}/" for parent in PurePosixPath(path).parents)
            if name.suffix in _BESIDE_SUFFIXES or name.name in _BESIDE_NAMES:
                contents.beside.append(path)
            elif name.suffix in IMAGE_SUFFIXES or self._begins_as_image(path):
                contents.images.append(path)
            else:
                contents.others.append(path)
        contents.empty.extend(path for path in entries if path.endswith("/") and path not in filled)
        return contents

    def _begins_as_image(self, path: str) -> bool:
        try:
            return looks_like_image(self.read(path, _HEAD_BYTES))
        except DataError:
            return False

    def _entries(self, on_problem: OnProblem | None = None) -> list[str]:
        """Sorted paths of all files, and of folders and archives with a slash at the end."""
        if not self.root.is_dir():
            return sorted(self._members(self.root))
        found: list[str] = []
        unusable: dict[str, Sequence[str]] = {}  # what is wrong with folders and archives
        broken: set[str] = set()
        outside: set[str] = set()

        def note(error: OSError) -> None:
            folder = self._relative(Path(error.filename))
            unusable[folder] = [f"{folder}: cannot be read ({error.strerror})"]

        for folder, folders, names in os.walk(self.root, onerror=note):
            folders[:] = [name for name in folders if not _is_clutter(name)]
            paths = [Path(folder, name) for name in names if not _is_clutter(name)]
            for path in [*paths, *(Path(folder, name) for name in folders)]:
                if path.is_symlink() and not path.exists():
                    broken.add(self._relative(path))
                elif path.is_symlink() and not self._inside(path):
                    outside.add(self._relative(path))
            found += [f"{self._relative(Path(folder, name))}/" for name in folders]
            for path in filter(self._inside, paths):
                relative = self._relative(path)
                if not _is_archive(path):
                    found += [relative] if relative not in broken else []
                    continue
                found.append(f"{relative}/")
                try:
                    found += [f"{relative}/{member}" for member in self._members(path)]
                except DataError as error:
                    unusable[relative] = error.problems or [error.message]
        if on_problem is not None:
            self._tell(on_problem, broken, outside, unusable)
            return sorted(found)
        problems = [problem for several in unusable.values() for problem in several]
        if broken:
            problems.append(f"{count_of(len(broken), 'link')} to nothing, remove or renew: {some_of(broken)}")
        if outside:
            links = f"{count_of(len(outside), 'link')} to places outside the library: {some_of(outside)}"
            problems.append(f"{links}. {self._copy_advice()}")
        if problems:
            raise DataError(f"{self.root}: parts of this library cannot be used", problems)
        return sorted(found)

    def _tell(
        self, on_problem: OnProblem, broken: set[str], outside: set[str], unusable: Mapping[str, Sequence[str]]
    ) -> None:
        for path, problems in unusable.items():
            name = PurePosixPath(path).name
            faults = [problem.removeprefix(f"{path}: ").removeprefix(f"{name}: ") for problem in problems]
            on_problem(path, "; ".join(faults))
        for path in sorted(broken):
            on_problem(path, "a link to nothing; remove or renew it")
        for path in sorted(outside):
            on_problem(path, f"a link to a place outside the library. {self._copy_advice()}")

    def read(self, path: str, size: int = -1) -> bytes:
        """The content of one file.

        Args:
            path: As `files` gives it.
            size: At least so many bytes of it, from the beginning; all when negative.

        Raises:
            DataError: When the file is missing, unreadable, too large or outside the library.
        """
        archive, member = self._locate(path)
        try:
            if archive is not None:
                opened = self._open(archive)
                if not isinstance(opened, zipfile.ZipFile):
                    return opened.read(member)
                with opened.open(member) as content:
                    return content.read(size)
            file = self.root / member
            found = file.stat()
            if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
                raise DataError(f"{path}: a pipe or socket, not a file")
            if size < 0 and found.st_size > _MAX_FILE_BYTES:
                raise DataError(f"{path}: larger than {_MAX_FILE_BYTES >> 20} MiB, which no image of a library is")
            with file.open("rb") as content:
                return content.read(size)
        except KeyError:
            raise DataError(f"{path}: no such file in the archive") from None
        except FileNotFoundError:
            raise DataError(f"{path}: no such file in {self.root}") from None
        except (OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path}: cannot be read ({error}); copy or download it again") from error

    def _locate(self, path: str) -> tuple[Path | None, str]:
        """The archive that holds the file, or None, and the file's name in there."""
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\0" in path:
            raise DataError(f"{path!r} is not a path inside an image library")
        if not self.root.is_dir():
            return self.root, path
        folder = parts[:-1]
        for depth in range(1, len(parts)) if folder not in self._located else ():
            prefix = self.root.joinpath(*parts[:depth])
            if _is_archive(prefix) and self._inside(prefix):
                self._located[folder] = prefix, depth
                break
        if folder in self._located:
            archive, depth = self._located[folder]
            return archive, "/".join(parts[depth:])
        if not self._inside(self.root / path):
            raise DataError(f"{path}: a link out of the library {self.root}. {self._copy_advice()}")
        return None, path

    def _inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self.root)

    def _copy_advice(self) -> str:
        copy = self.root.with_name(f"{self.root.name}-copy")
        command = shlex.join(["cp", "-rL", str(self.root), str(copy)])
        return f"To allow them, put the files themselves in their place: {command} makes a copy to use instead"

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _members(self, archive: Path) -> list[str]:
        opened = self._open(archive)
        if not isinstance(opened, zipfile.ZipFile):
            return opened.names()
        return [info.filename for info in opened.infolist() if not _is_clutter(info.filename)]

    def _open(self, archive: Path) -> zipfile.ZipFile | IdxImages | Hdf5Images:
        # A forked child shares the file positions of its parent's handles, so it opens its own.
        if self._process != os.getpid():
            self._forget_archives()
        with self._lock:
            if archive not in self._archives:
                self._archives[archive] = _opened(archive)
            return self._archives[archive]

    def _forget_archives(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._archives: dict[Path, zipfile.ZipFile | IdxImages | Hdf5Images] = {}
        # Folders within archives: the archive, and the length of its own path. Looking on the disk for each of MNIST's
        # images would take longer than reading them all.
        self._located: dict[tuple[str, ...], tuple[Path, int]] = {}


def printable(name: str) -> str:
    """The name with ``\\x..`` for each byte that is not UTF-8, which Python keeps as half of a surrogate pair."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_archive(path: Path) -> bool:
    return (path.name.lower().endswith((".zip", *_HDF5)) or _is_idx(path)) and path.is_file()


def _is_idx(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith("-idx3-ubyte")


def _opened(archive: Path) -> zipfile.ZipFile | IdxImages | Hdf5Images:
    if archive.name.lower().endswith(_HDF5):
        return Hdf5Images(archive)
    return IdxImages(archive) if _is_idx(archive) else _open_checked(archive)


def _is_clutter(path: str) -> bool:
    return any(part.startswith(".") or part.lower() in _CLUTTER for part in PurePosixPath(path).parts)


def _open_checked(archive: Path) -> zipfile.ZipFile:
    try:
        opened = zipfile.ZipFile(archive)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        message = f"{archive.name}: not a readable zip archive ({error}); copy or download it again"
        raise DataError(message) from error
    copies = Counter(info.filename for info in opened.infolist())
    problems = [f"{archive.name}: two members named {name!r}" for name, count in copies.items() if count > 1]
    for info in opened.infolist():
        if fault := _fault(info):
            problems.append(f"{archive.name}: member {info.orig_filename!r} {fault}")
    if problems:
        opened.close()
        raise DataError(f"{archive.name}: refused, an image archive does not hold such members", problems)
    return opened


def _fault(info: zipfile.ZipInfo) -> str | None:
    # zipfile changes `filename` to something harmless on some systems; `orig_filename` is what the archive says.
    name = info.orig_filename
    if name.startswith("/") or "\\" in name or "\0" in name or name[1:2] == ":":
        return "has an absolute or foreign path"
    if ".." in name.split("/"):
        return "leads out of the archive with '..'"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if info.flag_bits & 0x1:
        return "is encrypted; unpack the archive with its password first"
    if info.file_size > _MAX_FILE_BYTES:
        return f"unpacks to {info.file_size >> 20} MiB, more than any image of a library"
    if info.file_size > _RATIO_MATTERS_FROM_BYTES and info.file_size > _MAX_RATIO * info.compress_size:
        return f"unpacks to {info.file_size >> 20} MiB from {info.compress_size} bytes, as no photograph does"
    return None
