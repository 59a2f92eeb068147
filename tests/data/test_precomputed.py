from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from truepair.data.features import FeatureFile
from truepair.data.pairs import Pairs
from truepair.data.precomputed import load_precomputed, load_precomputed_splits
from truepair.errors import ConfigError, DataError


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
def test_both_layouts_give_the_same_pairs(tmp_path, ids):
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
    with pytest.raises(DataError, match=r"train_caps.txt: caption 5 is empty; write one or leave the pair out"):
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
    for captions in (1, 3):
        with pytest.raises(DataError, match=r"train_ids.txt has 0 ids, but one an image"):
            load_precomputed(Folder(tmp_path, captions_per_image=captions).write(ids=[]), "train")


def _table(folder: Folder, lines: list[str]) -> Path:
    path = folder.write()
    (path / "train_caps.txt").unlink()
    (path / "train_caps.tsv").write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_table_of_captions_names_its_images(tmp_path):
    path = _table(Folder(tmp_path, captions_per_image=1), ["i\ta dog", 'j\t"a ""big"" cat"', 'k\t"a\tb"', "l\tit's"])
    pairs = load_precomputed(path, "train")
    assert pairs.captions == ["a dog", 'a "big" cat', "a\tb", "it's"]
    assert pairs.image_ids == ["i", "j", "k", "l"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_caption_in_quotation_marks_keeps_its_line_ends(tmp_path, end):
    path = _table(Folder(tmp_path, images=2, captions_per_image=1), [])
    (path / "train_caps.tsv").write_bytes(f'\ufeffi\t"a dog{end}and a cat"{end}j\ta bird{end}'.encode())
    pairs = load_precomputed(path, "train")
    assert pairs.captions == [f"a dog{end}and a cat", "a bird"]
    assert pairs.image_ids == ["i", "j"]


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("captions", [1, 2])
def test_an_ids_file_names_the_images_of_the_table_in_its_order(tmp_path, captions, repeated):
    folder = Folder(tmp_path, captions_per_image=captions, is_repeated=repeated)
    path = _table(folder, [f"{name}\ta dog" for name in "ijkl" for _ in range(captions)])
    for times in (1, captions):
        (path / "train_ids.txt").write_text("".join(f"{name}\n" * times for name in "ijkl"))
        pairs = load_precomputed(path, "train", captions_per_image=captions)
        assert list(pairs.image_ids) == ["i", "j", "k", "l"]
        (path / "train_ids.txt").write_text("".join(f"{name}\n" * times for name in "ikjl"))
        message = rf"train_ids.txt, line {times + 1} names 'k', but train_caps.tsv has 'j' there; .* put both in their"
        with pytest.raises(DataError, match=message):
            load_precomputed(path, "train", captions_per_image=captions)
    (path / "train_ids.txt").write_text("i\nj\nk\n")
    with pytest.raises(DataError, match=r"train_ids.txt has 3 ids, but one an image \(4\) or one a caption"):
        load_precomputed(path, "train", captions_per_image=captions)


@pytest.mark.parametrize(("line", "fields"), [("a cat", 1), ("j\ta\tcat", 3), ("j\ta cat\t", 3), ("", 0)])
def test_a_table_of_other_than_two_fields_is_refused_by_line(tmp_path, line, fields):
    path = _table(Folder(tmp_path, captions_per_image=1), ['i\t"a\ndog"', line, "k\ta", "l\tb"])
    with pytest.raises(DataError, match=rf"train_caps.tsv, line 3 has {fields} fields, but two are expected: an image"):
        load_precomputed(path, "train")


def test_a_table_without_a_caption_is_refused_by_its_number(tmp_path):
    folder = Folder(tmp_path, captions_per_image=1)
    with pytest.raises(DataError, match=r"train_caps.tsv: caption 3 is empty"):
        load_precomputed(_table(folder, ["i\ta dog", "j\ta cat", "k\t", "l\tb"]), "train")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["i\ta", 'j\t"a dog', "k\ta cat", "l\tb"], "2 captions .* 4 rows"),  # swallowed to the end of the file
        (["i\ta", 'j\t"a dog', 'k\t"a cat"', "l\tb"], "3 captions .* 4 rows"),  # to the next quotation mark
        (['i\t"a dog', *(f"{i}\t{'cat ' * 40}" for i in range(1000))], "line 797 cannot be parsed"),  # csv's limit
    ],
)
def test_an_open_quotation_mark_is_noticed_by_what_it_swallows(tmp_path, lines, message):
    path = _table(Folder(tmp_path, captions_per_image=1), lines)
    with pytest.raises(DataError, match=rf"{message}.*quotation mark .*left open"):
        load_precomputed(path, "train")


def test_a_caption_may_begin_with_a_quotation_mark_of_its_own(tmp_path):
    path = _table(Folder(tmp_path, captions_per_image=1), ["i\ta", 'j\t"so" it begins', "k\ta cat", "l\tb"])
    assert load_precomputed(path, "train").captions[1] == "so it begins"


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


def _splits(path: Path) -> Path:
    for split in ("train", "dev", "test"):
        Folder(path, is_repeated=split != "train").write(split)
    return path


def test_splits_may_be_of_unlike_layouts_and_have_other_names(tmp_path):
    path = _splits(tmp_path / "corpus")
    splits = load_precomputed_splits(path, captions_per_image=3)
    assert splits.name == "corpus"
    assert [len(pairs.images) for pairs in (splits.train, splits.dev, splits.test)] == [4, 4, 4]
    assert _everything(splits.train)[:3] == _everything(splits.dev)[:3] == _everything(splits.test)[:3]
    named = load_precomputed_splits(path, captions_per_image=3, names=("test", "dev", "train"))
    assert (named.train.image_ids[0], named.test.image_ids[0]) == ("test-0", "train-0")


@pytest.mark.parametrize("test", ["train", "dev"])
def test_a_test_split_that_is_trained_or_chosen_on_is_refused(tmp_path, test):
    with pytest.raises(
        ConfigError, match=rf"corpus are 'train', 'dev', '{test}', but .*another test split \(data.test_s"
    ):
        load_precomputed_splits(_splits(tmp_path / "corpus"), captions_per_image=3, names=("train", "dev", test))


@pytest.mark.parametrize(
    ("shape", "form"), [((12, 2, 4), "regions of 2 × 4"), ((12, 1, 5), "regions of 1 × 5"), ((12, 5), "vectors of 5")]
)
def test_splits_whose_features_differ_in_form_are_refused(tmp_path, shape, form):
    path = _splits(tmp_path / "corpus")
    np.save(path / "test_ims.npy", np.ones(shape, dtype=np.float32))
    message = f"images of 'test' are {form}, but those of 'train' are regions of 2 × 5; extract the features of all"
    with pytest.raises(DataError, match=message):
        load_precomputed_splits(path, captions_per_image=3)


@dataclass
class Corpus:
    """The three corpora of the papers with fewer images: the same files, regions and ids."""

    name: str
    images: dict[str, int]
    captions_per_image: int

    def write(self, path: Path, repeated: tuple[str, ...]) -> Path:
        path.mkdir(parents=True)
        for place, (split, images) in enumerate(self.images.items()):
            random = np.random.default_rng(place)
            features = random.standard_normal((images, 3, 4)).astype(np.float32)
            ids = [f"{place}{image:04d}" for image in range(images)]
            captions = [f"{name} seen {k}" for name in ids for k in range(self.captions_per_image)]
            times = self.captions_per_image if split in repeated else 1
            np.save(path / f"{split}_ims.npy", features.repeat(times, axis=0))
            (path / f"{split}_ids.txt").write_text("".join(f"{name}\n" * times for name in ids))
            if self.name == "cc152k_precomp":
                rows = [f"{name}\t{caption}\n" for name, caption in zip(ids, captions, strict=True)]
                (path / f"{split}_caps.tsv").write_text("".join(rows))
            else:
                (path / f"{split}_caps.txt").write_text("".join(f"{caption}\n" for caption in captions))
        return path


CORPORA = [
    Corpus("f30k_precomp", {"train": 7, "dev": 4, "test": 3}, 5),
    Corpus("coco_precomp", {"train": 8, "dev": 3, "test": 2, "testall": 10}, 5),
    Corpus("cc152k_precomp", {"train": 20, "dev": 6, "test": 5}, 1),
]


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.name)
@pytest.mark.parametrize("repeated", [(), ("dev", "test", "testall"), ("train", "dev", "test", "testall"), ("train",)])
def test_the_corpora_of_the_papers_are_the_same_pairs_in_every_mixture_of_layouts(tmp_path, corpus, repeated):
    once, mixed = corpus.write(tmp_path / "once", ()), corpus.write(tmp_path / "mixed", repeated)
    for names in [("train", "dev", "test"), ("train", "dev", "testall")][: len(corpus.images) - 2]:
        expected, read = (
            load_precomputed_splits(path, captions_per_image=corpus.captions_per_image, names=names)
            for path in (once, mixed)
        )
        for split, pairs, same in zip(
            names,
            (read.train, read.dev, read.test),
            (expected.train, expected.dev, expected.test),
            strict=True,
        ):
            assert _everything(pairs) == _everything(same)
            images = corpus.images[split]
            assert (len(pairs.images), len(pairs)) == (images, images * corpus.captions_per_image)
            for caption, image in zip(pairs.captions, pairs.image_of_caption.tolist(), strict=True):
                assert caption.startswith(f"{pairs.image_ids[image]} ")
            values = np.load(once / f"{split}_ims.npy")
            assert pairs.images.take(torch.arange(images)).values.tolist() == values.tolist()


def test_cc152k_needs_no_number_of_captions(tmp_path):
    path = CORPORA[2].write(tmp_path / "cc152k", ())
    pairs = load_precomputed(path, "test")
    assert pairs.image_of_caption.tolist() == [0, 1, 2, 3, 4]
    assert (pairs.image_ids[1], pairs.captions[1]) == ("20001", "20001 seen 0")
    (path / "test_ids.txt").unlink()
    assert _everything(load_precomputed(path, "test"))[:4] == _everything(pairs)[:4]


def _with_caption_features(path: Path, *splits: str, rows: int = 12) -> Path:
    for split in splits:
        np.save(path / f"{split}_caps.npy", np.random.default_rng(len(split)).standard_normal((rows, 7)))
    return path


def test_caption_features_are_read_a_row_a_caption_and_from_disk(tmp_path):
    folder = Folder(tmp_path, is_repeated=True).write()
    assert load_precomputed(folder, "train", captions_per_image=3).caption_inputs is None
    _with_caption_features(folder, "train")
    pairs = load_precomputed(folder, "train", captions_per_image=3)
    assert isinstance(pairs.caption_inputs, FeatureFile)
    expected = torch.from_numpy(np.load(folder / "train_caps.npy")).float()
    torch.testing.assert_close(pairs.caption_inputs.take(torch.tensor([11, 0, 5])).values, expected[[11, 0, 5]])
    assert pairs.captions[11] == "image 3 text 2"


@pytest.mark.parametrize("rows", [4, 11, 13])
def test_caption_features_of_another_number_of_captions_are_refused(tmp_path, rows):
    folder = _with_caption_features(Folder(tmp_path).write(), "train", rows=rows)
    with pytest.raises(DataError, match=rf"train_caps.npy has {rows} rows, but the split has 12 captions"):
        load_precomputed(folder, "train", captions_per_image=3)


def test_caption_features_that_are_not_numbers_are_refused_unless_nothing_is_checked(tmp_path):
    folder = _with_caption_features(Folder(tmp_path).write(), "train")
    values = np.load(folder / "train_caps.npy")
    values[5, 2] = np.nan
    np.save(folder / "train_caps.npy", values)
    with pytest.raises(DataError, match=r"train_caps.npy holds NaN or infinite values in 1 of 12 rows \(first: row 5"):
        load_precomputed(folder, "train", captions_per_image=3)
    assert load_precomputed(folder, "train", captions_per_image=3, check_values=False).caption_inputs is not None


@pytest.mark.parametrize(
    ("present", "told"),
    [
        (("train",), "of the split train, but no dev_caps.npy, test_caps.npy"),
        (("train", "dev"), "of the split train and dev, but no test_caps.npy"),
        (("test",), "of the split test, but no train_caps.npy, dev_caps.npy"),
    ],
)
def test_caption_features_of_some_splits_only_are_refused_by_name(tmp_path, present, told):
    path = _with_caption_features(_splits(tmp_path / "corpus"), *present)
    with pytest.raises(DataError, match=rf"corpus has caption features {told}: make features of all splits, or take"):
        load_precomputed_splits(path, captions_per_image=3)


def test_caption_features_of_all_splits_have_one_width(tmp_path):
    path = _with_caption_features(_splits(tmp_path / "corpus"), "train", "dev", "test")
    assert load_precomputed_splits(path, captions_per_image=3).dev.caption_inputs is not None
    np.save(path / "dev_caps.npy", np.ones((12, 8)))
    with pytest.raises(DataError, match=r"caption_inputs of 'dev' are vectors of 8, but those of 'train' are vectors"):
        load_precomputed_splits(path, captions_per_image=3)
