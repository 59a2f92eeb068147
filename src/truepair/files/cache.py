"""The folder for what can be made or fetched again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from truepair.errors import TruepairError
from truepair.files.locking import alone_with
from truepair.files.npy import load_array, save_array

FOLDER_VARIABLE = "TRUEPAIR_CACHE"
"""The environment variable that names another one."""


def cache_folder() -> Path:
    """``$TRUEPAIR_CACHE``, or ``truepair`` in the user's folder for caches; it may not exist, or not be writable."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "truepair"


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
