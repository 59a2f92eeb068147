"""Long lists of pictures cut into blocks, the shards of sources that have none of their own."""

from __future__ import annotations

from collections.abc import Sequence

from truepair.errors import DataError

PICTURES_A_BLOCK = 2048


def block_names(pictures: int) -> Sequence[str]:
    """The names of the blocks.

    >>> block_names(5000)
    ['00000', '00001', '00002']
    """
    return [f"{block:05d}" for block in range(-(-pictures // PICTURES_A_BLOCK))]


def block(name: str, pictures: int) -> range:
    """The places, counted from 0, of a block's pictures in the whole list.

    >>> block("00002", 5000)
    range(4096, 5000)

    Raises:
        DataError: If there is no block of that name.
    """
    names = block_names(pictures)
    if name not in names:
        raise DataError(
            f"there is no shard {name!r}: the {pictures:,} pictures make {len(names):,} shards, from '00000'"
        )
    first = names.index(name) * PICTURES_A_BLOCK
    return range(first, min(first + PICTURES_A_BLOCK, pictures))
