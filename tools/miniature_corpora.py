"""Write the papers' corpora in miniature, to try recipes, loaders and disks without the real features.

    python tools/miniature_corpora.py FOLDER [--rows images|captions]

FOLDER then holds what ``data/`` holds in the released codes, in the same layouts, less than 2 MB in all:

    f30k_precomp/    {train,dev,test}_{ims.npy,caps.txt,ids.txt}, 5 captions an image
    coco_precomp/    the same and testall, five folds of 6 images, of which the first is test
    cc152k_precomp/  {train,dev,test,meta}_{ims.npy,caps.tsv,ids.txt}, 1 caption an image, which its line names; meta:
                     pairs that MSCN trusts
    vocab/           {f30k,coco,cc152k}_precomp_vocab.json
    noise_index/     {f30k,coco}_precomp_0.4_{per_caption,per_image}.npy: both conventions, 40 % noise

The layouts are all that is real. Images are drawings of the demo corpus that ships with truepair; a drawing's one
pooled feature vector is cut into 4 pieces that stand for regions, and its one caption is worded in 5 ways. Numbers
reached on it mean nothing. Where the demo is from, and its licences: src/truepair/data/demo_corpus.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from truepair.config import DataConfig
from truepair.data.corpora import load_corpus
from truepair.data.noise import inject_noise, write_noise_index
from truepair.data.pairs import Pairs
from truepair.data.precomputed import load_precomputed
from truepair.data.text import Vocabulary
from truepair.files.npy import save_array

REGIONS = 4
WORDINGS = ("{}", "A drawing: {}", "{}, on white", "Somebody drew this: {}", "A picture of {}")
FOLDS = 5
NOISE_RATE = 0.4


class Drawings(NamedTuple):
    """Some drawings of the demo, with one caption each."""

    ids: Sequence[str]
    captions: Sequence[str]
    features: np.ndarray  # [images, regions, width]

    def rows(self, stop: int) -> Drawings:
        """The first of them."""
        return Drawings(*(column[:stop] for column in self))


def write_miniatures(folder: Path, rows: str = "images") -> None:
    """Write all three corpora, their vocabularies and noise indices.

    Args:
        folder: Where to; made if missing.
        rows: What the feature files of dev, test and testall have a row for: each of the "images", or each of the
            "captions", an image's row being repeated. Training features have a row an image, as released.
    """
    demo = load_corpus(DataConfig()).splits
    testall = drawings(demo.test, 30, 60)
    f30k = {"train": drawings(demo.train, 0, 80), "dev": drawings(demo.dev, 0, 20), "test": drawings(demo.test, 0, 30)}
    coco = {
        "train": drawings(demo.train, 80, 160),
        "dev": drawings(demo.dev, 20, 40),
        "test": testall.rows(len(testall.ids) // FOLDS),
        "testall": testall,
    }
    cc152k = {
        "train": drawings(demo.train, 160, 560),
        "dev": drawings(demo.dev, 40, 140),
        "test": drawings(demo.test, 60, 160),
        "meta": drawings(demo.dev, 140, 150),
    }
    for name, corpus in {"f30k_precomp": f30k, "coco_precomp": coco}.items():
        for split, images in corpus.items():
            repeats = 1 if rows == "images" or split == "train" else len(WORDINGS)
            write_split(folder / name, split, images, repeats)
        write_vocabulary(folder / "vocab" / f"{name}_vocab.json", wordings(corpus["train"]))
        write_noise_indices(folder / "noise_index", folder / name)
    for split, images in cc152k.items():
        write_split_of_pairs(folder / "cc152k_precomp", split, images)
    write_vocabulary(folder / "vocab" / "cc152k_precomp_vocab.json", cc152k["train"].captions)


def drawings(pairs: Pairs, start: int, stop: int) -> Drawings:
    """Drawings `start` to `stop` of a split of the demo, whose captions stand in the order of the drawings."""
    features = pairs.images.take(torch.arange(start, stop)).values.numpy()
    regions = features.reshape(stop - start, REGIONS, -1)
    return Drawings(pairs.image_ids[start:stop], pairs.captions[start:stop], regions)


def wordings(images: Drawings) -> list[str]:
    """Five captions an image, those of an image next to each other."""
    return [wording.format(caption) for caption in images.captions for wording in WORDINGS]


def write_split(folder: Path, split: str, images: Drawings, repeats: int) -> None:
    """A split as SCAN lays it out; each image has `repeats` rows of features, and as many lines of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    save_array(folder / f"{split}_ims.npy", images.features.repeat(repeats, axis=0))
    write_lines(folder / f"{split}_caps.txt", wordings(images))
    write_lines(folder / f"{split}_ids.txt", [name for name in images.ids for _ in range(repeats)])


def write_split_of_pairs(folder: Path, split: str, images: Drawings) -> None:
    """A split as NCR lays out CC152K: image id, tab, caption."""
    folder.mkdir(parents=True, exist_ok=True)
    save_array(folder / f"{split}_ims.npy", images.features)
    with (folder / f"{split}_caps.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(zip(images.ids, images.captions, strict=True))
    write_lines(folder / f"{split}_ids.txt", images.ids)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_vocabulary(path: Path, captions: Sequence[str]) -> None:
    """Every word of the captions, in a vocabulary of the field: one without ``<mask>``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [word for word in Vocabulary.build(captions, minimum_count=1).words if word != "<mask>"]
    ids = {word: id_ for id_, word in enumerate(words)}
    content = {"word2idx": ids, "idx2word": {str(id_): word for word, id_ in ids.items()}, "idx": len(words)}
    path.write_text(json.dumps(content), encoding="utf-8")


def write_noise_indices(folder: Path, corpus: Path) -> None:
    """The same share of noise as NCR has it, the image of each caption, and as DECL has it, one for each image."""
    folder.mkdir(parents=True, exist_ok=True)
    train = load_precomputed(corpus, "train", captions_per_image=len(WORDINGS))
    write_noise_index(folder / f"{corpus.name}_{NOISE_RATE}_per_caption.npy", inject_noise(train, NOISE_RATE, seed=0))
    image_of_caption = inject_noise(train, NOISE_RATE, seed=0, level="image").image_of_caption
    save_array(folder / f"{corpus.name}_{NOISE_RATE}_per_image.npy", image_of_caption[:: len(WORDINGS)].numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", choices=["images", "captions"], default="images", help="of dev, test and testall")
    parsed = parser.parse_args()
    write_miniatures(parsed.folder, parsed.rows)
    print(f"{parsed.folder}: f30k_precomp, coco_precomp, cc152k_precomp, vocab, noise_index")
