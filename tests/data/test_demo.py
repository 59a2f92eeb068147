import io
import re
import time

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from truepair.config import DataConfig
from truepair.data.corpora import load_corpus
from truepair.data.pairs import Pairs, Splits
from truepair.sources.demo import demo_table

COUNTS = {"train": 1_669, "dev": 198, "test": 498}


@pytest.fixture(scope="module")
def demo() -> Splits:
    return load_corpus(DataConfig(text="features")).splits


def parts(demo: Splits) -> dict[str, Pairs]:
    return {"train": demo.train, "dev": demo.dev, "test": demo.test}


def test_the_demo_has_the_counts_and_widths_of_its_datasheet(demo):
    assert demo.name == "demo"
    assert {name: len(pairs) for name, pairs in parts(demo).items()} == COUNTS
    for pairs in parts(demo).values():
        rows = torch.arange(len(pairs))
        assert pairs.images.take(rows).values.shape == (len(pairs), 256)
        assert pairs.caption_inputs is not None
        assert pairs.caption_inputs.take(rows).values.shape == (len(pairs), 384)
        assert pairs.image_of_caption.tolist() == rows.tolist()
    datasheet = (demo_table().parent / "DATASHEET.md").read_text(encoding="utf-8")
    assert "1,669 to train, 198 for development (`val`), 498 to test" in datasheet


def test_no_picture_is_in_two_splits(demo):
    ids = [name for pairs in parts(demo).values() for name in pairs.image_ids]
    assert len(set(ids)) == len(ids) == sum(COUNTS.values())


def test_every_picture_opens(demo):
    for pairs in parts(demo).values():
        assert pairs.pictures is not None
        for image in range(len(pairs.images)):
            picture = Image.open(io.BytesIO(pairs.pictures[image]))
            picture.load()
            assert picture.size == (128, 128)


def test_captions_have_no_remains_of_markup_addresses_or_tools(demo):
    remains = re.compile(
        r"&\w+;|&#|https?:|www\.|@|inkscape$|\bR15\b|[\x00-\x1f\x7f-\x9f]|created? with", re.IGNORECASE
    )
    captions = [caption for pairs in parts(demo).values() for caption in pairs.captions]
    assert [caption for caption in captions if remains.search(caption)] == []


def test_text_features_have_length_one(demo):
    assert demo.test.caption_inputs is not None
    lengths = demo.test.caption_inputs.take(torch.arange(len(demo.test))).values.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(len(demo.test)), atol=1e-3, rtol=0)


def test_every_licence_has_its_text_and_every_row_a_licence():
    licences = (demo_table().parent / "LICENCES.txt").read_text(encoding="utf-8")
    values = set(pq.read_table(demo_table(), columns=["licence"])["licence"].to_pylist())
    assert values == {"Public-Domain", "MIT"}
    for licence in values:
        assert re.search(rf"^\d\. {licence}: ", licences, re.MULTILINE)
    for notice in (
        "Public Domain Dedication",
        "Copyright (c) Microsoft Corporation",
        "Copyright (c) 2017-2019 Miles Johnson",
        "Copyright © 1991-2022 Unicode, Inc.",
    ):
        assert notice in licences


def test_the_demo_corpus_stays_small_enough_for_a_wheel():
    size = sum(file.stat().st_size for file in demo_table().parent.iterdir())
    assert size < 7_500_000


def test_loading_the_demo_is_quick():
    started = time.process_time()
    load_corpus(DataConfig())
    assert time.process_time() - started < 1.5  # seconds of this process, whatever else the machine does
