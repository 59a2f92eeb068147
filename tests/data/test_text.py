import json
import pickle
import random
from dataclasses import replace

import pytest
import torch

from truepair.data.features import Features
from truepair.data.pairs import Pairs
from truepair.data.text import (
    SPECIAL_WORDS,
    Tokens,
    Vocabulary,
    WordsAndVectors,
    check_vocabulary,
    load_vocabulary,
    tokenised,
    words_of,
)
from truepair.errors import DataError


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("Two dogs .", ["two", "dogs", "."]),
        ("Two dogs.", ["two", "dogs", "."]),
        ("  a\tdog\u00a0runs \n", ["a", "dog", "runs"]),
        ("a man's dog isn't there", ["a", "man", "'s", "dog", "is", "n't", "there"]),
        ("a man\u2019s dog can\u2019t", ["a", "man", "'s", "dog", "ca", "n't"]),
        ("they're sure we'll say I've", ["they", "'re", "sure", "we", "'ll", "say", "i", "'ve"]),
        ("I'd say I'm", ["i", "'d", "say", "i", "'m"]),
        ("rock'n'roll at five o'clock, O'Neill's", ["rock'n'roll", "at", "five", "o'clock", ",", "o'neill", "'s"]),
        ("dogs' bowls", ["dogs", "'", "bowls"]),
        ("a T-shirt in mid-air - the F-16", ["a", "t-shirt", "in", "mid-air", "-", "the", "f-16"]),
        ("1,000 people, 3.5 m, 3/4 at 10:30", ["1,000", "people", ",", "3.5", "m", ",", "3/4", "at", "10:30"]),
        ("black/white snow.the", ["black", "/", "white", "snow", ".", "the"]),
        ('"hi" (50%) #1 $10 &...', ['"', "hi", '"', "(", "50", "%", ")", "#", "1", "$", "10", "&", "..."]),
        ("Ein großer Hund", ["ein", "großer", "hund"]),
        ("Кошка на крыше", ["кошка", "на", "крыше"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("", []),
    ],
)
def test_words_of_follow_the_treebank_convention(caption, words):
    assert words_of(caption) == words


def test_no_caption_makes_a_special_word():
    assert not set(words_of(" ".join(SPECIAL_WORDS))) & set(SPECIAL_WORDS)


def test_building_orders_by_count_then_alphabet_whatever_the_order_of_captions():
    captions = ["b b b c", "a c", "a d"]
    expected = (*SPECIAL_WORDS, "b", "a", "c")
    assert Vocabulary.build(captions, minimum_count=2).words == expected
    random.Random(0).shuffle(captions)
    assert Vocabulary.build(captions, minimum_count=2).words == expected


def test_padding_is_0_and_unknown_and_masked_words_have_ids_of_their_own():
    vocabulary = Vocabulary.build(["dog"], minimum_count=1)
    assert [vocabulary.id_of[word] for word in SPECIAL_WORDS] == [0, 1, 2, 3, 4]
    assert (vocabulary.mask, len(vocabulary)) == (4, 6)


def test_a_vocabulary_without_frequent_words_is_refused():
    with pytest.raises(DataError, match=r"no word occurs 4 times in the 2 captions; lower data\.minimum_word_count"):
        Vocabulary.build(["a dog", "a cat"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("<pad>", "<start>", "<unk>", "<mask>", "dog"), "lacks <end>"),
        ((), "lacks <pad>, <start>, <end>, <unk>, <mask>"),
        (("dog", *SPECIAL_WORDS), "'dog' at id 0, but 0 is the id of '<pad>'"),
        ((*SPECIAL_WORDS, "dog", "dog"), "has 'dog' more than once"),
    ],
)
def test_a_vocabulary_that_cannot_encode_is_refused(words, message):
    with pytest.raises(DataError, match=message):
        Vocabulary(words)


def test_json_gives_the_same_vocabulary_back_in_the_fields_format():
    vocabulary = Vocabulary.build(["größer dog", "dog"], minimum_count=1)
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    content = json.loads(vocabulary.to_json())
    assert content["word2idx"]["dog"] == 5
    assert content["idx2word"]["5"] == "dog"
    assert content["idx"] == len(vocabulary) == 7


def test_a_published_vocabulary_gets_mask_appended(tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({"idx": 5, "word2idx": {"<end>": 2, "<pad>": 0, "dog": 4, "<unk>": 3, "<start>": 1}}))
    vocabulary = load_vocabulary(path)
    assert vocabulary.words == ("<pad>", "<start>", "<end>", "<unk>", "dog", "<mask>")
    assert vocabulary.encode(["dog cat"]).take(torch.tensor([0])).values.tolist() == [[1, 4, 3, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is not a JSON object with 'word2idx'"),
        ("{}", "is not a JSON object with 'word2idx'"),
        ("[1]", "is not a JSON object with 'word2idx'"),
        ('{"word2idx": ["a"]}', "is not a JSON object with 'word2idx'"),
        ('{"word2idx": {"<pad>": 0, "a": 2}}', "2 words need the ids 0 … 1.* word 1 is 'a' with id 2"),
        ('{"word2idx": {"<pad>": 0, "a": 1, "b": 1}}', "word 2 is 'b' with id 1"),
        ('{"word2idx": {"<pad>": 0, "<start>": 1, "<unk>": 2}}', "lacks <end>"),
    ],
)
def test_a_damaged_vocabulary_file_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "vocab.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"vocab.json:? .*{message}"):
        load_vocabulary(path)


def test_a_missing_or_binary_vocabulary_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot read the vocabulary"):
        load_vocabulary(tmp_path / "vocab.json")
    (tmp_path / "vocab.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot read the vocabulary"):
        load_vocabulary(tmp_path / "vocab.json")


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary((*SPECIAL_WORDS, "a", "dog", "runs"))  # a: 5, dog: 6, runs: 7


def test_tokens_are_wrapped_padded_and_in_the_order_asked_for(vocabulary):
    tokens = vocabulary.encode(["A dog runs", "dog", "a cat"])
    taken = tokens.take(torch.tensor([1, 0, 1]))
    assert len(tokens) == 3
    assert taken.values.dtype == torch.int64
    assert taken.values.tolist() == [[1, 6, 2, 0, 0], [1, 5, 6, 7, 2], [1, 6, 2, 0, 0]]
    assert taken.lengths.tolist() == [3, 5, 3]
    assert taken.mask.tolist() == (taken.values != 0).tolist()
    assert tokens.take(torch.tensor([2])).values.tolist() == [[1, 5, 3, 2]]


def test_tokens_are_as_wide_as_the_longest_caption_of_the_batch_and_last_captions_are_whole(vocabulary):
    tokens = vocabulary.encode(["a dog runs a dog runs", "a", "dog"])
    assert tokens.take(torch.tensor([2, 1])).values.tolist() == [[1, 6, 2], [1, 5, 2]]


def test_tokens_need_four_bytes_a_word_and_eight_a_caption(vocabulary):
    tokens = vocabulary.encode(["a dog runs"] * 100)
    assert tokens.ids.nbytes == 4 * 500
    assert tokens.ends.nbytes == 8 * 101


def test_tokens_travel_to_worker_processes(vocabulary):
    copy: Tokens = pickle.loads(pickle.dumps(vocabulary.encode(["a dog", "runs"])))
    assert copy.take(torch.tensor([1])).values.tolist() == [[1, 7, 2]]


def test_long_captions_are_cut_before_the_end(vocabulary):
    taken = vocabulary.encode(["a dog runs", "a"], maximum_words=2).take(torch.tensor([0, 1]))
    assert taken.values.tolist() == [[1, 5, 6, 2], [1, 5, 2, 0]]
    with pytest.raises(DataError, match="maximum_words is 0"):
        vocabulary.encode(["a"], maximum_words=0)


def test_an_empty_caption_is_refused_by_number_and_name(vocabulary):
    with pytest.raises(DataError, match="caption 1 is empty: '  '"):
        vocabulary.encode(["a", "  "])
    with pytest.raises(DataError, match=r"caption 1 \('x.jpg#1'\) is empty"):
        vocabulary.encode(["a", ""], caption_ids=["x.jpg#0", "x.jpg#1"])


def test_tokenised_pairs_are_the_same_pairs_with_tokens(vocabulary):
    images = Features(torch.ones(1, 2).numpy())
    pairs = Pairs(images, ["a dog", "runs a dog"], torch.tensor([0, 0]), ["i"], ["c", "d"])
    result = tokenised(pairs, vocabulary, maximum_words=1)
    assert result.captions == pairs.captions
    assert result.caption_inputs.take(torch.tensor([1])).values.tolist() == [[1, 7, 2]]
    with pytest.raises(DataError, match=r"caption 1 \('d'\) is empty"):
        tokenised(Pairs(images, ["a", ""], torch.tensor([0, 0]), ["i"], ["c", "d"]), vocabulary)


def test_the_share_of_unknown_words_is_that_of_their_occurrences():
    captions = ["a dog", "a dog barks loudly", "a cat ."]  # 9 words
    vocabulary = Vocabulary((*SPECIAL_WORDS, "a", "dog", "."))
    share = check_vocabulary(vocabulary, captions, maximum_unknown_share=1 / 3, name="v.json")
    assert share == pytest.approx(3 / 9)
    tokens = vocabulary.encode(captions)
    assert int((tokens.ids == vocabulary.id_of["<unk>"]).sum()) == 3
    everything = Vocabulary.build(captions, minimum_count=1)
    assert check_vocabulary(everything, captions, maximum_unknown_share=0.0, name="v.json") == 0


def test_a_vocabulary_that_knows_too_little_is_refused_with_what_it_lacks():
    vocabulary = Vocabulary((*SPECIAL_WORDS, "ein", "hund"))
    message = (
        r"v.json does not know 75.0% of the words in the 2 training captions, more than data.maximum_unknown_share = "
        r"10.0% .most frequent: 'dog' .2., 'a' .1..; name the vocabulary of this corpus"
    )
    with pytest.raises(DataError, match=message):
        check_vocabulary(vocabulary, ["a dog", "ein dog"], maximum_unknown_share=0.1, name="v.json")


def captions_with_features(*captions):
    """Pairs of one image whose captions have the features (k, -k)."""
    count = torch.arange(len(captions), dtype=torch.float32)
    return Pairs(
        images=Features(torch.ones(1, 2).numpy()),
        captions=list(captions),
        image_of_caption=torch.zeros(len(captions), dtype=torch.int64),
        image_ids=["i"],
        caption_ids=[f"c{place}" for place in range(len(captions))],
        caption_inputs=Features(torch.stack([count, -count], 1).numpy()),
    )


def test_words_and_vectors_are_taken_together_in_the_order_asked_for(vocabulary):
    pairs = captions_with_features("a dog", "a", "dog runs a")
    words = vocabulary.encode(pairs.captions)
    both = WordsAndVectors(words, pairs.caption_inputs)
    rows = torch.tensor([2, 0, 2])
    taken = both.take(rows)
    assert len(both) == 3
    assert torch.equal(taken.values, words.take(rows).values)
    assert torch.equal(taken.lengths, words.take(rows).lengths)
    assert taken.vectors.tolist() == [[2, -2], [0, 0], [2, -2]]


def test_tokens_stand_in_place_of_features_or_beside_them(vocabulary):
    pairs = captions_with_features("a dog", "runs")
    rows = torch.arange(2)
    alone, beside = (tokenised(pairs, vocabulary, beside_features=both) for both in (False, True))
    assert isinstance(alone.caption_inputs, Tokens)
    assert alone.caption_inputs.take(rows).vectors is None
    assert torch.equal(beside.caption_inputs.take(rows).values, alone.caption_inputs.take(rows).values)
    assert beside.caption_inputs.take(rows).vectors.tolist() == [[0, 0], [1, -1]]
    assert (beside.captions, beside.caption_ids) == (pairs.captions, pairs.caption_ids)


def test_pairs_without_features_have_words_alone_whatever_is_asked_for(vocabulary):
    pairs = replace(captions_with_features("a dog", ""), caption_inputs=None)
    with pytest.raises(DataError, match=r"caption 1 \('c1'\) is empty"):
        tokenised(pairs, vocabulary, beside_features=True)
    said = tokenised(replace(pairs, captions=["a dog", "a"]), vocabulary, beside_features=True)
    assert isinstance(said.caption_inputs, Tokens)


def test_a_caption_with_features_may_be_without_words(vocabulary):
    pairs = captions_with_features("a dog", "  ")
    taken = tokenised(pairs, vocabulary, beside_features=True).caption_inputs.take(torch.tensor([1, 0]))
    assert taken.values.tolist() == [[1, 2, 0, 0], [1, 5, 6, 2]]
    assert taken.lengths.tolist() == [2, 4]
    assert taken.vectors.tolist() == [[1, -1], [0, 0]]
    assert vocabulary.encode(["", "a"], empty_allowed=True).take(torch.tensor([0])).values.tolist() == [[1, 2]]
    with pytest.raises(DataError, match=r"caption 1 \('c1'\) is empty: '  '"):
        tokenised(pairs, vocabulary)


def test_features_beside_words_are_cut_with_the_words_and_travel_to_worker_processes(vocabulary):
    pairs = tokenised(captions_with_features("a dog runs", "a"), vocabulary, maximum_words=1, beside_features=True)
    copy = pickle.loads(pickle.dumps(pairs.caption_inputs)).take(torch.tensor([0]))
    assert (copy.values.tolist(), copy.vectors.tolist()) == ([[1, 5, 2]], [[0, 0]])
    chosen = pairs.select(torch.tensor([1])).caption_inputs.take(torch.tensor([0]))
    assert (chosen.values.tolist(), chosen.vectors.tolist()) == ([[1, 5, 2]], [[1, -1]])
