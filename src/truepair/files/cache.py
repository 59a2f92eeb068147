"""The folder for what can be made or fetched again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
