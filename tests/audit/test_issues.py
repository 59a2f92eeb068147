import io
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from latent_factors import latent_factor_pairs
from picture_bytes import PictureBytes
from PIL import Image

from truepair.audit import issues as module
from truepair.audit.image_facts import image_facts
from truepair.audit.issues import Issue, issues_of, issues_table, near_duplicates
from truepair.sources.facts import PictureFacts


def scene(seed, size=(96, 64), kind="PNG", quality=95):
    """A smooth random picture: blobs, as a photograph is to a difference hash."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((288, 192), Image.Resampling.BICUBIC).resize(size)
    written = io.BytesIO()
    picture.save(written, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return written.getvalue()


def plain(colour, size=(50, 50)):
    written = io.BytesIO()
    Image.new("RGB", size, colour).save(written, "PNG")
    return written.getvalue()


def world(pictures, captions, image_of_caption=None):
    pairs = latent_factor_pairs(len(captions), world_seed=0, draw_seed=0).pairs
    images = torch.arange(len(captions)) if image_of_caption is None else torch.tensor(image_of_caption)
    names = [f"picture-{place}" for place in range(len(pairs.images))]
    filled = [*pictures, *(scene(1000 + extra) for extra in range(len(pairs.images) - len(pictures)))]
    return replace(
        pairs,
        captions=captions,
        image_of_caption=images,
        true_image_of_caption=None,
        image_ids=names,
        pictures=PictureBytes(filled),
    )


def slowly(hashes):
    """Groups of pictures linked by hashes that differ in 3 bits at most, by comparing all with all."""
    groups = [{place} for place in range(len(hashes))]
    for one in range(len(hashes)):
        for other in range(one):
            if (int(hashes[one]) ^ int(hashes[other])).bit_count() <= 3:
                a, b = (next(group for group in groups if place in group) for place in (one, other))
                if a is not b:
                    a |= b
                    groups.remove(b)
    return sorted(sorted(group) for group in groups if len(group) > 1)


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_are_those_that_comparing_all_with_all_finds(seed):
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**63, 200, dtype=np.uint64)
    for _ in range(60):  # duplicates, with 0 to 5 bits turned
        copy = int(hashes[random.integers(200)])
        for bit in random.choice(64, random.integers(6), replace=False):
            copy ^= 1 << int(bit)
        hashes[random.integers(200)] = copy
    found = near_duplicates(hashes)
    assert found == slowly(hashes)
    assert found


def test_no_hashes_and_one_hash_have_no_duplicates():
    assert near_duplicates(np.array([], np.uint64)) == []
    assert near_duplicates(np.array([7], np.uint64)) == []


def test_duplicates_blanks_and_icons_are_found_and_nothing_else():
    pictures = [scene(0), scene(0), scene(0, (48, 32), "JPEG"), scene(1), plain("white"), scene(2, (16, 16)), b"broken"]
    pairs = world(pictures, [f"caption number {'abcdefghijkl'[place]}" for place in range(12)])
    facts = image_facts(pairs, None, 100)
    assert [fact is None for fact in facts] == [False] * 6 + [True] + [False] * 5
    found = issues_of(pairs, facts)
    assert {(issue.issue, issue.image_id) for issue in found} == {
        ("duplicate", "picture-0"),
        ("duplicate", "picture-1"),
        ("near-duplicate", "picture-0"),
        ("near-duplicate", "picture-2"),
        ("blank", "picture-4"),
        ("tiny", "picture-5"),
    }
    assert len({issue.group for issue in found if issue.issue == "duplicate"}) == 1
    assert all(issue.caption_id is None for issue in found)


def test_one_file_under_many_captions_is_a_placeholder():
    same, other = scene(3), scene(4)
    pairs = world([same] * 10 + [other] * 2, [f"caption {'abcdefghijkl'[place]}" for place in range(12)])
    kinds = [issue.issue for issue in issues_of(pairs, image_facts(pairs, None, 100))]
    assert kinds.count("placeholder") == 10
    assert kinds.count("duplicate") == 2
    alike = replace(pairs, captions=["the same caption"] * 12)
    assert "placeholder" not in [issue.issue for issue in issues_of(alike, image_facts(alike, None, 100))]


def test_one_image_with_ten_times_the_usual_captions_is_a_placeholder():
    """As equal bytes in cells are, which are one image."""
    pictures, captions = [scene(3), scene(4), scene(5)], [f"caption {'abcdefghijkl'[place]}" for place in range(12)]
    for of_the_first, expected in ((10, ["picture-0"]), (9, [])):
        pairs = world(pictures, captions[: of_the_first + 2], [0] * of_the_first + [1, 2])
        found = issues_of(pairs, image_facts(pairs, None, 100))
        assert [issue.image_id for issue in found if issue.issue == "placeholder"] == expected


def test_a_photograph_twice_with_five_captions_each_is_a_duplicate_and_no_placeholder():
    pairs = world([scene(3), scene(3)], [f"caption {'abcdefghij'[place]}" for place in range(10)], [0] * 5 + [1] * 5)
    assert [issue.issue for issue in issues_of(pairs, image_facts(pairs, None, 100))] == ["duplicate"] * 2


def test_captions_that_say_nothing_are_found():
    captions = [
        "a dog runs",
        "",
        "  \n",
        "12:30",
        "IMG_0041.jpg",
        "https://a.example/x?y=1",
        "Untitled",
        "ein Hund läuft",
    ]
    pairs = world([], captions)
    found = issues_of(pairs, None)
    assert [issue.issue for issue in found] == ["empty caption"] * 3 + ["boilerplate"] * 3
    assert [issue.caption_id for issue in found] == [pairs.caption_ids[row] for row in (1, 2, 3, 4, 5, 6)]


def test_a_caption_of_ten_pictures_is_shared_and_one_of_nine_is_not():
    for count, expected in ((10, 10), (9, 0)):
        captions = ["A red kite."] * (count - 1) + ["a red  kite"] + [f"caption {'abc'[place]}" for place in range(3)]
        found = issues_of(world([], captions), None)
        assert [issue.issue for issue in found] == ["shared caption"] * expected
    one_picture = world([], ["a red kite"] * 12, [0] * 12)
    assert issues_of(one_picture, None) == []


def test_markup_and_broken_encoding_are_issues_beside_others():
    captions = ["a cat &amp; a dog", "a dogâ€™s bone", "untitled", "<b>photo.jpg</b>", "a plain caption", "one more"]
    pairs = world([], captions)
    found = {(issue.issue, issue.caption_id) for issue in issues_of(pairs, None)}
    ids = pairs.caption_ids
    assert found == {
        ("HTML in caption", ids[0]),
        ("mojibake", ids[1]),
        ("boilerplate", ids[2]),
        ("HTML in caption", ids[3]),
    }


def test_a_caption_in_another_language_is_an_issue_with_the_language_in_its_detail():
    english = [f"a {colour} dog runs across the field" for colour in ("black", "brown", "white", "small", "big")]
    pairs = world([], [*english * 8, "zwei Kinder spielen im Garten mit einem Hund", "собака"])
    found = issues_of(pairs, None)
    assert [(issue.issue, issue.caption_id) for issue in found] == [
        ("other language", pairs.caption_ids[40]),
        ("other language", pairs.caption_ids[41]),
    ]
    assert found[0].detail.startswith("de: 'zwei Kinder")
    assert found[1].detail == "Cyrillic script: 'собака'"


def test_pictures_are_examined_where_there_are_not_too_many_and_a_store_is_believed(tmp_path):
    pairs = world([scene(0)], ["one dog", "two dogs"])
    assert image_facts(pairs, None, 1) is None
    assert image_facts(replace(pairs, pictures=None), None, 10) is None
    import pyarrow as pa

    known = PictureFacts("ab", 2**63 + 5, 30, 40, True)
    columns = {name: [getattr(known, name)] for name in ("sha256", "width", "height", "is_blank")}
    columns |= {"image_id": ["picture-1"], "difference_hash": pa.array([known.difference_hash], pa.uint64())}
    pq.write_table(pa.table(columns), tmp_path / "images.parquet")
    assert image_facts(replace(pairs, pictures=None), tmp_path, 0) == [None, known]


def test_issues_are_a_table_with_one_a_row():
    issues = [Issue("duplicate", "a", None, 0, "2 files"), Issue("empty caption", None, "c", None, "''")]
    assert [Issue(**row) for row in issues_table(issues).to_pylist()] == issues
    assert len(issues_table([])) == 0
    assert issues_table([]).schema == issues_table(issues).schema


def test_a_group_that_shares_a_band_is_compared_only_so_far(monkeypatch):
    monkeypatch.setattr(module, "_MOST_ALIKE", 2)
    hashes = np.array([1 << 40 | 1 << 50 | number << 32 for number in range(6)], np.uint64)
    assert near_duplicates(hashes) == [[0, 1, 2, 3, 4, 5]]  # linked through each other
