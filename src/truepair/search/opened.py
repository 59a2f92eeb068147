"""The pairs that an index, or a segment of one, is made of, in the order of its rows."""

from __future__ import annotations

from pathlib import Path

from truepair.data.embeddings import is_embeddings, load_embeddings, most_pixels_of
from truepair.data.pairs import Pairs
from truepair.data.pixels import with_pixels
from truepair.data.text import tokenised, with_tokens
from truepair.data.whole import every_pair
from truepair.errors import ConfigError, DataError
from truepair.pretrained.captions import CaptionReader
from truepair.pretrained.pictures import picture_reader
from truepair.search.layout import Segment
from truepair.search.spaces import Space
from truepair.training.folder import TrainedRun, load_run


def pairs_of_store(space: Space | None, store: Path) -> Pairs:
    """The pairs of a feature store, with what the space reads of captions.

    Args:
        space: The space of a run; None where embeddings are compared as they are. A run's pretrained networks read the
            pictures and texts that a feature store was made of, in place of its features.
        store: A feature store, a folder of clip-retrieval, or images.npy and captions.npy.

    Raises:
        DataError: If it is none, or damaged.
        ConfigError: If the space reads pixels, tokens or vectors of captions, and there are no pictures, texts or
            vectors.
    """
    if not is_embeddings(store):
        raise DataError(f"{store} is gone, or holds no features: restore it, or make the index again")
    pairs = load_embeddings(store)
    if space is None:
        return pairs
    if space.reads.image != "features":
        pairs = with_pixels(pairs, picture_reader(space.reads.image_encoder), most_pixels_of(store), str(store))
    if space.reads.text != "features":
        return with_tokens(pairs, CaptionReader(space.reads.text_encoder), str(store)).pairs
    if (space.vocabulary is None or space.reads_vectors_beside_words) and pairs.caption_inputs is None:
        raise ConfigError(
            f"the index reads vectors of captions, and {store} has none: embed it again, with the text encoder of the "
            f"index ({space.by.text or 'not known'})"
        )
    if space.vocabulary is None:
        return pairs
    return tokenised(pairs, space.vocabulary, beside_features=space.reads_vectors_beside_words)


def pairs_of_run(run: TrainedRun, split: str) -> Pairs:
    """The pairs of a run's corpus, as stored: all of them, or one split."""
    splits = run.corpus.splits
    pairs: Pairs = every_pair(splits) if split == "all" else getattr(splits, split)
    return pairs


def pairs_of_segment(space: Space, segment: Segment) -> Pairs:
    """The pairs that a segment was made of.

    Raises:
        DataError: If they are gone, or not the same any more.
    """
    if segment.store is None:
        pairs = pairs_of_run(load_run(Path(space.description["folder"])), segment.split)
    else:
        pairs = pairs_of_store(space, Path(segment.store))
    if (len(pairs.images), len(pairs)) != (segment.images, segment.captions):
        raise DataError(
            f"{segment.store or space.description['folder']} now has {len(pairs.images):,} images and {len(pairs):,} "
            f"captions, but the index was made of {segment.images:,} and {segment.captions:,}: make the index again"
        )
    return pairs
