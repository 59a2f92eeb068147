"""Small pictures, captions that are hard to carry, and every kind of source made of them."""

import csv
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from truepair.config.source import SourceConfig
from truepair.sources.opening import open_source
from truepair.sources.protocol import Sample, Skipped, Source

HARD_CAPTIONS = (
    'a dog, "big"\nand wet; it\'s\there',
    "собака на снегу",
    "雪の中の犬 🐕‍🦺",
    "كلب في الثلج",
    "line\u2028separator and \x85 next line",
    "x" * 10_000,
    "  spaces around  ",
    "<script>alert(1)</script> & {braces}",
)


def picture(number: int, kind: str = "PNG") -> bytes:
    """A small picture, different for each number."""
    written = io.BytesIO()
    Image.new("RGB", (12 + number % 5, 9), (number % 256, number * 7 % 256, 128)).save(written, kind)
    return written.getvalue()


def opened(path: Path | str, **options: object) -> Source:
    """The source at a path, with options of `SourceConfig`."""
    return open_source(path, SourceConfig(**options))


def samples(source: Source) -> list[Sample]:
    return [item for item in everything(source) if isinstance(item, Sample)]


def skipped(source: Source) -> list[Skipped]:
    return [item for item in everything(source) if isinstance(item, Skipped)]


def everything(source: Source, *, pictures: bool = True) -> list[Sample | Skipped]:
    return [item for shard in source.shards() for item in source.read(shard, pictures=pictures)]


def reasons(source: Source) -> list[str]:
    return [skip.reason for skip in skipped(source)]


def check(source: Source) -> list[Sample]:
    """What holds for every source: the same at every reading, ids unique, pictures found again."""
    once = everything(source)
    assert everything(source) == once
    assert source.shards() == source.shards()
    found = [item for item in once if isinstance(item, Sample)]
    ids = [name for sample in found for name in sample.caption_ids]
    assert len(set(ids)) == len(ids)
    assert len({sample.image_id for sample in found}) == len(found)
    without = {item.image_id: item for item in everything(source, pictures=False) if isinstance(item, Sample)}
    assert [without[sample.image_id] for sample in found] == [replace(sample, picture=b"") for sample in found]
    for sample in found:
        assert len(sample.captions) == len(sample.caption_ids) > 0
        assert source.picture(sample.reference) == sample.picture
    return found


def write_rows(
    path: Path, rows: list[dict], encoding: str = "utf-8", line_end: str = "\n", delimiter: str | None = None
) -> Path:
    """Rows as CSV, TSV, JSONL or Parquet, by the extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + line_end for row in rows), encoding=encoding)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    else:
        with path.open("w", encoding=encoding, newline="") as file:
            usual = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter or usual, lineterminator=line_end)
            writer.writeheader()
            writer.writerows(rows)
    return path


def write_tar(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_700_000_000
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_files(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def write_shards(folder: Path, shards: int = 3, samples_a_shard: int = 4) -> Path:
    """Shards as img2dataset writes them: picture, metadata, caption."""
    for shard in range(shards):
        files = {}
        for place in range(samples_a_shard):
            number = shard * samples_a_shard + place
            key, caption = f"{shard:05d}{place:04d}", HARD_CAPTIONS[number % len(HARD_CAPTIONS)]
            metadata = {"caption": caption, "url": f"http://example.invalid/{number}", "key": key, "status": "success"}
            files[f"{key}.jpg"] = picture(number, "JPEG")
            files[f"{key}.json"] = json.dumps(metadata, indent=4).encode()
            files[f"{key}.txt"] = caption.encode()
        write_tar(folder / f"{shard:05d}.tar", files)
        (folder / f"{shard:05d}_stats.json").write_text('{"count": 4}')
    return folder


def write_files(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """Every file below a folder, with its hash."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
