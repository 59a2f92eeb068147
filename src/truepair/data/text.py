"""Captions → words → token ids."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate, chain
from pathlib import Path
from unicodedata import normalize

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from truepair.data.batch import Padded
from truepair.data.pairs import Inputs, Pairs
from truepair.errors import ConfigError, DataError, said_by
from truepair.files.json import parsed_json
from truepair.files.texts import Texts

SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>", "<mask>")
"""Not words of any caption: `words_of` never makes them."""

_UNKNOWN_WORDS_SHOWN = 8

_CLITIC = r"(?:n't|'(?:s|m|d|ll|re|ve))\b"
_WORD = r"\w+(?:(?:[-']|(?<=\d)[.,:/](?=\d))\w+)*"
_BEFORE_CLITIC = re.compile(rf"(?<=\w)(?={_CLITIC})")
_TOKEN = re.compile(rf"{_CLITIC}|{_WORD}|\.{{2,}}|[^\w\s]")


def words_of(caption: str) -> list[str]:
    """The words, numbers and punctuation marks of a caption, in lower case.

    Words keep inner hyphens and apostrophes, numbers their inner ``. , : /``; clitics (``'s``, ``n't`` …) are tokens
    of their own. That is the Penn Treebank convention of NLTK's ``word_tokenize``, which the published vocabularies
    were made with. What differs: ``"`` stays ``"`` (NLTK: two backticks or two apostrophes), ``black/white`` and
    ``snow.the`` are three tokens, ``u.s.`` is four, ``cannot`` and ``gonna`` are one. Scripts without spaces between
    words are not segmented.

    >>> words_of("A man's T-shirt isn't red: it costs 1,000.")
    ['a', 'man', "'s", 't-shirt', 'is', "n't", 'red', ':', 'it', 'costs', '1,000', '.']
    """
    text = normalize("NFC", caption).lower().replace("\u2019", "'")
    return _TOKEN.findall(_BEFORE_CLITIC.sub(" ", text))


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids.

    Attributes:
        words: Word of each id, distinct; all of `SPECIAL_WORDS` are among them, ``<pad>`` first, so that padding is 0.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse words without which captions cannot be encoded.

        Raises:
            DataError: If a word occurs twice, a special word is missing or ``<pad>`` is not id 0.
        """
        missing = [word for word in SPECIAL_WORDS if word not in self.words]
        if missing:
            raise DataError(f"the vocabulary of {len(self.words):,} words lacks {', '.join(missing)}")
        if self.words[0] != "<pad>":
            raise DataError(f"the vocabulary has {self.words[0]!r} at id 0, but 0 is the id of '<pad>'")
        if len(self.id_of) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise DataError(f"the vocabulary has {twice!r} more than once")

    @classmethod
    def build(cls, captions: Sequence[str], *, minimum_count: int = 4) -> Vocabulary:
        """The special words and all words that are frequent enough, most frequent first, ties in alphabetical order.

        Args:
            captions: Training captions.
            minimum_count: How often a word must occur; 4 in the published vocabularies (SCAN, NCR).

        Raises:
            DataError: If no word is that frequent.
        """
        counts = Counter(chain.from_iterable(words_of(caption) for caption in captions))
        frequent = [word for word, count in counts.items() if count >= minimum_count]
        if not frequent:
            raise DataError(
                f"no word occurs {minimum_count} times in the {len(captions):,} captions; lower data.minimum_word_count"
            )
        return cls(SPECIAL_WORDS + tuple(sorted(frequent, key=lambda word: (-counts[word], word))))

    @classmethod
    def from_json(cls, text: str, name: str = "the vocabulary") -> Vocabulary:
        """A vocabulary in the format of SCAN, NCR and CRCL, which is also that of `to_json`.

        ``<mask>`` is appended if missing, as CRCL's released code does.

        Args:
            text: A JSON object with ``word2idx``; its other keys repeat the same and are not looked at.
            name: What to call it in messages, for instance the file.

        Raises:
            DataError: If it is not such an object, ids are not 0 … n-1, or a special word is missing.
        """
        try:
            id_of = parsed_json(text, "it")["word2idx"]
            words = sorted(id_of, key=id_of.__getitem__)
            ids = [id_of[word] for word in words]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{name} is not a JSON object with 'word2idx': a word → id table ({said_by(error)})"
            ) from error
        if ids != list(range(len(ids))):
            wrong = next(place for place, id_ in enumerate(ids) if id_ != place)
            raise DataError(
                f"{name}: {len(ids):,} words need the ids 0 … {len(ids) - 1:,}, each once, but in order of ids word "
                f"{wrong:,} is {words[wrong]!r} with id {ids[wrong]!r}"
            )
        if "<mask>" not in id_of:
            words.append("<mask>")
        try:
            return cls(tuple(words))
        except DataError as error:
            raise DataError(f"{name}: {error}") from error

    def to_json(self) -> str:
        """The format of SCAN, NCR and CRCL: ``word2idx``, ``idx2word`` and ``idx``, the number of words."""
        idx2word = {str(id_): word for id_, word in enumerate(self.words)}
        return json.dumps({"word2idx": self.id_of, "idx2word": idx2word, "idx": len(self.words)}, ensure_ascii=False)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def id_of(self) -> dict[str, int]:
        """Id of each word."""
        return {word: id_ for id_, word in enumerate(self.words)}

    @property
    def mask(self) -> int:
        """Id of ``<mask>``, which word dropping puts in place of words."""
        return self.id_of["<mask>"]

    def encode(
        self,
        captions: Sequence[str],
        *,
        maximum_words: int | None = None,
        caption_ids: Sequence[str] | None = None,
        empty_allowed: bool = False,
    ) -> Tokens:
        """Each caption as ``<start>``, its words (``<unk>`` for those not in the vocabulary) and ``<end>``.

        Args:
            captions: Captions.
            maximum_words: Words after this many are cut off, before ``<end>``; None keeps all.
            caption_ids: Their names, for messages.
            empty_allowed: Whether a caption without words is encoded too, as ``<start>`` and ``<end>`` alone.

        Raises:
            DataError: If a caption has no words and must have some, or `maximum_words` is below 1.
        """
        if maximum_words is not None and maximum_words < 1:
            raise DataError(f"maximum_words is {maximum_words}, but a caption needs at least 1 word")
        start, end, unknown = (self.id_of[word] for word in ("<start>", "<end>", "<unk>"))
        ids, ends = array("i"), array("q", [0])
        for caption, text in enumerate(captions):
            words = words_of(text)[:maximum_words]
            if not words and not empty_allowed:
                name = "" if caption_ids is None else f" ({caption_ids[caption]!r})"
                raise DataError(f"caption {caption:,}{name} is empty: {text!r}; leave the pair out or write a caption")
            ids.append(start)
            ids.extend(self.id_of.get(word, unknown) for word in words)
            ids.append(end)
            ends.append(len(ids))
        return Tokens(torch.from_numpy(np.array(ids)), torch.from_numpy(np.array(ends)))


def tokenised(
    pairs: Pairs, vocabulary: Vocabulary, *, maximum_words: int | None = None, beside_features: bool = False
) -> Pairs:
    """The same pairs with token ids as `caption_inputs`, in place of caption features or beside them.

    Args:
        pairs: The pairs.
        vocabulary: What makes the tokens.
        maximum_words: See `Vocabulary.encode`.
        beside_features: Whether caption features, where the pairs have any, are kept as vectors beside the words.
            Captions may then be without words, as may those that are not in memory.

    Raises:
        DataError: See `Vocabulary.encode`.
    """
    features = pairs.caption_inputs if beside_features else None
    tokens: Inputs
    if isinstance(pairs.captions, Texts):
        encode = partial(vocabulary.encode, maximum_words=maximum_words, empty_allowed=True)
        tokens = TokensWhenRead(pairs.captions, encode)
    else:
        tokens = vocabulary.encode(
            pairs.captions,
            maximum_words=maximum_words,
            caption_ids=pairs.caption_ids,
            empty_allowed=features is not None,
        )
    return replace(pairs, caption_inputs=tokens if features is None else WordsAndVectors(tokens, features))


def load_vocabulary(path: Path) -> Vocabulary:
    """A vocabulary file (see `Vocabulary.from_json`).

    Raises:
        DataError: If the file cannot be read or is not a vocabulary.
    """
    try:
        return Vocabulary.from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the vocabulary {path}: {said_by(error)}") from error


def check_vocabulary(
    vocabulary: Vocabulary, captions: Sequence[str], *, maximum_unknown_share: float, name: str
) -> float:
    """The share, in [0, 1], of the words of `captions` that `vocabulary` does not know and that become ``<unk>``.

    Args:
        vocabulary: What will make the tokens.
        captions: Training captions; at least one word.
        maximum_unknown_share: The limit. Published vocabularies leave out words that occur less than 4 times, about 2 %
            of the words of their own captions.
        name: What to call the vocabulary in the message.

    Raises:
        DataError: If the share is above the limit: the vocabulary is of another corpus or language.
    """
    counts = Counter(chain.from_iterable(words_of(caption) for caption in captions))
    unknown = Counter({word: count for word, count in counts.items() if word not in vocabulary.id_of})
    share = unknown.total() / counts.total()
    if share > maximum_unknown_share:
        frequent = ", ".join(f"{word!r} ({count:,})" for word, count in unknown.most_common(_UNKNOWN_WORDS_SHOWN))
        raise DataError(
            f"{name} does not know {share:.1%} of the words in the {len(captions):,} training captions, more than "
            f"data.maximum_unknown_share = {maximum_unknown_share:.1%} (most frequent: {frequent}); name the "
            "vocabulary of this corpus, leave data.vocabulary out to make one, or raise the limit"
        )
    return share


@dataclass(frozen=True, eq=False)
class Tokens:
    """`Inputs` of token ids, stored without padding.

    Attributes:
        ids: ``[tokens]`` int32, all captions one after the other.
        ends: ``[captions + 1]``; caption i is ``ids[ends[i] : ends[i + 1]]``, never empty.
    """

    ids: Int[Tensor, " tokens"]
    ends: Int[Tensor, " boundaries"]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def take(self, rows: Int[Tensor, " items"]) -> Padded:
        """See `Inputs.take`; ids are padded with 0, the id of ``<pad>``."""
        starts = self.ends[rows]
        lengths = self.ends[rows + 1] - starts
        positions = torch.arange(int(lengths.max()))
        # Positions past a caption's end are clamped to some valid place first and zeroed afterwards.
        values = self.ids[(starts[:, None] + positions).clamp(max=len(self.ids) - 1)].long()
        return Padded(values.masked_fill(positions >= lengths[:, None], 0), lengths)


def tokens_of(captions: Sequence[Sequence[int]]) -> Tokens:
    """Token ids of captions, each at least one, as `Tokens`."""
    ends = torch.tensor([0, *accumulate(len(caption) for caption in captions)])
    return Tokens(torch.tensor([*chain.from_iterable(captions)], dtype=torch.int32), ends)


@dataclass(frozen=True, eq=False)
class TokensWhenRead:
    """`Inputs` of texts that become token ids when they are asked for: of texts that are not in memory either.

    Attributes:
        texts: The captions.
        encode: Makes token ids of some of them.
    """

    texts: Sequence[str]
    encode: Callable[[Sequence[str]], Tokens]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Int[Tensor, " items"]) -> Padded:
        """See `Inputs.take`."""
        return self.encode([self.texts[row] for row in rows.tolist()]).take(torch.arange(len(rows)))


@dataclass(frozen=True)
class Tokenised:
    """Pairs whose captions are token ids of a pretrained network.

    Attributes:
        pairs: The pairs.
        cut: How many captions are longer than what the network reads; 0 where they are not read yet.
    """

    pairs: Pairs
    cut: int


def with_tokens(pairs: Pairs, reader: Callable[[Sequence[str]], tuple[list[list[int]], int]], where: str) -> Tokenised:
    """The same pairs, of whose captions a pretrained network reads tokens of its own.

    Args:
        pairs: With texts; where these stay on disk, tokens are made when they are asked for.
        reader: See `pretrained.captions.CaptionReader`.
        where: What an error calls the corpus.

    Raises:
        ConfigError: If there are no texts.
    """
    if not pairs.has_texts:
        raise ConfigError(
            f"{where} has no texts but only features, and model.text names a network that reads tokens: set it to "
            "'features', or name the texts"
        )
    if isinstance(pairs.captions, Texts):
        when_read = TokensWhenRead(pairs.captions, lambda captions: tokens_of(reader(captions)[0]))
        return Tokenised(replace(pairs, caption_inputs=when_read), 0)
    tokens, cut = reader(pairs.captions)
    return Tokenised(replace(pairs, caption_inputs=tokens_of(tokens)), cut)


@dataclass(frozen=True, eq=False)
class WordsAndVectors:
    """`Inputs` of captions that are read in two ways: as token ids, and as a frozen vector beside them.

    Attributes:
        words: Token ids of the captions.
        vectors: One vector a caption.
    """

    words: Inputs
    vectors: Inputs

    def __len__(self) -> int:
        return len(self.words)

    def take(self, rows: Int[Tensor, " items"]) -> Padded:
        """See `Inputs.take`."""
        return replace(self.words.take(rows), vectors=self.vectors.take(rows).values)
