"""How well models retrieve on a split: encode once, score block by block, count ranks."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from truepair.data.pairs import Pairs
from truepair.errors import CheckpointError, ConfigError, DataError, said_by
from truepair.evaluation.recall import (
    RankCounts,
    RetrievalMetrics,
    first_nan,
    fold_slices,
    mean_metrics,
    retrieval_metrics,
)
from truepair.evaluation.saved_counts import SavedCounts, fingerprint
from truepair.model import MatchingModel
from truepair.progress import progress
from truepair.scoring.encodings import encode_captions, encode_images
from truepair.similarity.blocks import Block, similarity_blocks

_IMAGES_IN_BLOCK, _CAPTIONS_IN_BLOCK = 256, 1024
"""A block of 262,144 pairs is 1 MB of similarities. One that costs 10 MFLOP a pair takes seconds to a minute a block,
which is what an interruption can lose; what depends on one side only is shared by hundreds of items of the other."""

_SECONDS_BETWEEN_SAVES = 10.0
"""An evaluation that is shorter writes nothing."""


@torch.inference_mode()
def evaluate(
    models: Sequence[MatchingModel],
    pairs: Pairs,
    folds: int = 1,
    *,
    batch_size: int = 256,
    state: Path | None = None,
) -> RetrievalMetrics:
    """Recall and ranks both ways on a split, every image against every caption of its fold.

    Several models are taken as one: their similarity matrices are averaged (SGRAF is SAF and SGR so combined; Diao et
    al., AAAI 2021), not their metrics. Memory grows with the encodings of the split, not with images × captions.

    Args:
        models: One trained model, or several; each computes where its weights are.
        pairs: The split; its `image_of_caption` is taken as the truth.
        folds: Number of equal runs that the images are cut into; only the images and captions of one run compete, and
            the values are means over the runs (MS-COCO 1K: 5).
        batch_size: Items encoded at once.
        state: A folder for the counts of an evaluation that takes longer than 10 seconds, made if missing. The same
            call goes on from the last saved block and ends with the same values; after the end, it answers at once.
            One that cannot be written is left with a warning. None keeps nothing.

    Raises:
        ConfigError: If there is no model.
        DataError: If the images cannot be divided into `folds`, a fold has no caption, or a similarity is NaN. What
            was saved in `state` stays there.
        CheckpointError: If the counts in `state` are damaged or of something else.
    """
    if not models:
        raise ConfigError("there is no model to evaluate: name at least one")
    parts = folds_of(pairs, folds)
    lengths = torch.tensor([len(caption) for caption in pairs.captions])
    blocks = similarity_blocks(pairs.image_of_caption, lengths, parts, _IMAGES_IN_BLOCK, _CAPTIONS_IN_BLOCK)
    saved = None
    if state is not None:
        saved = SavedCounts(state, fingerprint(models, pairs, blocks, batch_size))
    counts = _count(models, pairs, blocks, batch_size, saved)
    return mean_metrics([retrieval_metrics(counts.ranks(part)) for part in parts])


def folds_of(pairs: Pairs, folds: int) -> list[slice]:
    """The rows of `pairs.images`, in equal runs that are searched by themselves.

    Raises:
        DataError: If the images cannot be divided into `folds`, or a fold has no caption.
    """
    parts = fold_slices(len(pairs.images), folds)
    image_of_caption = pairs.image_of_caption
    for number, part in enumerate(parts, 1):
        if not ((image_of_caption >= part.start) & (image_of_caption < part.stop)).any():
            raise DataError(
                f"fold {number} of {len(parts)} (images {part.start:,} … {part.stop - 1:,}) has no caption, and so no "
                "recall: choose fewer folds"
            )
    return parts


def _count(
    models: Sequence[MatchingModel], pairs: Pairs, blocks: Sequence[Block], batch_size: int, saved: SavedCounts | None
) -> RankCounts:
    """Counts of all blocks; those that are in `saved` are not scored again."""
    resumed = None if saved is None else saved.load(pairs.image_of_caption, len(pairs.images))
    if resumed is not None and resumed[1] == len(blocks):
        return resumed[0]
    gallery = _Gallery(models, pairs, blocks, batch_size)
    counts, done = resumed or (RankCounts(pairs.image_of_caption, gallery.own(), len(pairs.images)), 0)
    last_save = time.monotonic()
    scored, total = (sum(block.pairs for block in some) for some in (blocks[:done], blocks))
    with progress("scoring", "pairs", total, scored) as shown:
        for number, block in enumerate(blocks[done:], done + 1):
            scores = gallery.similarity(block, f"block {number} of {len(blocks)}")
            counts.add(scores, block.images.start, block.captions)
            shown.advance(block.pairs)
            if saved is None:
                continue
            is_due = time.monotonic() - last_save >= _SECONDS_BETWEEN_SAVES
            if is_due or (number == len(blocks) and saved.path.exists()):
                try:
                    saved.save(counts, number)
                except (OSError, CheckpointError, ConfigError) as error:
                    warnings.warn(
                        f"the state of this evaluation cannot be saved, and it goes on: {said_by(error)}", stacklevel=3
                    )
                    saved = None
                last_save = time.monotonic()
    return counts


class _Gallery:
    """A split as one or several models encode it, each on its own device; similarities are means, on the CPU."""

    def __init__(self, models: Sequence[MatchingModel], pairs: Pairs, blocks: Sequence[Block], batch_size: int) -> None:
        self.models, self.pairs = models, pairs
        self.groups = list({block.group: block.captions for block in blocks}.values())
        self.images = [encode_images(model, pairs.images, batch_size) for model in models]
        # Group by group, so that captions are padded to the longest of their group and not to the longest of all.
        self.captions = [
            [encode_captions(model, pairs.select(group), batch_size) for group in self.groups] for model in models
        ]

    def own(self) -> Float[Tensor, " captions"]:
        """Similarity of each caption with its own image."""
        own = torch.empty(len(self.models), len(self.pairs))
        for number, group in enumerate(self.groups):
            for model, images, captions, scores in zip(self.models, self.images, self.captions, own, strict=True):
                rows = self.pairs.image_of_caption[group].to(images.values.device)
                scores[group] = model.scores.paired(images.rows(rows), captions[number]).float().cpu()
        bad = first_nan(own)
        if bad is not None:
            model_number, caption = bad
            image = int(self.pairs.image_of_caption[caption])
            raise self._not_a_number(model_number, image, caption, "its own image, before the first block")
        return own.mean(0)

    def similarity(self, block: Block, where: str) -> Float[Tensor, "images captions"]:
        """Similarity of the block's images and captions; `where` is for the error that names a NaN."""
        parts = []
        for number, model in enumerate(self.models):
            images, captions = self.images[number].rows(block.images), self.captions[number][block.group]
            part = model.scores.matrix(images, captions).float().cpu()
            bad = first_nan(part)
            if bad is not None:
                image, caption = block.images.start + bad[0], int(block.captions[bad[1]])
                raise self._not_a_number(number, image, caption, where)
            parts.append(part)
        return torch.stack(parts).mean(0)

    def _not_a_number(self, model: int, image: int, caption: int, where: str) -> DataError:
        which = f" of model {model + 1} of {len(self.models)}" if len(self.models) > 1 else ""
        return DataError(
            f"the similarity{which} is NaN for image {image} ({self.pairs.image_ids[image]!r}) and caption {caption} "
            f"({self.pairs.caption_ids[caption]!r}; {where}): the model has diverged or its inputs hold NaN; check "
            "these features, or train it again with a lower learning rate"
        )
