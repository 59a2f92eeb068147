"""Names of files and folders: those that truepair writes, and names made of texts."""

from __future__ import annotations

import hashlib
import re

RUN, EXPORT, INDEX, STORE, AUDIT = "run.json", "export.json", "index.json", "embeddings.json", "summary.json"
"""The file in a folder that says what was made there: a run, an export, an index, a feature store or an audit."""
FINDINGS, ISSUES, REPORT = "findings.parquet", "issues.parquet", "report.html"
"""What an audit found: its tables, and its page."""
READY = ".ready"
"""Where the files of an audit wait while they are moved to their places, `AUDIT` last."""
EMBEDDINGS = "embeddings"
"""The feature store in the folder of an audit or an index, which is there before all else."""
PARTS, PLAN = "parts", "plan.json"
"""A folder in a feature store that is not finished, and the file in it that says what the store will be."""
SHARE_FOLDERS = "[0-9]*-of-[0-9]*"
"""Folders in `PARTS`, of several machines that encode a share each; each has its own plan."""


_LONGEST_SLUG = 80
"""Letters; file systems take names of 255, of which others have a part."""


def slug(text: str) -> str:
    """A text as part of a file's name: small letters and digits, everything else an underscore; of a long one, a part.

    >>> slug("CRCL, without SCC")
    'crcl_without_scc'
    """
    return shortened(re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_"), _LONGEST_SLUG)


def shortened(name: str, most: int) -> str:
    """A name of so many letters at most; long ones end with a digest, which keeps those apart that begin alike."""
    if len(name) <= most:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: most - 9]}_{digest}"
