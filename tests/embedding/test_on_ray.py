import json
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from embedding_samples import encoded, picture
from test_embed_run import files_of, write_tars

from truepair.cli.main import main
from truepair.embedding.choosing import load_encoders
from truepair.embedding.on_ray import _Embedding, _Job, _Place, _places, embed_on_ray
from truepair.embedding.run import embed, embed_source
from truepair.embedding.shard import embed_shard
from truepair.errors import ConfigError, DataError
from truepair.progress import Progress
from truepair.sources.opening import description_of, open_source

SHARDS = 6


def needs_ray(test):
    """Ray starts processes, and warns of things that are not truepair's."""
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore")(test))


def test_what_is_missing_without_ray_is_said(tmp_path, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"engine is 'ray', but Ray is not installed: pip install 'truepair\[ray\]'"):
        embed_on_ray({}, {"a": tmp_path / "00000"}, config, pytest.fail)


@pytest.fixture(scope="module")
def ray():
    """A cluster of one node of one core; tests may add others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # of the nodes
        ray = pytest.importorskip("ray", reason="needs the extra ray")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=node())
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        ray.cluster = cluster
        yield ray
        ray.shutdown()
        cluster.shutdown()


def node():
    return {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}


@pytest.fixture
def tars(tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(SHARDS // 2):
        (folder / str(shard)).mkdir()
        write_tars(folder / str(shard), {f"{shard}-{number:02}": encoded(picture(number)) for number in range(12)})
        for number in range(2):
            (folder / str(shard) / f"{number:05}.tar").rename(folder / f"{2 * shard + number:05}.tar")
        (folder / str(shard)).rmdir()
    return folder


@pytest.fixture
def expected(tars, tmp_path, config):
    embed(str(tars), tmp_path / "alone", config)
    return without_hardware(tmp_path / "alone")


def without_hardware(out):
    files = files_of(out)
    described = json.loads(files["embeddings.json"])
    del described["hardware"]
    return files | {"embeddings.json": json.dumps(described).encode()}


def when(condition, act):
    """Do something in another thread as soon as there is cause."""

    def watch():
        until = time.monotonic() + 200
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def workers():
    return [int(process.parent.name) for process in Path("/proc").glob("[0-9]*/cmdline") if is_worker(process)]


def is_worker(command_line):
    try:
        return command_line.read_bytes().startswith(b"ray::_Worker.embed")
    except OSError:  # it has ended
        return False


def parts_in(out):
    return list((out / "parts").glob("0000?")) if (out / "parts").is_dir() else []


@needs_ray
def test_a_store_has_the_bytes_of_one_machine_also_when_a_worker_and_a_node_are_lost(
    ray, tars, tmp_path, config, expected
):
    on_ray = replace(config, engine="ray", workers=None)
    second = ray.cluster.add_node(**node())
    killed = when(lambda: workers() and parts_in(tmp_path / "killed"), lambda: os.kill(workers()[0], signal.SIGKILL))
    embed(str(tars), tmp_path / "killed", on_ray)
    killed.join()
    assert without_hardware(tmp_path / "killed") == expected
    removed = when(
        lambda: parts_in(tmp_path / "removed"), lambda: ray.cluster.remove_node(second, allow_graceful=False)
    )
    embed(str(tars), tmp_path / "removed", on_ray)
    removed.join()
    assert without_hardware(tmp_path / "removed") == expected


@needs_ray
def test_what_was_done_stays_done_and_what_a_lost_worker_left_goes(ray, tars, tmp_path, config, expected):
    out, source = tmp_path / "out", open_source(str(tars))
    description = description_of(source, str(tars), config.source)
    embed_source(source, description, out, config)
    plan = json.loads((out / "embeddings.json").read_text())
    shutil.rmtree(out)
    encoders, _ = load_encoders(config)
    with ThreadPoolExecutor(1) as pool:
        for number in (0, 3):
            part = out / "parts" / f"{number:05}"
            embed_shard(source.read(source.shards()[number]), part, encoders, pool, lambda images: None)
    (out / "parts" / "plan.json").write_text(json.dumps({key: plan[key] for key in ("source", "options", "shards")}))
    (out / "parts" / "00001.0a1b2c3d.part").mkdir()
    done = {path: path.stat().st_mtime_ns for path in (out / "parts").glob("0000[03]/*")}
    seen = {}
    watch = when(lambda: len(parts_in(out)) == SHARDS, lambda: seen.update({p: p.stat().st_mtime_ns for p in done}))
    embed(str(tars), out, replace(config, engine="ray", workers=None))
    watch.join()
    assert without_hardware(out) == expected
    assert seen == done


@needs_ray
def test_errors_of_workers_are_those_of_one_machine(ray, tars, tmp_path, config):
    on_ray = replace(config, engine="ray", text_encoder="no/such-network")
    with pytest.raises(ConfigError, match=r"(?s)no/such-network.* cannot be loaded.*\(on node [\d.]+\)$"):
        embed(str(tars), tmp_path / "out", on_ray)
    assert not (tmp_path / "out" / "parts" / "plan.json").exists()


@needs_ray
def test_a_shard_that_ends_three_workers_is_given_up(ray, tmp_path, config):
    embedding = _Embedding({}, {"a": tmp_path / "00000"}, config, pytest.fail, Progress("", "", None, 0))
    job = _Job(_Place("id", "10.0.0.7", 0, 1, 0), worker=None, shard="a")
    for _ in range(2):
        embedding._lose(job, RuntimeError("killed"))
    message = r"3 workers were lost while they encoded shard 'a', the last on node 10.0.0.7 \(killed\): is its memory"
    with pytest.raises(DataError, match=message):
        embedding._lose(job, RuntimeError("killed"))


@needs_ray
@pytest.mark.parametrize(
    ("resources", "options", "places"),
    [
        ({"CPU": 8.0}, {}, [(8, 0)]),
        ({"CPU": 8.0}, {"workers": 3}, [(3, 0), (3, 0)]),
        ({"CPU": 2.0}, {"workers": 3}, [(2, 0)]),
        ({"CPU": 8.0, "GPU": 2.0}, {"device": "auto"}, [(4, 1), (4, 1)]),
        ({"CPU": 8.0, "GPU": 2.0}, {"device": "cpu"}, [(8, 0)]),
        ({"CPU": 1.0, "GPU": 2.0}, {"device": "cuda"}, [(1, 1)]),
        ({"GPU": 1.0}, {}, []),
    ],
)
def test_a_gpu_has_one_worker_or_else_a_node(ray, config, monkeypatch, resources, options, places):
    node = {"NodeID": "id", "NodeManagerAddress": "10.0.0.7", "Alive": True, "Resources": resources}
    monkeypatch.setattr(ray, "nodes", lambda: [node, {**node, "Alive": False}])
    found = _places(replace(config, **{"workers": None, "device": "cpu", **options}))
    assert [(place.cores, place.gpus) for place in found] == places


@needs_ray
def test_an_audit_that_embeds_on_ray_finds_what_it_finds_alone(ray, tars, tmp_path, capsys):
    options = ["--text-encoder", "minilm", "--quiet", "--json"]
    for engine in ("local", "ray"):
        assert main(["audit", str(tars), "--out", str(tmp_path / engine), "--engine", engine, *options]) == 0
    alone, on_ray = (pq.read_table(tmp_path / engine / "findings.parquet").to_pydict() for engine in ("local", "ray"))
    assert alone == on_ray


def test_an_engine_without_anything_to_embed_is_refused(tmp_path, capsys):
    assert main(["audit", "demo", "--out", str(tmp_path), "--engine", "ray"]) == 1
    assert "--engine is 'ray', but nothing is embedded: demo has features" in capsys.readouterr().err
