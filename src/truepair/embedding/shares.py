"""What one of several machines encodes of a source, and where it writes that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from truepair.config.embedding import Share
from truepair.files.names import PARTS, PLAN, SHARE_FOLDERS


@dataclass(frozen=True)
class Batches:
    """Some of the batches of a shard: those whose number, divided by `of`, leaves a remainder in `remainders`."""

    remainders: range
    of: int

    def __contains__(self, batch: int) -> bool:
        return batch % self.of in self.remainders

    @property
    def are_all(self) -> bool:
        """Whether no batch of the shard is left to another machine."""
        return len(self.remainders) == self.of


ALL = Batches(range(1), 1)


@dataclass(frozen=True)
class Piece:
    """What one machine encodes of a shard, which is counted from 0."""

    shard: int
    batches: Batches

    @property
    def name(self) -> str:
        """The folder's: that of the shard, with the remainders behind it where batches are left to others."""
        if self.batches.are_all:
            return f"{self.shard:05d}"
        return f"{self.shard:05d}.{self.batches.remainders.start}-{self.batches.remainders.stop - 1}"


def pieces_of(share: Share, shards: int) -> list[Piece]:
    """The share of the K-th of N machines: the K-th of N equal stretches of the source, so shards in a row.

    A shard on a border is cut: the machines on both sides read and decode all of it, and each encodes every so many
    of its batches. Batches are those of a machine that is alone, so that features have the same bits.

    >>> [piece.name for piece in pieces_of(Share(2, 2), 3)]
    ['00001.1-1', '00002']
    """
    first, end = (
        (share.number - 1) * shards,
        share.number * shards,
    )  # each shard is N tickets, each machine has equally many
    pieces = []
    for shard in range(first // share.of, -(-end // share.of)):
        ticket = shard * share.of
        remainders = range(max(first - ticket, 0), min(end - ticket, share.of))
        pieces.append(Piece(shard, Batches(remainders, share.of)))
    return pieces


def share_folder(out: Path, share: Share) -> Path:
    """Where a machine writes: a folder of its own, so that machines on one file system never write the same file."""
    return out / PARTS / f"{share.number:05d}-of-{share.of:05d}"


def share_folders(out: Path) -> dict[Path, Share]:
    """The folders in an output folder that machines have begun to write to, in their order."""
    found = [plan.parent for plan in sorted((out / PARTS).glob(f"{SHARE_FOLDERS}/{PLAN}"))]
    return {folder: Share(*map(int, folder.name.split("-of-"))) for folder in found}
