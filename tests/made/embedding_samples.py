"""Pictures, samples, and a source of them in memory that can be interrupted where a test wants it."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from truepair.sources.protocol import Sample

WORDS = ["a", "red", "green", "blue", "dog", "cat", "bird", "runs", "sleeps", "and", "it", "is"]


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Coarse noise, which is unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def sample(number: int, *captions: str, picture_bytes: bytes | None = None) -> Sample:
    texts = captions or (f"a {WORDS[1 + number % 3]} {WORDS[4 + number % 3]}",)
    return Sample(
        image_id=f"image {number}",
        picture=encoded(picture(number)) if picture_bytes is None else picture_bytes,
        captions=texts,
        caption_ids=tuple(f"{number}#{place}" for place in range(len(texts))),
        reference=f"file {number}.png",
    )


@dataclass
class MemorySource:
    """Shards of samples; `interrupts` maps a shard to what happens after so many of its items."""

    content: Mapping[str, list]
    interrupts: Mapping[str, tuple[int, Callable[[], None]]] = field(default_factory=dict)
    kind = "table"
    path = Path("memory")
    notes = ()

    def shards(self):
        return list(self.content)

    def read(self, shard, *, pictures=True):
        place, interruption = self.interrupts.get(shard, (None, None)) if pictures else (None, None)
        for number, item in enumerate(self.content[shard]):
            if number == place:
                interruption()
            yield item
        if place == len(self.content[shard]):
            interruption()

    def picture(self, reference):
        raise NotImplementedError


def run_elsewhere(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, which finds what these tests make and import."""
    here = Path(__file__).parent
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent / "embedding"), str(here), *sys.path])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
