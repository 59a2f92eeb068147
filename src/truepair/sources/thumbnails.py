"""Small copies of pictures for pages, made when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from threading import Lock

from truepair.sources.decoding import thumbnail

_KEPT = 512
"""How many are kept in memory; one of 320 pixels takes some 15 KB."""


class Thumbnails:
    """Small copies of pictures, made when asked for; the last few hundred stay in memory. Threads may share it.

    Args:
        read: The encoded picture of an image by its number; called by one thread at a time, because a source keeps what
            it read last.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._reading = Lock()
        self.of = lru_cache(maxsize=_KEPT)(self._of)

    def _of(self, image: int, side: int) -> bytes:
        """A picture as WebP.

        Args:
            image: The image's number.
            side: The longer side in pixels.

        Raises:
            DataError: If there is no such picture, or it cannot be read.
        """
        with self._reading:
            encoded = self._read(image)
        return thumbnail(encoded, side)
