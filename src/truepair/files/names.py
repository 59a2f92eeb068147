"""Names of files and folders."""

from __future__ import annotations

import re


def slug(text: str) -> str:
    """A text as part of a file's name: small letters and digits, everything else an underscore.

    >>> slug("CRCL, without SCC")
    'crcl_without_scc'
    """
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
