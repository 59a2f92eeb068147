"""Noisy correspondence at an exact rate, and the field's two kinds of noise-index files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from truepair.config import NoiseConfig
from truepair.data.pairs import Pairs
from truepair.errors import ConfigError, DataError
from truepair.files.locking import alone_with
from truepair.files.npy import load_array, save_array
from truepair.random_streams import Stream

Level = Literal["caption", "image"]
Partners = Literal["random", "similar"]
Convention = Literal["per_caption", "per_image"]
FoundLevel = Literal["none", "caption", "image", "mixed", "unknown"]

_LIKES = 100
"""Most similar captions that one may exchange images with."""
_SIMILARITIES = 1 << 23
"""Similarities in memory at a time."""
_NEARLY_ALL = 0.95
"""Noise is image-level from this share of images that moved with all captions, caption-level up to 1 minus it."""
_CHANCE = 0.01
"""Captions that move singly are an explanation of what happens to them with at least this probability."""


@dataclass(frozen=True)
class NoiseLevel:
    """At which level captions have wrong images; results at different levels are not comparable.

    Attributes:
        level: "caption": captions moved singly; "image": all captions of an image moved together; "mixed": some of
            both; "none": no caption has a wrong image; "unknown": no image of several captions lost one, so that both
            levels are the same, or so few did that captions that move singly may well look the same.
        moved_together: Of the images of several captions that lost any, the share, in [0, 1], that lost all of them to
            one other image; None if no such image lost any.
    """

    level: FoundLevel
    moved_together: float | None

    @property
    def in_words(self) -> str:
        """The level and the share that it was found by, as reports say them."""
        if self.level == "none":
            return "no caption has a wrong image"
        if self.moved_together is None:
            return "level not known: no image of several captions lost one"
        level = {"mixed": "mixed levels", "unknown": "level not known, too few images"}.get(
            self.level, f"{self.level} level"
        )
        return f"{level}: {self.moved_together:.1%} of the images that lost captions lost all of them to one image"


def noisy(pairs: Pairs, noise: NoiseConfig) -> Pairs:
    """The pairs with the mismatches that `noise` asks for; as they are if it asks for none."""
    if noise.index is not None:
        return read_noise_index(Path(noise.index), pairs, convention=noise.index_convention)
    if not noise.rate:
        return pairs
    return inject_noise(pairs, noise.rate, noise.seed, level=noise.level, partners=noise.partners)


def inject_noise(
    pairs: Pairs, rate: float, seed: int, *, level: Level = "caption", partners: Partners = "random"
) -> Pairs:
    """The same captions, some with an image that is not theirs.

    Caption level (NCR): ``round(rate · captions)`` captions, drawn at random, exchange their images at random among
    themselves. Image level (DECL): ``round(rate · images)`` images exchange all their captions. Unlike in both released
    codes, nothing that was drawn keeps its image, so that the rate is exact (at image level, as a share of the images).
    At caption level each image occurs as often as before; captions of one image draw independently.

    Args:
        pairs: Pairs as they are on disk, taken to be true unless their truth is known.
        rate: Share of the captions (or images) to mismatch, in [0, 1).
        seed: Same seed and same pairs, same noise.
        level: What is drawn. Results at different levels are not comparable.
        partners: Captions exchange images at random, or, at caption level, two and two that are alike ("similar"): hard
            noise, mismatches that a careless eye would pass. Alike is a matter of TF-IDF vectors of words; captions of
            the same text do not exchange. The same captions are drawn for both.

    Returns:
        Pairs that know their truth: `true_image_of_caption` is what `image_of_caption` was.

    Raises:
        ConfigError: If `rate`, `level` or `partners` is out of range, or `partners` does not go with `level`.
        DataError: If the pairs are known to be noisy already, or such an exchange does not exist: one caption has no
            partner, nor have those of an image that owns more than half of all that can be drawn.
    """
    if isinstance(rate, str) or not 0 <= rate < 1:
        raise ConfigError(f"the noise rate is {rate!r}, but it is a share in [0, 1)")
    if seed < 0:
        raise ConfigError(f"the seed is {seed}, but it is at least 0")
    if level not in get_args(Level):
        raise ConfigError(f"the noise level is {level!r}, but it is one of {', '.join(get_args(Level))}")
    if partners not in get_args(Partners) or (partners == "similar" and level == "image"):
        raise ConfigError(
            f"noise partners are {partners!r} at {level} level, but they are one of {', '.join(get_args(Partners))}, "
            "and 'similar' compares single captions: use level 'caption'"
        )
    _refuse_noisy(pairs)
    random = Stream.NOISE.generator(seed)
    image_of_caption = pairs.image_of_caption.numpy()
    if level == "caption":
        noisy = _exchanged(
            image_of_caption, rate, random, "captions", pairs.captions if partners == "similar" else None
        )
    else:
        images = np.unique(image_of_caption)  # an image without captions has none to exchange
        wrong_image = np.arange(len(pairs.images))
        wrong_image[images] = _exchanged(images, rate, random, "images")
        noisy = wrong_image[image_of_caption]
    return _with_noise(pairs, noisy)


def read_noise_index(path: Path, pairs: Pairs, *, convention: Convention) -> Pairs:
    """The noise of a published file, so that results are comparable.

    Whether anything that the file's author drew kept its image is up to the file: `Pairs.realised_noise_rate` says
    what the rate really is.

    Args:
        path: An integer ``.npy`` file.
        pairs: The clean pairs that the file was made for.
        convention: ``"per_caption"`` (NCR, MSCN, L2RM): entry i is the image row that caption i gets. ``"per_image"``
            (DECL): entry j is the image that takes the place of image j; usually a permutation, but an image may take
            several places.

    Raises:
        ConfigError: If `convention` is unknown.
        DataError: If the file is damaged, has another length, or names images that do not exist; or the pairs are
            known to be noisy already.
    """
    if convention not in get_args(Convention):
        raise ConfigError(f"convention is {convention!r}, but it is one of {', '.join(get_args(Convention))}")
    _refuse_noisy(pairs)
    index = load_array(path)
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
        raise DataError(f"{path} holds {index.dtype} {list(index.shape)}, but a noise index is a list of integers")
    needed = {"per_caption": len(pairs), "per_image": len(pairs.images)}
    if len(index) != needed[convention]:
        raise DataError(
            f"{path} has {len(index):,} entries, but convention={convention!r} needs {needed[convention]:,} "
            f"(per_caption: {needed['per_caption']:,} captions, per_image: {needed['per_image']:,} images); "
            "was it made for this convention and split?"
        )
    bad = np.flatnonzero((index < 0) | (index >= len(pairs.images)))
    if len(bad):
        raise DataError(
            f"{path} is out of range at {len(bad):,} of {len(index):,} entries (first: entry {bad[0]:,} is image "
            f"{index[bad[0]]:,}, but there are {len(pairs.images):,} images); was it made for this split?"
        )
    index = index.astype(np.int64)
    return _with_noise(pairs, index if convention == "per_caption" else index[pairs.image_of_caption.numpy()])


def noise_level(pairs: Pairs) -> NoiseLevel | None:
    """The level of the noise that pairs have, whatever put it in; None if the truth is not known.

    Only images that truly have several captions, and lost at least one, can tell. The noise is image-level if nearly
    all of them lost all their captions to one other image, and caption-level if nearly none did, or no more than chance
    explains. Where captions move singly, an image of k captions that lost any lost all of them to one image with
    probability r^k Σ_j t_j^k / (1 - (1 - r)^k): r is the realised rate, t_j the share of the captions lost by images
    other than j that image j got.

    Args:
        pairs: Noisy pairs; their `true_image_of_caption` says how many captions an image has.
    """
    if pairs.true_image_of_caption is None:
        return None
    true, given = pairs.true_image_of_caption.numpy(), pairs.image_of_caption.numpy()
    images, wrong = len(pairs.images), given != true
    if not wrong.any():
        return NoiseLevel("none", None)
    captions, lost = (np.bincount(true[which], minlength=images) for which in (slice(None), wrong))
    can_tell = (captions >= 2) & (lost > 0)
    if not can_tell.any():
        return NoiseLevel("unknown", None)
    of_one = np.zeros(images, dtype=np.int64)
    of_one[true] = given  # the image that one of the captions now has
    lost_to_it = np.bincount(true[wrong & (given == of_one[true])], minlength=images)
    moved_together = (lost_to_it == captions)[can_tell]
    share = float(moved_together.mean())

    from scipy.stats import binom

    got = np.bincount(given[wrong], minlength=images) / np.maximum(wrong.sum() - lost, 1)
    rate, own = float(wrong.mean()), captions[can_tell]
    counts, place = np.unique(own, return_inverse=True)
    to_one = np.array([(got**k).sum() for k in counts])[place] - got[can_tell] ** own  # not to itself
    by_chance = rate**own * np.minimum(to_one, 1) / (1 - (1 - rate) ** own)
    is_chance = binom.sf(moved_together.sum() - 1, len(own), by_chance.mean()) > _CHANCE
    if share >= _NEARLY_ALL:
        return NoiseLevel("unknown" if is_chance else "image", share)
    return NoiseLevel("caption" if is_chance or share <= 1 - _NEARLY_ALL else "mixed", share)


def check_noise_index_target(path: Path) -> None:
    """Refuse to write a noise index over something else, before any work.

    Raises:
        ConfigError: If the file's name does not end with ``.npy``, or it is there and holds no noise index.
    """
    if path.suffix != ".npy":
        raise ConfigError(f"--out is {path}, but an index of mismatches is a NumPy file: give it a name in .npy")
    if not path.exists():
        return
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        is_index = stored.ndim == 1 and stored.dtype == np.int64
    except (OSError, ValueError):
        is_index = False
    if not is_index:
        raise ConfigError(f"--out is {path}, which holds something else: choose another file, or delete that one")


def write_noise_index(path: Path, pairs: Pairs) -> None:
    """Save which image each caption has, as an int64 ``.npy`` file of the ``"per_caption"`` convention.

    Raises:
        ConfigError: If another process is writing it.
        DataError: If the file cannot be written.
    """
    with alone_with(path):
        save_array(path, pairs.image_of_caption.numpy().astype(np.int64))


def _refuse_noisy(pairs: Pairs) -> None:
    noise = pairs.realised_noise_rate
    if noise:
        raise DataError(
            f"{noise:.1%} of the pairs are already known not to match; give noise to the clean pairs instead"
        )


def _with_noise(pairs: Pairs, image_of_caption: np.ndarray) -> Pairs:
    return replace(
        pairs, image_of_caption=torch.from_numpy(image_of_caption), true_image_of_caption=pairs.image_of_caption
    )


def _exchanged(
    owners: np.ndarray,
    rate: float,
    random: np.random.Generator,
    what: str,
    texts: Sequence[str] | None = None,
) -> np.ndarray:
    """`owners` with ``round(rate · n)`` entries exchanged among themselves, each of which becomes another.

    With `texts`, entries of like texts exchange.
    """
    count = round(rate * len(owners))
    chosen = _chosen(owners, count, random)
    if len(chosen) < count:
        raise DataError(
            f"{count:,} of {len(owners):,} {what} (rate {rate}) cannot exchange images so that each gets another: "
            f"{'one alone has no partner' if count == 1 else 'one image owns more than half of them'}; "
            "use another rate or more pairs"
        )
    result = owners.copy()
    if texts is None:
        order = _deranged(owners[chosen], random)
    else:
        order = _exchanged_with_likes([texts[i] for i in chosen], owners[chosen], random)
    result[chosen] = owners[chosen][order]
    return result


def _exchanged_with_likes(texts: Sequence[str], owners: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A permutation p with ``owners[p[i]] != owners[i]`` for all i that swaps positions of like texts.

    In random order, each position swaps with the most similar one that is still free, of another owner and another
    text. Those that find none among their `_LIKES` most similar are exchanged at random with one another; where one
    owner has more than half of them, some swaps are dissolved to join them.
    """
    n, permutation = len(texts), np.arange(len(texts))
    free = np.ones(n, dtype=bool)
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    text = np.array([distinct[each] for each in texts], dtype=np.int64)
    order = random.permutation(n)
    for positions, likes in _most_similar(texts, order):
        for i, candidates in zip(positions, likes, strict=True):
            if not free[i]:
                continue
            fit = candidates[free[candidates] & (owners[candidates] != owners[i]) & (text[candidates] != text[i])]
            if len(fit):
                permutation[[i, fit[0]]] = permutation[[fit[0], i]]
                free[[i, fit[0]]] = False
    left = np.flatnonzero(free)
    owner, size = np.unique(owners[left], return_counts=True)
    missing = size.max(initial=0) - len(left) // 2
    if missing > 0:  # enough swaps are without this owner, who has no more than half of all positions
        most = owner[size.argmax()]
        without = (owners != most) & (owners[permutation] != most) & (np.arange(n) < permutation)
        dissolved = random.choice(np.flatnonzero(~free & without), missing, replace=False)
        left = np.concatenate([left, dissolved, permutation[dissolved]])
    permutation[left] = left[_deranged(owners[left], random)]
    return permutation


def _most_similar(texts: Sequence[str], order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of `order`, and for each position in them the `_LIKES` most similar ones, most similar first.

    Similarities are rounded and ties drawn: sorting leaves ties, of which there are many, to the processor.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(re.search(r"\w", text) for text in texts):  # no vectors without words
        return
    vectors = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    n, most = len(texts), min(_LIKES, len(texts))
    for start in range(0, n, size := max(1, _SIMILARITIES // n)):
        positions = order[start : start + size]
        similarity = np.rint((vectors[positions] @ vectors.T).toarray() * 2**20).astype(np.int64)
        similarity = similarity * n + order  # no two of a row are equal
        nearest = np.argpartition(similarity, n - most, axis=1)[:, n - most :]
        by_similarity = np.take_along_axis(similarity, nearest, axis=1).argsort(axis=1)[:, ::-1]
        yield positions, np.take_along_axis(nearest, by_similarity, axis=1)


def _chosen(owners: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Positions drawn at random, at most half of them of the same owner; fewer than `count` if there are no more.

    With more than half of one owner, some would have to stay; with no more than half, `_deranged` exists.
    """
    order = random.permutation(len(owners))
    by_owner = np.argsort(owners[order], kind="stable")
    _, first, size = np.unique(owners[order][by_owner], return_index=True, return_counts=True)
    earlier_of_same_owner = np.empty(len(owners), dtype=np.int64)
    earlier_of_same_owner[by_owner] = np.arange(len(owners)) - np.repeat(first, size)
    chosen: np.ndarray = order[earlier_of_same_owner < count // 2][:count]
    return chosen


def _deranged(owners: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random permutation p with ``owners[p[i]] != owners[i]`` for all i; no owner has more than half of them.

    A random permutation is repaired: where position i would get its own owner A, it swaps with a position that neither
    belongs to A nor gets A, after which both get another. Such a position exists: of n positions at most n/2 belong to
    A, at most n/2 get A, and i is in both sets, so that together they are not all. Few repairs are needed unless one
    owner has many positions: as many as a random permutation has fixed points.
    """
    permutation = random.permutation(len(owners))
    for i in np.flatnonzero(owners[permutation] == owners):
        own = owners[i]
        if owners[permutation[i]] != own:  # an earlier swap has repaired it
            continue
        partner = random.choice(np.flatnonzero((owners != own) & (owners[permutation] != own)))
        permutation[[i, partner]] = permutation[[partner, i]]
    return permutation
