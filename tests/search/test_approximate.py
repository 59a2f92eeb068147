import json
import shutil

import pytest

from truepair.config.search import IndexConfig
from truepair.errors import ConfigError, DataError
from truepair.search import approximate
from truepair.search.building import add_to_index, build_index, drop_from_index
from truepair.search.index import open_index
from truepair.search.measuring import measure_index


def test_without_faiss_the_extra_to_install_is_named(vectors, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'truepair\[search\]'"):
        build_index(str(vectors), tmp_path / "index", IndexConfig(approximate="ivf"))
    assert not (tmp_path / "index").exists()


@pytest.fixture(scope="module")
def approximated(tmp_path_factory):
    """An index by each kind, of 2,000 vectors."""
    pytest.importorskip("faiss")
    from search_worlds import write_vectors

    folder = tmp_path_factory.mktemp("many")
    write_vectors(folder / "vectors", 2_000, seed=0)
    for kind in ("ivf", "hnsw"):
        config = IndexConfig(approximate=kind, calibration=100, references=64)
        build_index(str(folder / "vectors"), folder / kind, config)
    return folder


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_the_recall_asked_for_is_reached_and_reported(approximated, kind):
    index = open_index(approximated / kind)
    made = json.loads((approximated / kind / "index.json").read_text())["segments"][0]["approximate"]
    assert made["images"]["recall"] >= 0.95
    assert min(measure_index(index).recall_of_approximate.values()) >= 0.9


def test_additions_removals_and_filters_hold_for_an_approximate_index(approximated, tmp_path):
    from search_worlds import write_vectors

    folder = shutil.copytree(approximated / "ivf", tmp_path / "index")
    dropped = [f"image-{row}" for row in range(50)]
    drop_from_index(folder, dropped)
    hits = open_index(folder).search(like=[f"caption-{row}" for row in range(60, 160)], k=20)
    assert len(hits) == 2_000
    assert not {*dropped} & {*hits["id"].to_pylist()}
    write_vectors(tmp_path / "more", 50, seed=3)
    add_to_index(folder, str(tmp_path / "more"))
    index = open_index(folder)
    assert index.search(like="caption-7", k=1)["caption"].to_pylist() == ["picture 3.7 of dogs"]
    assert index.search(like="caption-70", k=9, where="image_id = 'image-9'")["id"].to_pylist() == ["image-9"]


def test_a_damaged_file_is_refused_when_it_is_needed(approximated, tmp_path):
    folder = shutil.copytree(approximated / "ivf", tmp_path / "index")
    (folder / "00000" / "images.faiss").write_bytes(b"x")
    with pytest.raises(DataError, match="copy the index again"):
        open_index(folder).search(like="caption-1")


def test_few_vectors_are_searched_exactly(vectors, tmp_path):
    pytest.importorskip("faiss")
    with pytest.raises(ConfigError, match="are searched at once exactly"):
        build_index(str(vectors), tmp_path / "index", IndexConfig(approximate="hnsw"))
    assert approximate.faiss() is not None
