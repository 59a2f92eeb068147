"""Pictures in memory, for tests that need no source."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PictureBytes:
    """Encoded pictures, one an image."""

    encoded: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, image: int) -> bytes:
        return self.encoded[image]

    def reference(self, image: int) -> str:
        return f"picture {image}"
