"""A folder of pictures and caption files without the lines that were dropped."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import chain, count
from pathlib import Path, PurePosixPath

from truepair.cleaning.provenance import Provenance
from truepair.sources.folders import FolderSource, caption_lines
from truepair.sources.protocol import Skipped


def copy_folder(source: FolderSource, provenance: Provenance, folder: Path) -> list[Path]:
    """The pictures that keep captions, each with a text file of the lines that it keeps, at the paths that they had.

    Returns:
        The pictures and text files.
    """
    stems = {_stem(entry.picture or entry.sidecar or "") for entry in source.entries()}
    captions_of_stem: dict[str, bytes] = {}
    written: dict[Path, None] = {}
    items = chain.from_iterable(source.read(shard) for shard in source.shards())
    for entry, item in zip(source.entries(), items, strict=True):
        if isinstance(item, Skipped):
            provenance.skip(item)
            continue
        sidecar_name = str(entry.sidecar)  # a sample always has one
        sidecar = (source.path / sidecar_name).read_bytes()
        images = provenance.images_of(item.image_id, item.captions, item.caption_ids)
        for image_id, caption_ids in images.items():
            encoded = item.picture if image_id == item.image_id else source.picture(image_id)
            captions = _lines(sidecar, {int(caption_id.rpartition("/")[2]) for caption_id in caption_ids})
            extension = PurePosixPath(image_id).suffix
            stem = next(
                stem
                for stem in _names(_stem(item.image_id), stems)
                if captions_of_stem.get(stem, captions) == captions and folder / f"{stem}{extension}" not in written
            )
            captions_of_stem[stem] = captions
            picture, text = folder / f"{stem}{extension}", folder / f"{stem}{PurePosixPath(sidecar_name).suffix}"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(encoded)
            text.write_bytes(captions)
            written |= {picture: None, text: None}
    return list(written)


def _names(stem: str, taken: Collection[str]) -> Iterable[str]:
    """A file's own name, and others that no file of the source has."""
    return chain([stem], (name for name in (f"{stem}~{number}" for number in count(2)) if name not in taken))


def _lines(sidecar: bytes, kept: Collection[int]) -> bytes:
    """A text file without the captions that are not kept; blank lines and line ends stay."""
    captions = caption_lines(sidecar)
    lines = enumerate(sidecar.split(b"\n"), start=1)
    return b"\n".join(line for number, line in lines if number in kept or number not in captions)


def _stem(path: str) -> str:
    return path.rpartition(".")[0]
