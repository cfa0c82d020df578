"""An HDF5 file whose rows are encoded images, as SLICE-3D comes."""

from pathlib import Path

from dermaffinity.errors import DataError


class Hdf5Images:
    """An HDF5 file as an archive: ``KEY.jpg`` is the row of that key, the bytes of one encoded image.

    Args:
        path: The file.

    Raises:
        DataError: The file is none, or h5py is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import h5py
        except ImportError as error:
            raise DataError(
                f"{path.name}: HDF5 is read by h5py; pip install 'dermaffinity[hdf5]' installs it"
            ) from error
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise DataError(f"{path.name}: not a readable HDF5 file ({error}); copy or download it again") from error

    def names(self) -> list[str]:
        """Every row's name."""
        return [f"{key}.jpg" for key in self._file]

    def read(self, name: str) -> bytes:
        """The bytes of one image.

        Raises:
            KeyError: There is no such row.
            DataError: The row cannot be read, or is no single text of bytes.
        """
        row = self._file[name.removesuffix(".jpg")]
        if getattr(row, "shape", None) != ():
            raise DataError(f"{name}: a row that is no encoded image")
        value = row[()]
        return value if isinstance(value, bytes) else bytes(value)
