import numpy as np
import pyarrow as pa
import pytest

from truepair.files.texts import Texts, chosen_texts

WORDS = ["a", "two dogs", "", "雪の中の犬 🐕‍🦺", "e", "f", "g"]


@pytest.fixture
def texts(tmp_path):
    """The words, in a mapped file of three batches."""
    with pa.ipc.new_file(str(tmp_path / "texts.arrow"), pa.schema([("text", pa.string())])) as file:
        for part in (WORDS[:3], WORDS[3:4], WORDS[4:]):
            file.write_batch(pa.record_batch([pa.array(part)], ["text"]))
    return Texts(pa.ipc.open_file(pa.memory_map(str(tmp_path / "texts.arrow"))).read_all()["text"])


def test_texts_are_those_of_the_file(texts):
    assert len(texts) == len(WORDS)
    assert [*texts] == WORDS
    assert [texts[place] for place in range(-7, 7)] == WORDS + WORDS
    assert [*texts[2:5]] == WORDS[2:5]
    assert [*texts[::-2]] == WORDS[::-2]


def test_chosen_texts_can_be_chosen_from(texts):
    some = texts.chosen(np.array([6, 0, 3, 3]))
    assert [*some] == [some[place] for place in range(4)] == ["g", "a", WORDS[3], WORDS[3]]
    assert [*chosen_texts(some, np.array([2, 0]))] == [WORDS[3], "g"]
    assert chosen_texts(WORDS, np.array([1, 1])) == ["two dogs", "two dogs"]


def test_more_texts_than_are_read_at_a_time():
    many = [str(number) for number in range(10_000)]
    texts = Texts(pa.chunked_array([many[:7000], many[7000:]]))
    assert [*texts] == many
    assert [*texts.chosen(np.arange(10_000)[::-1])] == many[::-1]


@pytest.mark.parametrize("place", [7, -8])
def test_places_that_are_not_there_are_refused(texts, place):
    with pytest.raises(IndexError, match=f"text {place} of 7"):
        texts[place]


def test_names_made_of_long_texts_are_short_and_differ():
    from truepair.files.names import slug

    names = [slug("option 0.1, " * 40 + end) for end in ("a", "b")]
    assert len({*names}) == 2
    assert all(len(name) <= 80 for name in names)
    assert names[0].startswith("option_0_1_option_0_1")
