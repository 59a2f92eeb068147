"""The inputs of all drivers, made once: a table with features and pictures, tar shards, a tiny network, snapshots."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from breaking.children import value_of
from breaking.outcomes import Outcome, hashes

ROWS = 120
COLUMNS = (
    *("--image-col", "picture", "--caption-col", "text", "--caption-id-col", "key"),
    *("--image-feature-col", "seen", "--caption-feature-col", "said"),
)


@dataclass(frozen=True)
class World:
    """Folders of a session of breaking things.

    Attributes:
        root: All of them are in it.
    """

    root: Path

    @property
    def source(self) -> Path:
        """What commands read and must never change."""
        return self.root / "source"

    @property
    def table(self) -> Path:
        """Rows with a picture, a caption and the features of both; some have another row's picture."""
        return self.source / "scraped.jsonl"

    @property
    def more(self) -> Path:
        """A table with a few of its pictures, to add to an index."""
        return self.source / "more.csv"

    @property
    def shards(self) -> Path:
        """Tar shards of pictures and captions."""
        return self.source / "shards"

    @property
    def network(self) -> Path:
        """A tiny CLIP."""
        return self.root / "network"

    @property
    def now(self) -> Path:
        """Where commands write: always the same path, because results name it. Empty at the start of every try."""
        return self.root / "now"

    def snapshot(self, name: str) -> Path:
        """What a try starts from."""
        return self.root / "snapshots" / name

    def start(self, snapshot: str | None) -> None:
        """Begin a try: with nothing, or with what earlier commands left."""
        shutil.rmtree(self.now, ignore_errors=True)
        if snapshot is None:
            self.now.mkdir(parents=True)
        else:
            shutil.copytree(self.snapshot(snapshot), self.now)

    def source_hashes(self) -> Outcome:
        """What must not change: also if a file were written anew with the same bytes, it is found by its time."""
        times = {f"time of {path}": str(path.stat().st_mtime_ns) for path in sorted(self.source.rglob("*"))}
        return hashes(self.source) | times


def make_world(root: Path) -> World:
    """The inputs, made in an empty folder."""
    world = World(root.resolve())
    value_of(lambda: _make_inputs(world))
    return world


def _make_inputs(world: World) -> None:
    from made_sources import write_shards
    from tiny_networks import save_clip

    world.source.mkdir(parents=True)
    _write_table(world)
    write_shards(world.shards, shards=3, samples_a_shard=4)
    world.network.mkdir()
    with _silence():
        save_clip(world.network)


def _write_table(world: World) -> None:
    import torch
    from latent_factors import latent_factor_pairs
    from made_sources import picture

    from truepair.data.noise import inject_noise

    true = latent_factor_pairs(ROWS, world_seed=0, draw_seed=0, shared=16, exclusive=2).pairs
    noisy = inject_noise(true, 0.15, seed=0)
    assert true.caption_inputs is not None
    every = torch.arange(ROWS)
    seen, said = (inputs.take(every).values.tolist() for inputs in (true.images, true.caption_inputs))
    rows = [
        {"picture": f"{image}.png", "text": f"caption {row}", "key": f"k{row}", "seen": seen[image], "said": said[row]}
        for row, image in enumerate(noisy.image_of_caption.tolist())
    ]
    for image in range(ROWS):
        (world.source / f"{image}.png").write_bytes(picture(image))
    world.table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    few = "".join(f"{image}.png,caption {image}\n" for image in range(6))
    world.more.write_text(f"picture,text\n{few}", encoding="utf-8")


@contextmanager
def _silence() -> Iterator[None]:
    """What libraries say while they save goes nowhere."""
    import transformers

    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers.utils.logging.disable_progress_bar()
    yield
