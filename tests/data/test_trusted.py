from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from truepair.config import DataConfig, TrustedConfig
from truepair.data.batch import Padded
from truepair.data.features import Features
from truepair.data.pairs import Pairs, Splits
from truepair.data.precomputed import load_precomputed_splits
from truepair.data.text import Vocabulary, tokenised
from truepair.data.trusted import with_trusted
from truepair.errors import ConfigError, DataError

DEMO = DataConfig()


def split(name, images, captions_per_image=5, seed=0):
    count = images * captions_per_image
    features = np.random.default_rng(seed).standard_normal((images, 3)).astype(np.float32)
    return Pairs(
        images=Features(features),
        captions=[f"caption {k} of {name}" for k in range(count)],
        image_of_caption=torch.arange(images).repeat_interleave(captions_per_image),
        image_ids=[f"{name}-{k}" for k in range(images)],
        caption_ids=[f"{name}-caption-{k}" for k in range(count)],
        caption_inputs=Features(np.zeros((count, 2), dtype=np.float32)),
    )


@pytest.fixture
def splits():
    return Splits(split("train", 100), split("dev", 20, seed=1), split("test", 10, seed=2), "a corpus")


def take(splits, source, **options):
    return with_trusted(splits, TrustedConfig(source=source, **options), DEMO, None)


def test_without_a_source_nothing_changes(splits):
    taken = take(splits, "none")
    assert taken.trusted is None
    assert taken.splits is splits
    assert taken.notes == ()


def test_development_images_leave_with_all_their_captions(splits):
    taken = take(splits, "development", share=0.024)  # 12 of 500: two images and two captions of a third
    assert len(taken.trusted) == 12
    assert len(taken.trusted.images) == 3
    assert set(taken.trusted.image_ids).isdisjoint(taken.splits.dev.image_ids)
    assert len(taken.splits.dev.images) == 17
    assert len(taken.splits.dev) == 85
    assert taken.splits.train is splits.train
    assert "12 trusted pairs (2.40% of the training pairs) are from 3 development images" in taken.notes[0]


def test_trusted_pairs_stay_the_pairs_that_they_were(splits):
    for source in ("development", "training"):
        trusted = take(splits, source, share=0.02).trusted
        stored = splits.dev if source == "development" else splits.train
        image_of = dict(zip(stored.caption_ids, stored.image_of_caption.tolist(), strict=True))
        for caption, image in zip(trusted.caption_ids, trusted.image_of_caption.tolist(), strict=True):
            assert trusted.image_ids[image] == stored.image_ids[image_of[caption]]


def test_enough_development_images_stay(splits):
    with pytest.raises(DataError, match=r"can give 2 … 50: of its 20 images, 10 must stay .* at most 0\.1000"):
        take(splits, "development", share=0.12)
    assert len(take(splits, "development", share=0.1).splits.dev.images) == 10


def test_training_images_leave_with_all_their_captions(splits):
    taken = take(splits, "training", share=0.06)
    assert len(taken.trusted) == len(taken.trusted.images) == 30  # one caption each
    assert set(taken.trusted.image_ids).isdisjoint(taken.splits.train.image_ids)
    assert len(taken.splits.train) == 500 - 30 * 5
    assert len(taken.splits.train.images) == 70
    assert set(taken.trusted.caption_ids).isdisjoint(taken.splits.train.caption_ids)


@dataclass(frozen=True)
class Counted:
    """Rows that nobody reads."""

    count: int

    def __len__(self):
        return self.count

    def take(self, rows):
        return Padded(torch.zeros(len(rows), 2))


@pytest.mark.slow
def test_of_coco_534795_captions_remain_and_no_image_is_in_both():
    images = 113_287
    train = Pairs(
        images=Counted(images),
        captions=["a caption"] * (5 * images),
        image_of_caption=torch.arange(images).repeat_interleave(5),
        image_ids=[str(k) for k in range(images)],
        caption_ids=[str(k) for k in range(5 * images)],
        caption_inputs=Counted(5 * images),
    )
    share = 6_328 / len(train)
    taken = take(Splits(train, split("dev", 2), split("test", 2), "coco"), "training", share=share)
    assert len(taken.trusted) == 6_328
    assert len(taken.splits.train.images) == 106_959
    assert len(taken.splits.train) == 534_795
    assert set(taken.trusted.image_ids).isdisjoint(taken.splits.train.image_ids)


@pytest.mark.parametrize("source", ["development", "training"])
def test_the_seed_decides(splits, source):
    one, same, other = (take(splits, source, share=0.02, seed=seed).trusted.caption_ids for seed in (0, 0, 1))
    assert one == same
    assert one != other


@pytest.mark.parametrize(("source", "share"), [("training", 0.2), ("training", 0.001), ("development", 0.001)])
def test_more_or_fewer_than_there_can_be_is_an_error(splits, source, share):
    with pytest.raises(DataError, match="trusted pairs are wanted"):
        take(splits, source, share=share)


def table(tmp_path, ids, column="caption_id"):
    path = tmp_path / "checked.csv"
    path.write_text("\n".join([column, *ids]) + "\n")
    return str(path)


def test_a_file_names_training_pairs_whose_images_then_leave(splits, tmp_path):
    path = table(tmp_path, ["train-caption-7", "train-caption-0", "train-caption-7"])
    taken = take(splits, "file", path=path)
    assert taken.trusted.caption_ids == ["train-caption-0", "train-caption-7"]
    assert len(taken.splits.train) == 490
    assert "2 trusted pairs" in taken.notes[0]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["train-caption-1", "test-caption-3"], r"1 of 2 trusted pairs are in the test split \(test-caption-3\)"),
        (["dev-caption-0"], r"in the development split \(dev-caption-0\).*trusted\.source = 'development'"),
        (["nobody", *(f"no-{k}" for k in range(6))], r"7 of 7 .* not in the training split \(nobody, no-0, .*, …\)"),
        (["train-caption-1"], "names 1 pair"),
    ],
)
def test_a_file_that_names_other_pairs_is_refused_with_their_ids(splits, tmp_path, ids, message):
    with pytest.raises(DataError, match=message):
        take(splits, "file", path=table(tmp_path, ids))


def test_a_file_needs_its_column(splits, tmp_path):
    with pytest.raises(DataError, match="has no column caption_id, but pair"):
        take(splits, "file", path=table(tmp_path, ["train-caption-1"], "pair"))


def test_a_file_of_nearly_everything_leaves_nothing_to_learn(splits, tmp_path):
    path = table(tmp_path, [f"train-caption-{k}" for k in range(0, 500, 5)])
    with pytest.raises(DataError, match="all but 0 training pairs have trusted images"):
        take(splits, "file", path=path)


def region_folder(tmp_path, meta_seed):
    for name, images, seed in (("train", 6, 0), ("dev", 2, 1), ("test", 3, 2), ("meta", 3, meta_seed)):
        regions = np.random.default_rng(seed).standard_normal((images, 2, 4)).astype(np.float32)
        np.save(tmp_path / f"{name}_ims.npy", regions)
        (tmp_path / f"{name}_caps.txt").write_text("".join(f"the {name} picture {k}\n" for k in range(images)))
    return load_precomputed_splits(tmp_path), DataConfig(path=str(tmp_path))


def test_a_split_of_its_own_is_read_with_the_words_of_training(tmp_path):
    splits, data = region_folder(tmp_path, 3)
    vocabulary = Vocabulary.build(splits.train.captions, minimum_count=1)
    splits = replace(splits, train=tokenised(splits.train, vocabulary))
    taken = with_trusted(splits, TrustedConfig(source="split"), data, vocabulary)
    assert len(taken.trusted) == 3
    assert not taken.trusted.caption_inputs.take(torch.arange(3)).values.is_floating_point()
    assert taken.splits is splits


def with_caption_features(tmp_path, *names):
    """The folder of `region_folder` with a feature a caption, which counts, in these splits."""
    region_folder(tmp_path, 3)
    for name in names:
        count = len(np.load(tmp_path / f"{name}_ims.npy"))
        np.save(tmp_path / f"{name}_caps.npy", np.arange(count, dtype=np.float32)[:, None])
    return load_precomputed_splits(tmp_path), DataConfig(path=str(tmp_path))


@pytest.mark.parametrize("beside", [True, False])
def test_a_split_of_its_own_has_features_beside_its_words_if_training_has(tmp_path, beside):
    splits, data = with_caption_features(tmp_path, "train", "dev", "test", "meta")
    vocabulary = Vocabulary.build(splits.train.captions, minimum_count=1)
    splits = replace(splits, train=tokenised(splits.train, vocabulary, beside_features=beside))
    taken = with_trusted(splits, TrustedConfig(source="split"), data, vocabulary)
    captions = taken.trusted.caption_inputs.take(torch.arange(3))
    assert captions.lengths.tolist() == [6, 6, 6]  # <start> the meta picture k <end>
    if beside:
        assert captions.vectors.tolist() == [[0], [1], [2]]
    else:
        assert captions.vectors is None


def test_features_beside_the_words_of_training_only_are_refused(tmp_path):
    splits, data = with_caption_features(tmp_path, "train", "dev", "test")
    vocabulary = Vocabulary.build(splits.train.captions, minimum_count=1)
    splits = replace(splits, train=tokenised(splits.train, vocabulary, beside_features=True))
    with pytest.raises(DataError, match=r"caption_inputs of 'meta' are words, but .* are words beside vectors of 1"):
        with_trusted(splits, TrustedConfig(source="split"), data, vocabulary)


def test_a_split_that_shares_images_with_the_test_split_is_refused_with_their_ids(tmp_path):
    splits, data = region_folder(tmp_path, 2)  # the very features of the test split
    with pytest.raises(DataError, match=r"3 of 3 images of split 'meta' are in the test split .*0, .*1, .*2\)"):
        with_trusted(splits, TrustedConfig(source="split"), data, None)


@pytest.mark.parametrize("name", ["train", "dev", "test", "validation"])
def test_a_split_with_another_use_is_refused(tmp_path, name):
    splits, data = region_folder(tmp_path, 3)
    with pytest.raises(ConfigError, match=f"trusted.split is '{name}', but that split has another use"):
        with_trusted(splits, TrustedConfig(source="split", split=name), data, None)


def test_development_images_in_a_split_of_trusted_pairs_do_not_choose_the_checkpoint(tmp_path):
    splits, data = region_folder(tmp_path, 3)
    of_dev = np.load(tmp_path / "dev_ims.npy")
    np.save(tmp_path / "meta_ims.npy", np.concatenate([np.load(tmp_path / "meta_ims.npy")[:2], of_dev[1:]]))
    taken = with_trusted(splits, TrustedConfig(source="split"), data, None)
    assert taken.splits.dev.captions == ["the dev picture 0"]
    assert taken.notes[0].endswith("; 1 development images that are in it do not choose the checkpoint")
    np.save(tmp_path / "meta_ims.npy", np.concatenate([np.load(tmp_path / "meta_ims.npy")[:1], of_dev]))
    with pytest.raises(DataError, match="none would be left to choose a checkpoint by"):
        with_trusted(splits, TrustedConfig(source="split"), data, None)


def test_a_split_may_have_a_row_of_features_a_caption_as_the_files_of_mscns_authors(tmp_path):
    splits, data = region_folder(tmp_path, 3)
    repeated = np.load(tmp_path / "meta_ims.npy").repeat(5, axis=0)[:13]  # no multiple of five
    np.save(tmp_path / "meta_ims.npy", repeated)
    (tmp_path / "meta_caps.txt").write_text("".join(f"the meta picture {k}\n" for k in range(13)))
    data = replace(data, captions_per_image=5)
    taken = with_trusted(splits, TrustedConfig(source="split"), data, None)
    assert (len(taken.trusted), len(taken.trusted.images)) == (13, 13)


def test_a_split_needs_a_folder_of_region_features(splits):
    with pytest.raises(ConfigError, match="'demo' is no folder of region features, where meta_ims"):
        take(splits, "split")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, r"trusted\.share is 0\.0"),
        ({"seed": -1}, r"trusted\.seed is -1"),
        ({"source": "file"}, "if, and only if"),
        ({"source": "training", "path": "a.csv"}, "if, and only if"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrustedConfig(**options)
