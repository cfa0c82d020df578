"""Writing files so that a killed process or a full disk never leaves half of one."""

import errno
import json
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from dermaffinity.errors import BusyError, DataError

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
# Where a file cannot even be made; later on these would be faults of what is written.
_NO_PLACE = (*_NOT_WRITABLE, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file that takes ``path``'s place only when it is complete and on the disk.

    Args:
        path: The file to write; its folder is made if need be.
        mode: ``"w"`` for UTF-8 text, ``"wb"`` for bytes.

    Raises:
        DataError: When the disk is full or the folder cannot be written; an older file at ``path`` is kept.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        text = "b" not in mode
        with os.fdopen(descriptor, mode, encoding="utf-8" if text else None, newline="" if text else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _keep_mode(path, temporary)
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        _explain(path, error, _NOT_WRITABLE if temporary else _NO_PLACE)
        raise
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def link_or_copy(source: Path, path: Path) -> None:
    """Puts a finished file at ``path``, too, without taking its space on the disk twice where the file system can.

    Args:
        source: A file that is never written in place, as those of `atomic_write` are not.
        path: Gets the same content; its folder is made if need be.

    Raises:
        DataError: As `atomic_write`.
    """
    temporary = path.with_name(f".{path.name}.link.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        os.link(source.resolve(), temporary)  # the file itself, where caches have symbolic links to it
        os.replace(temporary, path)
    except OSError:  # another disk, one without links, or a place where nothing can be written
        with atomic_write(path, "wb") as file:
            file.write(source.read_bytes())
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # a name of the same file is not replaced


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


@contextmanager
def hold(folder: Path, timeout: float, name: str = ".lock") -> Iterator[None]:
    """Keeps other processes that hold it as well out of ``folder``, which is made if need be.

    Args:
        folder: Gets a file of this name.
        timeout: How long to wait for another process, in seconds.
        name: What is held of the folder, for a part of it.

    Raises:
        BusyError: When the other process is still there.
        DataError: When the folder cannot be written.
    """
    lock = FileLock(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise BusyError(f"{folder}: another process is working here; wait for it or stop it") from error
    except OSError as error:
        _explain(folder, error, _NO_PLACE)
        raise
    try:
        yield
    finally:
        lock.release()


def sweep_partial(folder: Path, name: str = "") -> None:
    """Removes what a killed process left half-written in ``folder``, or of one file of it."""
    for leftover in folder.glob(f".{name}*.part"):
        leftover.unlink(missing_ok=True)


def _explain(path: Path, error: OSError, not_writable: Collection[int]) -> None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DataError(
            f"{path}: the disk is full. Free some space and run the command again; what was written before is kept"
        ) from error
    if error.errno in not_writable:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def _keep_mode(path: Path, temporary: str) -> None:
    # mkstemp makes files for their owner alone; colleagues who share the folder must read the result.
    if path.exists():
        mode = path.stat().st_mode & 0o777
    else:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    os.chmod(temporary, mode)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
