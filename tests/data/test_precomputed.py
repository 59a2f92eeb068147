from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from truepair.data.features import FeatureFile
from truepair.data.pairs import Pairs
from truepair.data.precomputed import load_precomputed, load_precomputed_splits
from truepair.data.text import SPECIAL_WORDS, Vocabulary
from truepair.errors import DataError


@dataclass
class Folder:
    """Writes the files of one split."""

    path: Path
    images: int = 4
    captions_per_image: int = 3
    is_repeated: bool = False
    features: np.ndarray = field(init=False)
    captions: list[str] = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        self.features = random.standard_normal((self.images, 2, 5)).astype(np.float32)
        if self.is_repeated:
            self.features = self.features.repeat(self.captions_per_image, axis=0)
        self.captions = [f"image {i} text {j}" for i in range(self.images) for j in range(self.captions_per_image)]

    def write(self, split: str = "train", ids: list[str] | None = None) -> Path:
        self.path.mkdir(exist_ok=True)
        np.save(self.path / f"{split}_ims.npy", self.features)
        (self.path / f"{split}_caps.txt").write_text("".join(f"{caption}\n" for caption in self.captions))
        if ids is not None:
            (self.path / f"{split}_ids.txt").write_text("".join(f"{name}\n" for name in ids))
        return self.path


def _everything(pairs: Pairs) -> tuple[object, ...]:
    return (
        pairs.images.take(torch.arange(len(pairs.images))).values.tolist(),
        list(pairs.captions),
        pairs.image_of_caption.tolist(),
        list(pairs.image_ids),
        list(pairs.caption_ids),
    )


@pytest.mark.parametrize("ids", [None, ["a", "b", "c", "d"], [name for name in "abcd" for _ in range(3)]])
def test_c2_both_layouts_give_the_same_pairs(tmp_path, ids):
    folder = Folder(tmp_path / "once")
    once = load_precomputed(folder.write(ids=ids), "train", captions_per_image=3)
    repeated_folder = Folder(tmp_path / "repeated", is_repeated=True).write(ids=ids)
    repeated = load_precomputed(repeated_folder, "train", captions_per_image=3)
    assert _everything(once) == _everything(repeated)
    assert (len(repeated.images), len(repeated)) == (4, 12)
    assert _everything(once)[:3] == (folder.features.tolist(), folder.captions, [i for i in range(4) for _ in range(3)])
    assert once.true_image_of_caption is None


def test_one_row_an_image_is_read_from_the_file_as_it_is(tmp_path):
    assert isinstance(load_precomputed(Folder(tmp_path).write(), "train").images, FeatureFile)


def test_captions_per_image_is_inferred_when_counts_tell_it(tmp_path):
    folder = Folder(tmp_path).write()
    inferred, given = (load_precomputed(folder, "train", captions_per_image=k) for k in (None, 3))
    assert _everything(inferred) == _everything(given)


def test_as_many_rows_as_captions_are_one_caption_an_image(tmp_path):
    folder = Folder(tmp_path, captions_per_image=1).write()
    for given in (None, 1):
        pairs = load_precomputed(folder, "train", captions_per_image=given)
        assert pairs.image_of_caption.tolist() == [0, 1, 2, 3]


def test_repeated_rows_are_not_mistaken_for_images_of_their_own(tmp_path):
    folder = Folder(tmp_path, is_repeated=True).write()
    message = (
        r"train_ims.npy has as many rows as train_caps.txt has captions \(12\), but its first rows, which are "
        "identical, look like 3 captions an image; pass captions_per_image=3"
    )
    with pytest.raises(DataError, match=message):
        load_precomputed(folder, "train")
    assert len(load_precomputed(folder, "train", captions_per_image=1).images) == 12


@pytest.mark.parametrize("ids", [["a", "b", "c", "d"], [name for name in "abcd" for _ in range(3)]])
def test_ids_that_repeat_are_not_mistaken_for_images_of_their_own(tmp_path, ids):
    folder = Folder(tmp_path, images=12, captions_per_image=1).write(ids=ids)
    with pytest.raises(DataError, match=r"the ids in train_ids.txt look like 3 captions an image; pass captions_per"):
        load_precomputed(folder, "train")


def test_rows_that_should_repeat_but_differ_are_refused(tmp_path):
    folder = Folder(tmp_path, is_repeated=True)
    folder.features[10, 1, 4] += 1
    message = r"rows 9 to 11 of .*train_ims.npy differ, but .*captions_per_image=3 they should repeat one image"
    with pytest.raises(DataError, match=message):
        load_precomputed(folder.write(), "train", captions_per_image=3)
    with pytest.raises(DataError, match="rows 0 to 5 of"):  # another number of captions an image
        load_precomputed(Folder(tmp_path, is_repeated=True).write(), "train", captions_per_image=6)


def test_only_first_rows_are_read_of_repeated_ones_and_bad_values_are_named_by_the_row_of_the_file(tmp_path):
    folder = Folder(tmp_path, is_repeated=True)
    folder.features[6:9, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"train_ims.npy holds NaN .* 1 of 4 rows .first: row 6 of the array"):
        load_precomputed(folder.write(), "train", captions_per_image=3)
    pairs = load_precomputed(folder.write(), "train", captions_per_image=3, check_values=False)
    assert pairs.images.take(torch.tensor([2])).values.isnan().sum() == 1


@pytest.mark.parametrize("captions", [11, 13, 24])
def test_counts_that_do_not_fit_captions_per_image_are_refused(tmp_path, captions):
    folder = Folder(tmp_path)
    folder.captions = ["a dog"] * captions
    message = (
        rf"train_caps.txt has {captions} captions but 4 images × 3 = 12 were expected \(captions_per_image=3\); "
        "is the file truncated"
    )
    with pytest.raises(DataError, match=message):
        load_precomputed(folder.write(), "train", captions_per_image=3)


@pytest.mark.parametrize("captions", [3, 11])
def test_counts_that_do_not_divide_are_refused(tmp_path, captions):
    folder = Folder(tmp_path)
    folder.captions = ["a dog"] * captions
    with pytest.raises(
        DataError, match=f"train_caps.txt has {captions} captions and train_ims.npy 4 rows, which is no"
    ):
        load_precomputed(folder.write(), "train")


def test_repeated_rows_that_are_not_whole_groups_are_refused(tmp_path):
    folder = Folder(tmp_path, images=4, captions_per_image=1).write()
    with pytest.raises(DataError, match=r"not whole groups of 3 \(captions_per_image=3\)"):
        load_precomputed(folder, "train", captions_per_image=3)
    with pytest.raises(DataError, match="captions_per_image is 0"):
        load_precomputed(folder, "train", captions_per_image=0)


@pytest.mark.parametrize("text", ["", "  \t"])
def test_an_empty_caption_is_refused_by_file_and_line(tmp_path, text):
    folder = Folder(tmp_path)
    folder.captions[4] = text
    with pytest.raises(DataError, match=r"train_caps.txt, line 5: the caption is empty"):
        load_precomputed(folder.write(), "train")


def test_only_a_line_feed_ends_a_caption(tmp_path):
    folder = Folder(tmp_path)
    folder.captions[0] = "one\u2028two\x0bthree\x85four"
    path = folder.write()
    file = path / "train_caps.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert load_precomputed(path, "train").captions == folder.captions


def test_captions_of_another_encoding_are_refused_by_line(tmp_path):
    path = Folder(tmp_path).write()
    (path / "train_caps.txt").write_bytes(b"a dog\na caf\xe9\n")
    with pytest.raises(DataError, match=r"train_caps.txt, line 2 is not UTF-8"):
        load_precomputed(path, "train")


def test_ids_name_images_and_their_captions(tmp_path):
    pairs = load_precomputed(Folder(tmp_path).write(ids=["a", "b", "c", "d"]), "train")
    assert pairs.image_ids == ["a", "b", "c", "d"]
    assert pairs.caption_ids[:4] == ["a#0", "a#1", "a#2", "b#0"]
    nameless = load_precomputed(Folder(tmp_path / "b").write(), "train")
    assert nameless.image_ids[1] == "train-1"
    assert nameless.caption_ids[3] == "train-1#0"


def test_ids_may_name_captions(tmp_path):
    names = [str(100 + i) for i in range(12)]
    pairs = load_precomputed(Folder(tmp_path).write(ids=names), "train")
    assert pairs.caption_ids == names
    assert pairs.image_ids == ["train-0", "train-1", "train-2", "train-3"]


def test_duplicate_image_ids_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"train_ids.txt gives images 1 and 3 .* the same id 'b'"):
        load_precomputed(Folder(tmp_path).write(ids=["a", "b", "c", "b"]), "train")
    names = [name for name in "abcb" for _ in range(3)]
    with pytest.raises(DataError, match="gives images 1 and 3"):
        load_precomputed(Folder(tmp_path).write(ids=names), "train")


def test_ids_that_contradict_the_captions_are_refused(tmp_path):
    message = r"train_ids.txt, line 9 names 'c', but line 7, the first of the same image, names 'b'; is captions_per"
    with pytest.raises(DataError, match=message):
        load_precomputed(Folder(tmp_path).write(ids=list("aaabbbbbcddd")), "train")


def test_ids_of_another_count_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"train_ids.txt has 5 ids, but one an image \(4\) or one a caption \(12\)"):
        load_precomputed(Folder(tmp_path).write(ids=list("abcde")), "train")


def _table(folder: Folder, lines: list[str]) -> Path:
    path = folder.write()
    (path / "train_caps.txt").unlink()
    (path / "train_caps.tsv").write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_table_of_captions_names_its_images(tmp_path):
    path = _table(Folder(tmp_path, captions_per_image=1), ["i\ta dog", 'j\t"a ""big"" cat"', "k\ta\tb", "l\tit's"])
    pairs = load_precomputed(path, "train")
    assert pairs.captions == ["a dog", 'a "big" cat', "a", "it's"]
    assert pairs.image_ids == ["i", "j", "k", "l"]
    (path / "train_ids.txt").write_text("p\nq\nr\ns\n")
    assert load_precomputed(path, "train").image_ids == ["p", "q", "r", "s"]


def test_a_table_without_tabs_or_captions_is_refused_by_line(tmp_path):
    folder = Folder(tmp_path, captions_per_image=1)
    with pytest.raises(DataError, match=r"train_caps.tsv, line 2 has no tab"):
        load_precomputed(_table(folder, ["i\ta dog", "a cat", "k\ta", "l\tb"]), "train")
    with pytest.raises(DataError, match=r"train_caps.tsv, line 3: the caption is empty"):
        load_precomputed(_table(folder, ["i\ta dog", "j\ta cat", "k\t", "l\tb"]), "train")


def test_an_open_quotation_mark_that_swallows_the_table_is_refused(tmp_path):
    path = _table(Folder(tmp_path, captions_per_image=1), ['i\t"a dog', *(f"{i}\t{'cat ' * 40}" for i in range(1000))])
    with pytest.raises(DataError, match=r"train_caps.tsv is not a table of tabs .* is a quotation mark left open"):
        load_precomputed(path, "train")


def test_a_split_needs_exactly_one_caption_file(tmp_path):
    path = Folder(tmp_path).write()
    (path / "train_caps.tsv").write_text("")
    with pytest.raises(DataError, match=r"needs train_caps.txt or train_caps.tsv, but has both"):
        load_precomputed(path, "train")
    for file in path.glob("*caps*"):
        file.unlink()
    with pytest.raises(DataError, match=r"but has neither; is 'train' the name of a split"):
        load_precomputed(path, "train")
    with pytest.raises(DataError, match=r"cannot read .*val_ims.npy"):
        load_precomputed(path, "val")


def test_a_vocabulary_makes_tokens(tmp_path):
    vocabulary = Vocabulary((*SPECIAL_WORDS, "image", "text"))
    pairs = load_precomputed(Folder(tmp_path).write(), "train", vocabulary=vocabulary, maximum_words=3)
    assert pairs.caption_inputs.take(torch.tensor([11])).values.tolist() == [[1, 5, 3, 6, 2]]


def _splits(path: Path) -> Path:
    for split in ("train", "dev", "test"):
        Folder(path, is_repeated=split != "train").write(split)
    return path


def test_splits_share_the_vocabulary_of_the_training_captions(tmp_path):
    path = _splits(tmp_path / "corpus")
    captions = path / "dev_caps.txt"
    captions.write_text(captions.read_text().replace("text", "unseen"))
    splits, vocabulary = load_precomputed_splits(path, captions_per_image=3, minimum_count=12)
    assert splits.name == "corpus"
    assert vocabulary.words == (*SPECIAL_WORDS, "image", "text")
    assert [len(pairs.images) for pairs in (splits.train, splits.dev, splits.test)] == [4, 4, 4]
    rows = torch.tensor([0])
    assert splits.test.caption_inputs.take(rows).values.tolist() == [[1, 5, 3, 6, 3, 2]]
    assert splits.dev.caption_inputs.take(rows).values.tolist() == [[1, 5, 3, 3, 3, 2]]


def test_splits_may_use_a_published_vocabulary_and_other_names(tmp_path):
    path = _splits(tmp_path / "corpus")
    (path / "vocab.json").write_text(Vocabulary((*SPECIAL_WORDS, "text")).to_json())
    splits, vocabulary = load_precomputed_splits(
        path, captions_per_image=3, vocabulary=path / "vocab.json", names=("test", "dev", "train"), maximum_words=2
    )
    assert vocabulary.words == (*SPECIAL_WORDS, "text")
    assert splits.train.image_ids[0] == "test-0"
    assert splits.train.caption_inputs.take(torch.tensor([0])).values.tolist() == [[1, 3, 3, 2]]


def test_splits_whose_features_differ_in_width_are_refused(tmp_path):
    path = _splits(tmp_path / "corpus")
    other = Folder(path)
    other.features = other.features[..., :4]
    other.write("test")
    with pytest.raises(DataError, match=r"images of 'test' are regions of width 4, but those of 'train' .* width 5"):
        load_precomputed_splits(path, captions_per_image=3)
