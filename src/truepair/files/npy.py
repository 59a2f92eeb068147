"""``.npy`` files: checked against their header before anything is read, never unpickled, replaced atomically."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from truepair.errors import DataError, TruepairError, of_system
from truepair.files.cache import cache_folder
from truepair.files.locking import alone_with
from truepair.files.replacing import replacing


@dataclass(frozen=True)
class NpyHeader:
    """What an ``.npy`` file says about itself.

    Attributes:
        shape: Length of each axis.
        dtype: Type of the values.
        offset: Bytes before the first value; values follow in C order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int


def npy_header(path: Path) -> NpyHeader:
    """The header of an ``.npy`` file that holds all the values it promises.

    Raises:
        DataError: If the file is missing, is no ``.npy`` file (a pickle or ``.npz``, for instance), holds pickled
            objects, is in Fortran order, or is shorter than its header says.
    """
    # Version 3 differs in the names of structured fields only, and no array here has fields.
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with path.open("rb") as file:
            shape, is_fortran, dtype = read_header[np.lib.format.read_magic(file)](file)
            offset, size = file.tell(), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the folder and the file's name") from error
    except Exception as error:  # of damaged headers numpy's parser raises nearly anything
        raise DataError(
            f"{path} is not an .npy file of numbers (pickles and .npz archives are not read); write it with "
            f"numpy.save(path, array): {error}"
        ) from error
    if dtype.hasobject:
        raise DataError(f"{path} holds pickled objects, which are never loaded; save a plain array of numbers instead")
    if is_fortran:
        raise DataError(f"{path} is in Fortran order; save numpy.ascontiguousarray(array) instead")
    expected = offset + math.prod(shape) * dtype.itemsize
    if size < expected:
        raise DataError(
            f"{path} is truncated: {size:,} bytes, but its header says {shape} {dtype}, which needs {expected:,}; "
            "copy or extract it again"
        )
    return NpyHeader(shape, dtype, offset)


def load_array(path: Path) -> np.ndarray:
    """The whole array of a small ``.npy`` file.

    Raises:
        DataError: See `npy_header`.
    """
    npy_header(path)
    array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an ``.npy`` file that appears whole or not at all.

    Raises:
        DataError: If the array holds objects, or the file cannot be written; an older file at `path` is as it was.
    """
    if array.dtype.hasobject:
        raise DataError(f"an array of objects would have to be pickled into {path}; convert it to numbers first")
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            # Not by np.save, whose own buffer loses what is written last without a word when the disk is full.
            written = np.ascontiguousarray(array)
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(written))
            file.write(written.data)
    except OSError as error:
        raise DataError(f"could not write {path} ({of_system(error)})") from error


def kept_array(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that takes seconds to make, from the cache; made, and kept where that is possible, if it is not there.

    Args:
        name: Says everything that the array depends on.
        make: Makes it.
    """
    path = cache_folder() / "arrays" / f"{name}.npy"
    with suppress(OSError, TruepairError):  # missing, or damaged
        return load_array(path)
    array = make()
    with suppress(OSError, TruepairError):  # a home that cannot be written to, or another process that is writing
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone_with(path):
            save_array(path, array)
    return array
