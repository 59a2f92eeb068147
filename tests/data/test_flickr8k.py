import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from truepair.config import DataConfig
from truepair.config.source import SourceConfig
from truepair.data.corpora import Corpus, load_corpus
from truepair.data.pairs import Pairs, Splits
from truepair.errors import DataError

NAMES = [f"{number}.jpg" for number in (31, 12, 27, 45, 18, 9)]
LISTS = {"train": ["12.jpg", "31.jpg", "18.jpg"], "dev": ["27.jpg"], "test": ["45.jpg"]}  # 9.jpg is in no list
CAPTIONS = [(name, f"a dog in {name} , seen {k}") for name in NAMES for k in range(2)]


def write_lists(folder: Path, lists: dict[str, list[str]] = LISTS) -> None:
    for split, names in lists.items():
        (folder / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{name}\n" for name in names))


def write_tokens(folder: Path, captions: list[tuple[str, str]] = CAPTIONS) -> Path:
    folder.mkdir(exist_ok=True)
    lines, so_far = [], {}
    for name, caption in captions:
        so_far[name] = so_far.get(name, -1) + 1
        lines.append(f"{name}#{so_far[name]}\t{caption}\n")
    (folder / "Flickr8k.token.txt").write_text("".join(lines))
    return folder


def write_csv(folder: Path, captions: list[tuple[str, str]] = CAPTIONS) -> Path:
    folder.mkdir(exist_ok=True)
    rows = "".join(f'{name},"{caption}"\n' for name, caption in captions)
    (folder / "captions.txt").write_text(f"image,caption\n{rows}")
    return folder


def write_pictures(folder: Path, names: list[str] = NAMES) -> Path:
    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        written = io.BytesIO()
        Image.new("RGB", (8, 8), (10 * place, 0, 0)).save(written, "JPEG")
        (folder / name).write_bytes(written.getvalue())
    return folder


def write_features(path: Path, images: int = 6) -> Path:
    """Row k is full of k: two regions of three values."""
    np.save(path, np.arange(images, dtype=np.float32).repeat(6).reshape(images, 2, 3))
    return path


def load(folder: Path, features: Path | None = None, image_root: Path | None = None, **options: object) -> Corpus:
    source = SourceConfig(image_root=None if image_root is None else str(image_root))
    image_features = None if features is None else str(features)
    config = DataConfig(str(folder), source=source, image_features=image_features, minimum_word_count=1, **options)
    return load_corpus(config)


def parts(splits: Splits) -> list[Pairs]:
    return [splits.train, splits.dev, splits.test]


def first_values(pairs: Pairs) -> list[float]:
    return pairs.images.take(torch.arange(len(pairs.images))).values[:, 0, 0].tolist()


def test_the_token_file_and_the_lists_make_the_official_splits(tmp_path):
    folder = write_tokens(tmp_path / "flickr8k")
    write_lists(folder)
    splits = load(folder, write_features(tmp_path / "f.npy")).splits
    assert splits.name == "flickr8k"
    assert [list(pairs.image_ids) for pairs in parts(splits)] == [
        ["31.jpg", "12.jpg", "18.jpg"],
        ["27.jpg"],
        ["45.jpg"],
    ]
    # Row k of the features is the k-th image of the caption file, listed or not.
    assert [first_values(pairs) for pairs in parts(splits)] == [[0.0, 1.0, 4.0], [2.0], [3.0]]
    assert splits.train.image_of_caption.tolist() == [0, 0, 1, 1, 2, 2]
    assert splits.dev.captions == ["a dog in 27.jpg , seen 0", "a dog in 27.jpg , seen 1"]
    assert splits.test.caption_ids == ["45.jpg#0", "45.jpg#1"]
    with pytest.raises(DataError, match="missing picture"):  # features are enough, until a picture is looked at
        splits.train.pictures[0]
    assert splits.train.true_image_of_caption is None


def test_both_distributions_are_the_same_pairs(tmp_path):
    features = write_features(tmp_path / "f.npy")
    read = []
    for folder in (write_tokens(tmp_path / "tokens"), write_csv(tmp_path / "csv")):
        write_lists(folder)
        read.append(parts(load(folder, features).splits))
    for tokens, table in zip(*read, strict=True):
        assert (tokens.captions, tokens.image_of_caption.tolist(), list(tokens.image_ids), first_values(tokens)) == (
            table.captions,
            table.image_of_caption.tolist(),
            list(table.image_ids),
            first_values(table),
        )
    # The table has no ids of captions: they are called by their rows.
    assert read[0][1].caption_ids == ["27.jpg#0", "27.jpg#1"]
    assert read[1][1].caption_ids == ["row-5", "row-6"]


def test_without_lists_images_are_split_at_random_by_a_seed(tmp_path):
    names = [f"{number}.jpg" for number in range(20)]
    folder = write_csv(tmp_path / "csv", [(name, "a dog") for name in names for _ in range(5)])
    features = write_features(tmp_path / "f.npy", 20)

    def tests(seed: int) -> list[str]:
        splits = load(folder, features, development_share=0.2, test_share=0.3, split_seed=seed).splits
        assert [len(pairs.images) for pairs in parts(splits)] == [10, 4, 6]
        assert [len(pairs) for pairs in parts(splits)] == [50, 20, 30]
        assert sorted(name for pairs in parts(splits) for name in pairs.image_ids) == sorted(names)
        for pairs in parts(splits):
            assert [f"{int(value)}.jpg" for value in first_values(pairs)] == list(pairs.image_ids)
        return list(splits.test.image_ids)

    assert tests(1) == tests(1)
    assert tests(1) != tests(2)


@pytest.mark.parametrize("place", ["Images", "Flicker8k_Dataset", "Flickr8k_Dataset", None])
def test_pictures_are_found_where_the_distributions_have_them(tmp_path, place):
    folder = write_tokens(tmp_path / "flickr8k")
    write_lists(folder)
    pictures = write_pictures(tmp_path / "elsewhere" if place is None else folder / place)
    splits = load(folder, image_root=None if place else pictures).splits
    assert splits.train.images.take(torch.tensor([0])).values.shape == (1, 36, 192)
    assert splits.dev.pictures[0] == (pictures / "27.jpg").read_bytes()


def test_images_without_a_picture_file_are_left_out_and_listed(tmp_path):
    folder = write_tokens(tmp_path / "flickr8k")
    write_lists(folder)
    write_pictures(folder / "Images", [name for name in NAMES if name not in ("12.jpg", "9.jpg")])
    corpus = load(folder)
    assert corpus.splits.train.image_ids == ["31.jpg", "18.jpg"]
    assert [(skip.reason, skip.caption_ids) for skip in corpus.skipped] == [
        ("missing picture", ("12.jpg#0", "12.jpg#1")),
        ("missing picture", ("9.jpg#0", "9.jpg#1")),
    ]


def test_the_image_with_a_copy_number_has_its_own_name_again(tmp_path):
    odd = [("31.jpg.1" if name == "31.jpg" else name, caption) for name, caption in CAPTIONS]
    folder = write_tokens(tmp_path / "flickr8k", odd)
    write_lists(folder)
    splits = load(folder, write_features(tmp_path / "f.npy")).splits
    assert splits.train.image_ids[0] == "31.jpg"
    assert splits.train.caption_ids[:2] == ["31.jpg.1#0", "31.jpg.1#1"]


def test_images_that_only_the_lists_or_only_the_captions_have_are_left_out_and_counted(tmp_path):
    names = [f"{number}.jpg" for number in range(14)]
    folder = write_tokens(tmp_path / "flickr8k", [(name, "a dog") for name in names])
    features = write_features(tmp_path / "f.npy", 14)
    lists = {"train": [*names[:9], "77.jpg", ""], "dev": [names[9]], "test": [names[10]]}
    write_lists(folder, lists)
    corpus = load(folder, features)
    assert [list(pairs.image_ids) for pairs in parts(corpus.splits)] == [names[:9], [names[9]], [names[10]]]
    assert corpus.notes == (
        "1 of the 10 images of Flickr_8k.trainImages.txt have no captions and are left out",
        f"3 of the 14 images of {folder} are in no split list and are left out",
    )
    write_lists(folder, {**lists, "train": [*names[:8], "77.jpg"]})
    message = (
        r"1 of the 9 images of Flickr_8k.trainImages.txt have no captions in .*flickr8k \(the first is "
        r"'77.jpg'; the first with captions is '0.jpg'\); are they of the same corpus, and is the caption file whole\?"
    )
    with pytest.raises(DataError, match=message):
        load(folder, features)


def test_what_the_lists_left_out_is_not_noted_where_there_is_nothing_or_no_list(tmp_path):
    folder, features = write_tokens(tmp_path / "flickr8k"), write_features(tmp_path / "f.npy")
    assert load(folder, features, development_share=0.2, test_share=0.2).notes == ()
    write_lists(folder, {**LISTS, "dev": [*LISTS["dev"], "9.jpg"]})
    assert load(folder, features).notes == ()


def test_images_whose_pictures_are_unreadable_are_not_counted_as_without_captions(tmp_path):
    folder = write_tokens(tmp_path / "flickr8k")
    write_lists(folder, {**LISTS, "dev": [*LISTS["dev"], "9.jpg"]})
    write_pictures(folder / "Images", [name for name in NAMES if name != "12.jpg"])
    corpus = load(folder)
    assert [skip.caption_ids for skip in corpus.skipped] == [("12.jpg#0", "12.jpg#1")]
    assert corpus.notes[0] == f"pictures are looked for in {folder / 'Images'} (--image-root for another)"
    assert not any("without captions" in note or "have no captions" in note for note in corpus.notes)


@pytest.mark.parametrize("write", [write_tokens, write_csv])
def test_line_ends_of_windows_and_a_byte_order_mark_change_nothing(tmp_path, write):
    folder, features = write(tmp_path / "flickr8k"), write_features(tmp_path / "f.npy")
    write_lists(folder)
    before = load(folder, features).splits
    for path in folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    after = load(folder, features).splits
    for pairs, same in zip(parts(before), parts(after), strict=True):
        assert (pairs.captions, list(pairs.image_ids), list(pairs.caption_ids)) == (
            same.captions,
            list(same.image_ids),
            list(same.caption_ids),
        )


def test_features_of_captions_have_a_row_a_caption_of_the_file(tmp_path):
    folder = write_tokens(tmp_path / "flickr8k")
    write_lists(folder)
    np.save(tmp_path / "c.npy", np.arange(12, dtype=np.float32)[:, None])
    splits = load(folder, write_features(tmp_path / "f.npy"), caption_features=str(tmp_path / "c.npy")).splits
    assert splits.dev.caption_inputs.take(torch.arange(2)).vectors.tolist() == [[4.0], [5.0]]


@pytest.mark.parametrize("write", [write_tokens, write_csv])
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_caption_is_left_out_and_told_by_its_id(tmp_path, write, empty):
    folder = write(tmp_path / "flickr8k", [*CAPTIONS[:3], ("12.jpg", empty), *CAPTIONS[4:]])
    write_lists(folder)
    corpus = load(folder, write_features(tmp_path / "f.npy"))
    assert [len(pairs) for pairs in parts(corpus.splits)] == [5, 2, 2]
    (skip,) = corpus.skipped
    assert skip.reason == "empty caption"
    assert skip.where.endswith("12.jpg#1" if write is write_tokens else "row-4")


def test_a_caption_without_an_image_is_left_out_and_told(tmp_path):
    folder = write_csv(tmp_path / "flickr8k", [*CAPTIONS, ("", "a dog")])
    write_pictures(folder / "Images")
    write_lists(folder)
    (skip,) = load(folder).skipped
    assert (skip.reason, skip.caption_ids) == ("no picture named", ("row-13",))


def test_captions_of_any_length_are_kept(tmp_path):
    long = "dog " * 500 + "."
    folder = write_tokens(tmp_path / "flickr8k", [("31.jpg", long), *CAPTIONS])
    write_lists(folder)
    assert load(folder, write_features(tmp_path / "f.npy")).splits.train.captions[0] == long


@pytest.mark.parametrize("line", ["31.jpg#0 a dog", "31.jpg\ta dog", "#0\ta dog"])
def test_a_faulty_line_of_a_token_file_is_left_out_and_told(tmp_path, line):
    folder = write_tokens(tmp_path / "flickr8k")
    write_lists(folder)
    write_pictures(folder / "Images")
    with (folder / "Flickr8k.token.txt").open("a") as file:
        file.write(line + "\n")
    corpus = load(folder)
    assert [len(pairs) for pairs in parts(corpus.splits)] == [6, 2, 2]
    assert [(skip.reason, skip.detail) for skip in corpus.skipped] == [
        ("damaged row", f"{line!r}, but 'name.jpg#0', a tab, a caption is expected")
    ]


def test_ids_of_captions_that_are_there_twice_are_refused(tmp_path):
    (tmp_path / "Flickr8k.token.txt").write_text("12.jpg#0\ta cat\n12.jpg#0\ta dog\n")
    with pytest.raises(DataError, match=r"two captions have the id '12.jpg#0'"):
        load(tmp_path, write_features(tmp_path / "f.npy"))


def test_caption_files_without_captions_are_refused_and_other_delimiters_are_read(tmp_path):
    folder, features = tmp_path / "flickr8k", write_features(tmp_path / "f.npy")
    folder.mkdir()
    path = folder / "Flickr8k.token.txt"
    path.write_text("\n")
    with pytest.raises(DataError, match=r"is neither a table with a header nor a token file"):
        load(folder, features)
    rows = "".join(f"{name}| {caption}\n" for name, caption in CAPTIONS)
    path.rename(folder / "captions.txt").write_text(f"image_name| comment\n{rows}")
    write_lists(folder)
    corpus = load(folder, features)
    assert corpus.splits.dev.captions == ["a dog in 27.jpg , seen 0", "a dog in 27.jpg , seen 1"]
    assert any("has a vertical bar between its cells" in note for note in corpus.notes)


def test_two_caption_files_in_one_folder_are_refused(tmp_path):
    write_csv(write_tokens(tmp_path / "flickr8k"))
    with pytest.raises(DataError, match=r"has both Flickr8k.token.txt and captions.txt: keep one of them, or open one"):
        load(tmp_path / "flickr8k", write_features(tmp_path / "f.npy"))


def test_features_of_another_count_are_refused_with_both(tmp_path):
    folder = write_tokens(tmp_path / "flickr8k")
    message = r"f.npy has 5 rows but there are 6 distinct images in .*flickr8k, by first appearance"
    with pytest.raises(DataError, match=message):
        load(folder, write_features(tmp_path / "f.npy", 5))


def test_features_that_are_not_numbers_are_refused(tmp_path):
    features = write_features(tmp_path / "f.npy").read_bytes()
    (tmp_path / "f.npy").write_bytes(features[:-4] + np.float32("nan").tobytes())
    with pytest.raises(DataError, match=r"f.npy holds NaN or infinite values in 1 of 6 rows"):
        load(write_tokens(tmp_path / "flickr8k"), tmp_path / "f.npy")


def test_neither_pictures_nor_features_is_refused(tmp_path):
    folder = write_tokens(tmp_path / "flickr8k")
    with pytest.raises(DataError, match=rf"missing picture .*relative paths start at {folder}: .*with --image-root"):
        load(folder)


def test_lists_that_are_incomplete_contradict_each_other_or_fit_nothing_are_refused(tmp_path):
    folder, features = write_tokens(tmp_path / "flickr8k"), write_features(tmp_path / "f.npy")
    write_lists(folder, {**LISTS, "test": ["45.jpg", "12.jpg"]})
    message = r"testImages.txt, line 2: '12.jpg' is also in Flickr_8k.trainImages.txt; an image belongs to one split"
    with pytest.raises(DataError, match=message):
        load(folder, features)
    write_lists(folder, {**LISTS, "dev": []})
    with pytest.raises(DataError, match=r"flickr8k has no pairs in split dev \(there are: train, test\)"):
        load(folder, features)
    write_lists(folder, {split: [f"{split}.png"] for split in LISTS})
    with pytest.raises(DataError, match=r"1 of the 1 images of Flickr_8k.trainImages.txt .*the first is 'train.png'"):
        load(folder, features)
    (folder / "Flickr_8k.devImages.txt").unlink()
    with pytest.raises(DataError, match=r"some of the split lists, but not Flickr_8k.devImages.txt; add what is miss"):
        load(folder, features)
