from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from truepair.config import DataConfig, NoiseConfig
from truepair.data.corpora import load_corpus
from truepair.data.features import Features
from truepair.data.noise import NoiseLevel, inject_noise, noise_level, read_noise_index, write_noise_index
from truepair.data.pairs import Pairs
from truepair.errors import ConfigError, DataError


def _pairs(image_of_caption: list[int], images: int | None = None) -> Pairs:
    n, images = len(image_of_caption), images or max(image_of_caption) + 1
    return Pairs(
        images=Features(np.zeros((images, 1), dtype=np.float32)),
        captions=["a dog"] * n,
        image_of_caption=torch.tensor(image_of_caption),
        image_ids=[str(i) for i in range(images)],
        caption_ids=[str(i) for i in range(n)],
    )


def _grouped(images: int, captions_per_image: int) -> Pairs:
    return _pairs([i for i in range(images) for _ in range(captions_per_image)])


def _wrong(pairs: Pairs) -> int:
    return int((~pairs.is_clean).sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.37, 0.4, 0.5, 0.6, 0.8, 0.99])
@pytest.mark.parametrize(("images", "captions_per_image"), [(300, 1), (61, 5), (4, 5), (20, 2), (3, 7)])
def test_exactly_the_rate_is_mismatched_and_each_image_occurs_as_often(images, captions_per_image, rate, seed):
    pairs = _grouped(images, captions_per_image)
    noisy = inject_noise(pairs, rate, seed)
    assert noisy.image_of_caption.dtype == torch.int64
    assert _wrong(noisy) == round(rate * len(pairs))
    assert noisy.realised_noise_rate == pytest.approx(round(rate * len(pairs)) / len(pairs))
    assert Counter(noisy.image_of_caption.tolist()) == Counter(pairs.image_of_caption.tolist())
    torch.testing.assert_close(noisy.true_image_of_caption, pairs.image_of_caption)


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.6, 0.8])
def test_holds_at_the_size_of_flickr30k(rate):
    noisy = inject_noise(_grouped(29_000, 5), rate, seed=0)
    assert _wrong(noisy) == round(rate * 145_000)
    assert (noisy.image_of_caption.bincount() == 5).all()


def test_the_same_seed_and_the_same_file_give_the_same_noise(tmp_path):
    pairs = _grouped(20, 5)
    once, again, other = (inject_noise(pairs, 0.4, seed).image_of_caption for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    path = tmp_path / "index.npy"
    write_noise_index(path, inject_noise(pairs, 0.4, 3))
    assert np.load(path).dtype == np.int64
    read = read_noise_index(path, pairs, convention="per_caption")
    assert torch.equal(read.image_of_caption, once)
    assert torch.equal(read.true_image_of_caption, pairs.image_of_caption)
    assert read.realised_noise_rate == pytest.approx(0.4)


def test_every_caption_and_every_wrong_image_is_equally_likely():
    pairs, runs = _grouped(6, 2), 1000
    times_wrong, times_given = np.zeros(12), np.zeros((6, 6))
    for seed in range(runs):
        noisy = inject_noise(pairs, 0.5, seed)
        times_wrong += (~noisy.is_clean).numpy()
        np.add.at(times_given, (noisy.true_image_of_caption.numpy(), noisy.image_of_caption.numpy()), 1)
    assert abs(times_wrong / runs - 0.5).max() < 0.08  # standard error 0.016
    # On average 1 of the 2 captions of an image is wrong, spread over 5 other images.
    assert abs(times_given[~np.eye(6, dtype=bool)] / runs - 0.2).max() < 0.08  # standard error about 0.014


def test_captions_of_an_image_get_images_independently():
    noisy = inject_noise(_grouped(2000, 2), 0.99, seed=0).image_of_caption.view(-1, 2)
    assert (noisy[:, 0] == noisy[:, 1]).sum() < 10  # expected by chance: 1; all of them if images moved as a whole


def test_noise_is_not_drawn_from_the_stream_that_shuffles_the_first_epoch():
    noisy = inject_noise(_grouped(1000, 1), 0.4, seed=5)
    first = torch.from_numpy(np.random.default_rng((5, 0)).permutation(1000)[:400])
    assert abs(float((~noisy.is_clean[first]).double().mean()) - 0.4) < 0.1


@pytest.mark.parametrize("seed", range(20))
def test_an_image_with_half_of_the_captions_exchanges_all_of_them(seed):
    pairs = _pairs([0] * 8 + [1, 1, 1, 1, 2, 2, 3, 4])
    noisy = inject_noise(pairs, 0.99, seed)
    assert _wrong(noisy) == 16
    assert noisy.image_of_caption.bincount().tolist() == [8, 4, 2, 1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_a_frequent_image_gives_up_no_more_captions_than_others_can_take(seed):
    noisy = inject_noise(_pairs([0] * 10 + [1, 2, 3, 4]), 0.57, seed)
    assert _wrong(noisy) == 8
    assert int((~noisy.is_clean[:10]).sum()) == 4


@pytest.mark.parametrize(
    ("image_of_caption", "rate", "message"),
    [
        (
            [0, 1, 2, 3, 4],
            0.2,
            "1 of 5 captions (rate 0.2) cannot exchange images so that each gets another: one alone",
        ),
        ([0, 0, 0, 1], 0.75, "3 of 4 captions (rate 0.75) cannot exchange images so that each gets another: one image"),
        ([0, 0, 0, 0], 0.5, "one image owns more than half"),
    ],
)
def test_exchanges_that_do_not_exist_are_refused(image_of_caption, rate, message):
    with pytest.raises(DataError) as error:
        inject_noise(_pairs(image_of_caption), rate, seed=0)
    assert message in str(error.value)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(ConfigError, match=f"noise rate is {rate}"):
        inject_noise(_grouped(5, 2), rate, seed=0)


def test_noise_is_not_given_twice(tmp_path):
    noisy = inject_noise(_grouped(5, 2), 0.4, seed=0)
    with pytest.raises(DataError, match=r"40.0% of the pairs are already known not to match"):
        inject_noise(noisy, 0.2, seed=0)
    write_noise_index(tmp_path / "index.npy", noisy)
    with pytest.raises(DataError, match="already known"):
        read_noise_index(tmp_path / "index.npy", noisy, convention="per_caption")
    known_clean = inject_noise(_grouped(5, 2), 0.0, seed=0)
    assert _wrong(inject_noise(known_clean, 0.4, seed=0)) == 4


@pytest.mark.parametrize("seed", range(5))
def test_image_level_noise_moves_all_captions_of_an_image_together(seed):
    noisy = inject_noise(_grouped(10, 5), 0.4, seed, level="image")
    given = noisy.image_of_caption.view(10, 5)
    assert (given == given[:, :1]).all()
    assert int((given[:, 0] != torch.arange(10)).sum()) == 4
    assert given[:, 0].sort().values.tolist() == list(range(10))
    assert noisy.realised_noise_rate == pytest.approx(0.4)


def test_image_level_noise_leaves_images_without_captions_out():
    for seed in range(10):
        noisy = inject_noise(_pairs([1, 3, 3], images=5), 0.99, seed, level="image")
        assert noisy.image_of_caption.tolist() == [3, 1, 1]


def test_a_single_image_cannot_be_exchanged():
    with pytest.raises(DataError, match=r"1 of 10 images .* one alone has no partner"):
        inject_noise(_grouped(10, 5), 0.1, seed=0, level="image")


def test_a_per_image_index_replaces_images(tmp_path):
    path = tmp_path / "index.npy"
    np.save(path, np.array([2, 1, 0], dtype=np.int32))
    read = read_noise_index(path, _pairs([0, 0, 1, 2]), convention="per_image")
    assert read.image_of_caption.tolist() == [2, 2, 1, 0]
    assert read.image_of_caption.dtype == torch.int64
    assert read.realised_noise_rate == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("index", "convention", "message"),
    [
        (
            [0, 1],
            "per_caption",
            "has 2 entries, but convention='per_caption' needs 4 .*4 captions, per_image: 2 images",
        ),
        ([0, 0, 1, 1], "per_image", "has 4 entries, but convention='per_image' needs 2 .*per_caption: 4 captions"),
        ([0, 0, 1], "per_caption", "has 3 entries"),
        ([0, 2, 1, -1], "per_caption", "out of range at 2 of 4 entries .first: entry 1 is image 2, but there are 2 im"),
        ([0.0, 0.0, 1.0, 1.0], "per_caption", r"holds float64 \[4\], but a noise index is a list of integers"),
        ([[0, 0, 1, 1]], "per_caption", r"holds int64 \[1, 4\]"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path, index, convention, message):
    path = tmp_path / "index.npy"
    np.save(path, np.array(index))
    with pytest.raises(DataError, match=f"index.npy.*{message}"):
        read_noise_index(path, _pairs([0, 0, 1, 1]), convention=convention)


def test_a_pickled_index_is_refused(tmp_path):
    path = tmp_path / "index.npy"
    np.save(path, np.array([0, 0, 1, 1], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="pickled objects"):
        read_noise_index(path, _pairs([0, 0, 1, 1]), convention="per_caption")


# Hard noise: captions that are alike exchange images.


def likeness(pairs):
    """Mean TF-IDF cosine of each moved caption with the most like caption that its new image owned before."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(token_pattern=r"\w+").fit_transform(pairs.captions)
    found = []
    for caption in (~pairs.is_clean).nonzero().flatten().tolist():
        owned = (pairs.true_image_of_caption == pairs.image_of_caption[caption]).nonzero().flatten().tolist()
        found.append((vectors[owned] @ vectors[caption].T).max())
    return sum(found) / len(found)


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.95])
def test_hard_noise_moves_the_same_captions_to_images_of_like_captions(rate):
    pairs = load_corpus(DataConfig()).splits.train
    hard, random = inject_noise(pairs, rate, 0, partners="similar"), inject_noise(pairs, rate, 0)
    assert hard.realised_noise_rate == round(rate * len(pairs)) / len(pairs)
    assert torch.equal(hard.is_clean, random.is_clean)
    assert torch.equal(hard.image_of_caption.bincount(), pairs.image_of_caption.bincount())
    assert torch.equal(hard.image_of_caption, inject_noise(pairs, rate, 0, partners="similar").image_of_caption)
    assert likeness(hard) > likeness(random) + 0.15


def test_hard_noise_is_the_same_whatever_a_processor_makes_of_ties(monkeypatch):
    pairs, partition = load_corpus(DataConfig()).splits.train, np.argpartition
    once = inject_noise(pairs, 0.4, 0, partners="similar")

    def from_the_other_end(values, kth, axis):
        return values.shape[axis] - 1 - partition(np.flip(values, axis), kth, axis)

    monkeypatch.setattr(np, "argpartition", from_the_other_end)
    assert torch.equal(inject_noise(pairs, 0.4, 0, partners="similar").image_of_caption, once.image_of_caption)


def small(captions, owners):
    count = len(captions)
    return Pairs(
        images=Features(np.zeros((max(owners) + 1, 2), dtype=np.float32)),
        captions=captions,
        image_of_caption=torch.tensor(owners),
        image_ids=[str(i) for i in range(max(owners) + 1)],
        caption_ids=[str(i) for i in range(count)],
    )


@pytest.mark.parametrize("vocabulary", [1, 2, 4])
@pytest.mark.parametrize("seed", range(50))
def test_hard_noise_finds_an_exchange_whoever_owns_the_captions(seed, vocabulary):
    random = np.random.default_rng(seed)
    count = int(random.integers(4, 12))
    owners = [0] * (count // 2) + list(range(1, count - count // 2 + 1))
    captions = [" ".join(random.choice(["dog", "cat", "sun", "sea"][:vocabulary], 2)) for _ in range(count)]
    pairs = small(captions, owners)
    noisy = inject_noise(pairs, 0.99, seed, partners="similar")
    assert _wrong(noisy) == round(0.99 * count)
    assert torch.equal(noisy.image_of_caption.bincount(), pairs.image_of_caption.bincount())


def test_hard_noise_dissolves_a_swap_for_an_image_that_owns_most_of_what_is_left():
    captions = ["dog", "dog", "dog", "dog", "dog dog", "dog"]
    noisy = inject_noise(small(captions, [0, 0, 0, 1, 2, 2]), 0.999, 98, partners="similar")
    assert _wrong(noisy) == 6
    assert noisy.image_of_caption.bincount().tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("captions", "rate"), [(["a dog", "a cat", "a bird"], 0.0), (["", "!", "?"], 0.99), (["", "a dog", "..."], 0.99)]
)
def test_hard_noise_needs_neither_words_nor_anything_to_move(captions, rate):
    assert _wrong(inject_noise(small(captions, [0, 1, 2]), rate, 0, partners="similar")) == round(rate * 3)


def test_captions_of_the_same_text_do_not_exchange_where_others_are_free():
    captions = ["a dog", "a dog", "a dog runs", "a dog sits"]
    noisy = inject_noise(small(captions, [0, 1, 2, 3]), 0.99, 0, partners="similar")
    assert {noisy.image_of_caption[0].item(), noisy.image_of_caption[1].item()} == {2, 3}


def test_hard_noise_compares_single_captions():
    pairs = small(["a", "b"], [0, 1])
    with pytest.raises(ConfigError, match="'similar' at image level"):
        inject_noise(pairs, 0.5, 0, level="image", partners="similar")
    with pytest.raises(ConfigError, match=r"noise\.partners is 'similar'"):
        NoiseConfig(rate=0.1, level="image", partners="similar")
    with pytest.raises(ConfigError, match=r"noise\.index 'noise\.npy': use level 'caption' and no index"):
        NoiseConfig(index="noise.npy", partners="similar")


def _share_moved_together(pairs: Pairs) -> float | None:
    """The same as in `noise_level`, image by image."""
    given_of = {}
    for true, given in zip(pairs.true_image_of_caption.tolist(), pairs.image_of_caption.tolist(), strict=True):
        given_of.setdefault(true, []).append(given)
    lost = {true: given for true, given in given_of.items() if len(given) > 1 and set(given) != {true}}
    together = [len(set(given)) == 1 for given in lost.values()]
    return sum(together) / len(together) if together else None


def _moved(image_of_caption: list[int], given: list[int], images: int | None = None) -> Pairs:
    return replace(
        _pairs(given, images),
        image_of_caption=torch.tensor(given),
        true_image_of_caption=torch.tensor(image_of_caption),
    )


FIVE_AND_ONE = [i for i in range(60) for _ in range(5)] + [*range(60, 400)]
WITH_1000 = [0] * 1000 + [i for i in range(1, 301) for _ in range(5)]


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.8])
@pytest.mark.parametrize("level", ["caption", "image"])
@pytest.mark.parametrize(
    "image_of_caption",
    [[i for i in range(61) for _ in range(5)], [i for i in range(200) for _ in range(2)], FIVE_AND_ONE, WITH_1000],
    ids=["five", "two", "five and one", "a thousand and five"],
)
def test_the_level_is_found_that_the_noise_was_made_at(image_of_caption, level, rate):
    for seed in range(3):
        noisy = inject_noise(_pairs(image_of_caption), rate, seed, level=level)
        found = noise_level(noisy)
        assert found.level == level
        assert found.moved_together == pytest.approx(_share_moved_together(noisy))
        assert found.moved_together == 1 or level == "caption"


def test_an_image_level_index_of_either_convention_is_found_out(tmp_path):
    pairs = _grouped(100, 5)
    noisy = inject_noise(pairs, 0.4, seed=0, level="image")
    write_noise_index(tmp_path / "per_caption.npy", noisy)
    np.save(tmp_path / "per_image.npy", noisy.image_of_caption.numpy()[::5])
    for convention in ("per_caption", "per_image"):
        read = read_noise_index(tmp_path / f"{convention}.npy", pairs, convention=convention)
        assert noise_level(read) == NoiseLevel("image", 1.0)
        assert read.realised_noise_rate == pytest.approx(0.4)
    index = inject_noise(pairs, 0.4, seed=0).image_of_caption.numpy()
    np.save(tmp_path / "index.npy", index)
    assert noise_level(read_noise_index(tmp_path / "index.npy", pairs, convention="per_caption")).level == "caption"


def test_an_index_that_leaves_some_images_alone_or_gives_one_twice_has_a_level_too():
    given = [*range(100)]
    given[:40] = [1] * 20 + [*range(20, 40)]  # 0 and 2 to 19 are shown image 1, with all captions
    captions = [i for i in range(100) for _ in range(5)]
    assert noise_level(_moved(captions, [given[i] for i in captions])) == NoiseLevel("image", 1.0)


def test_half_of_the_images_moved_with_all_captions_is_mixed():
    captions = [i for i in range(100) for _ in range(5)]
    given = [(i + 50) % 100 if i < 10 else i for i in captions]
    given[250:300:5] = range(70, 80)  # one caption of each of ten others
    noisy = _moved(captions, given)
    found = noise_level(noisy)
    assert (found.level, found.moved_together) == ("mixed", 0.5)
    assert _share_moved_together(noisy) == 0.5
    assert found.in_words == "mixed levels: 50.0% of the images that lost captions lost all of them to one image"


def test_captions_that_all_moved_but_not_together_are_not_image_level():
    captions = [i for i in range(100) for _ in range(5)]
    apart = [(i + 1 + place % 5) % 100 for place, i in enumerate(captions)]  # each caption to another image
    assert noise_level(_moved(captions, apart)) == NoiseLevel("caption", 0.0)


@pytest.mark.parametrize("level", ["caption", "image"])
def test_with_one_caption_an_image_both_levels_are_the_same(level):
    found = noise_level(inject_noise(_grouped(300, 1), 0.4, seed=0, level=level))
    assert found == NoiseLevel("unknown", None)
    assert found.in_words == "level not known: no image of several captions lost one"
    only_ones = [*range(5), 5, 5, 5], [1, 2, 3, 4, 0, 5, 5, 5]  # the image of three captions kept them
    assert noise_level(_moved(*only_ones)) == NoiseLevel("unknown", None)


def test_what_chance_does_as_well_says_nothing_about_the_level():
    two = noise_level(_moved([0, 0, 1, 1], [1, 1, 0, 0]))  # the only exchange that there is
    assert two == NoiseLevel("unknown", 1.0)
    assert two.in_words.startswith("level not known, too few images: 100.0% of the images")
    assert noise_level(_moved([0, 0, 0], [1, 1, 1], images=2)) == NoiseLevel("unknown", 1.0)
    levels = Counter(noise_level(inject_noise(_grouped(10, 2), 0.5, seed)).level for seed in range(200))
    assert levels["caption"] >= 195
    assert noise_level(_moved([0] * 5 + [1] * 5, [1] + [0] * 4 + [1] * 4 + [0])) == NoiseLevel("caption", 0.0)


def test_without_noise_there_is_no_level_and_without_the_truth_none_is_known():
    assert noise_level(inject_noise(_grouped(10, 5), 0.0, seed=0)) == NoiseLevel("none", None)
    assert NoiseLevel("none", None).in_words == "no caption has a wrong image"
    assert noise_level(_grouped(10, 5)) is None


def test_the_level_does_not_depend_on_the_order_of_captions_or_the_numbers_of_images():
    noisy = inject_noise(_pairs(FIVE_AND_ONE), 0.6, seed=0)
    found = noise_level(noisy)
    assert noise_level(noisy.select(torch.randperm(len(noisy), generator=torch.manual_seed(0)))) == found
    renamed = torch.randperm(len(noisy.images), generator=torch.manual_seed(1))
    other = replace(
        noisy,
        image_of_caption=renamed[noisy.image_of_caption],
        true_image_of_caption=renamed[noisy.true_image_of_caption],
    )
    assert noise_level(other) == found
