"""Embeddings of sources in stores: as those of the same files on a disk, resumed by shard, bound to what was read."""

import json

import pytest
from made_sources import write_shards
from made_stores import serving

from truepair.data.embeddings import load_embeddings_splits
from truepair.embedding.run import embed
from truepair.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def shards(tmp_path):
    folder = write_shards(tmp_path / "shards")
    return folder, {file.name: file.read_bytes() for file in folder.iterdir()}


def files_of(store):
    """Every file but the description, which says where the source is."""
    return {path.name: path.read_bytes() for path in store.iterdir() if path.name != "embeddings.json"}


def test_features_are_those_of_the_same_files_on_a_disk(tmp_path, shards, config):
    folder, files = shards
    embed(f"{folder}/{{00000..00002}}.tar", tmp_path / "disk", config)
    with serving(files) as site:
        summary = embed(f"{site.url}/{{00000..00002}}.tar", tmp_path / "out", config)
        assert files_of(tmp_path / "out") == files_of(tmp_path / "disk")
        assert summary["source"]["path"] == f"{site.url}/{{00000..00002}}.tar"
        assert [name.split(" ")[0] for name in summary["shards"]] == ["00000", "00001", "00002"]
        pictures = load_embeddings_splits(tmp_path / "out", development_share=0.2, test_share=0.2, seed=0, notes=[])
        assert pictures.train.pictures[0].startswith(b"\xff\xd8")


@pytest.mark.parametrize("wrong", [{"cut": 10**6}, {"status": 500}, {"status": 403}])
def test_a_run_that_a_store_stops_goes_on_behind_the_last_whole_shard(wrong, tmp_path, shards, config):
    _, files = shards
    with serving(files) as site:
        address, out = f"{site.url}/{{00000..00002}}.tar", tmp_path / "out"
        embed(address, tmp_path / "whole", config)
        (copies,) = (path for path in tmp_path.iterdir() if path.name == "copies")
        for copy in (copies / "shards").iterdir():
            copy.unlink()
        for name, value in wrong.items():
            if name == "status":  # from the second shard's content on, whose size is known by then
                site.later["00001.tar"] = value
            else:
                getattr(site, name)["00001.tar"] = value
        with pytest.raises(DataError, match=r"00001\.tar"):
            embed(address, out, config)
        assert sorted(path.name for path in (out / "parts").iterdir() if path.name[0] == "0") in (
            ["00000"],
            ["00000", "00001.part"],
        )
        assert not (out / "embeddings.json").exists()
        site.later.clear()
        site.cut.clear()
        site.asked.clear()
        embed(address, out, config)
        assert files_of(out) == files_of(tmp_path / "whole")
        assert ("GET", "00000.tar") not in {(method, path) for method, path, _ in site.asked}


def test_a_shard_that_was_changed_is_refused_as_another_source_is(tmp_path, shards, config):
    _, files = shards
    with serving(files) as site:
        address, out = f"{site.url}/{{00000..00002}}.tar", tmp_path / "out"
        embed(address, out, config)
        assert embed(address, out, config) == json.loads((out / "embeddings.json").read_text())
        site.files["00002.tar"] = files["00001.tar"]
        with pytest.raises(ConfigError, match="or others: it was changed"):
            embed(address, out, config)
