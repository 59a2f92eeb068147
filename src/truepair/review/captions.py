"""The other captions of a pair's image, which help to see what is in it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

MOST = 6
"""Captions shown beside a pair's own."""


class CaptionsOfImages:
    """Rows of the findings by image, those first that match it best."""

    def __init__(self, image: Int[np.ndarray, " pairs"], probability: Float[np.ndarray, " pairs"]) -> None:
        """Sort once.

        Args:
            image: The number of each pair's image.
            probability: Mismatch probabilities; NaN where unknown.
        """
        self._image = image
        self._rows = np.lexsort((probability, image))
        self._sorted = image[self._rows]

    @property
    def are_several(self) -> bool:
        """Whether any image has more than one caption."""
        return bool((self._sorted[1:] == self._sorted[:-1]).any())

    def beside(self, row: int) -> list[int]:
        """The other rows of the same image, at most `MOST`, the smallest mismatch probability first.

        Example:
            >>> CaptionsOfImages(np.array([0, 1, 0, 0]), np.array([0.9, 0.5, 0.4, 0.1])).beside(2)
            [3, 0]
        """
        first, last = np.searchsorted(self._sorted, [self._image[row], self._image[row] + 1])
        others = self._rows[first:last]
        chosen: list[int] = others[others != row][:MOST].tolist()
        return chosen
