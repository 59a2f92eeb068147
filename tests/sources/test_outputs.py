import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sources import check, opened, picture, write_files, write_rows
from made_stores import in_memory

from truepair.config.source import SourceConfig
from truepair.sources import outputs
from truepair.sources.opening import description_of, open_source
from truepair.sources.versions import contents_of, versioned_shards

TABLE = object()
"""A Parquet file of columns that are not those of a corpus."""
MADE = '{\n  "format": 2,\n  "truepair": "0.1.0"\n}\n'
PLANNED = '{\n  "source": {},\n  "shards": []\n}\n'
RUN = '{\n  "recipe": {}\n}\n'
STRAY = {"metadata.csv": "file_name,caption\na.png,c\n", "a.png": picture(9), "a.txt": "stray", "b.txt": "alone"}
"""What would be taken for a part of the corpus."""
OUTPUTS = {
    "an audit": {"findings.parquet": TABLE, "issues.parquet": TABLE, "summary.json": "{}", **STRAY},
    "an audit that takes its place": {"findings.parquet": TABLE, ".ready/summary.json": "{}", **STRAY},
    "an audit whose embeddings are begun": {"embeddings/parts/plan.json": PLANNED, "x.parquet": TABLE, **STRAY},
    "an audit whose embeddings are made": {"embeddings/embeddings.json": MADE, "x.parquet": TABLE, **STRAY},
    "a feature store": {"embeddings.json": MADE, "images.parquet": TABLE, "pairs.parquet": TABLE, **STRAY},
    "a feature store that is begun": {"parts/plan.json": PLANNED, "images.parquet": TABLE, **STRAY},
    "a feature store of several machines": {
        "parts/00001-of-00002/plan.json": PLANNED,
        "images.parquet": TABLE,
        **STRAY,
    },
    "a run": {"run.json": RUN, "pairs.parquet": TABLE, **STRAY},
    "an index": {"index.json": MADE, "x.parquet": TABLE, **STRAY},
    "an export": {"export.json": '{\n  "to": "hf",\n  "truepair": "0.1.0"\n}\n', "x.parquet": TABLE, **STRAY},
}


def put(folder, files):
    """Files in a folder, tables among them."""
    write_files(folder, {name: content for name, content in files.items() if content is not TABLE})
    for name in (name for name, content in files.items() if content is TABLE):
        pq.write_table(pa.table({"caption_id": ["row-1"], "mismatch_probability": [0.5]}), folder / name)


def corpus(kind, folder):
    pictures = {f"in/{number}.png": picture(number) for number in range(3)}
    write_files(folder, pictures)
    rows = [{"image": name, "caption": f"c{number}"} for number, name in enumerate(pictures)]
    if kind == "folder":
        write_files(folder, {f"in/{number}.txt": f"c{number}" for number in range(3)})
    elif kind == "imagefolder":
        write_rows(folder / "in" / "metadata.csv", [row | {"file_name": row["image"][3:]} for row in rows])
    else:
        write_rows(folder / "data" / "train.parquet", rows)
    return folder


def identity(path):
    """What an audit or a feature store is bound to."""
    source = open_source(path)
    bound = description_of(source, path, SourceConfig()), versioned_shards(source), contents_of(source)
    return bound, [sample.image_id for sample in check(source)]


@pytest.mark.parametrize("kind", ["folder", "imagefolder", "parquet folder"])
@pytest.mark.parametrize("what", OUTPUTS)
def test_a_folder_that_truepair_wrote_into_a_corpus_is_no_part_of_it(what, kind, tmp_path):
    folder = corpus(kind, tmp_path / "d")
    before = identity(folder)
    assert before[0][0]["kind"] == kind
    for place in ("out", "in/deep/out"):
        put(folder / place, OUTPUTS[what])
        assert outputs.is_output(folder / place)
        assert identity(folder) == before


@pytest.mark.parametrize("kind", ["folder", "parquet folder"])
def test_an_audit_that_lies_among_the_files_of_its_corpus_is_no_part_of_it(kind, tmp_path):
    folder = corpus(kind, tmp_path / "d")
    before = identity(folder)
    put(folder, {"findings.parquet": TABLE, "issues.parquet": TABLE, "summary.json": "{}", "skipped.csv": "where\n"})
    put(folder, {"embeddings/embeddings.json": MADE, "embeddings/images.parquet": TABLE})
    assert identity(folder) == before


@pytest.mark.parametrize("kind", ["folder", "imagefolder", "parquet folder"])
def test_what_was_copied_to_a_store_with_its_outputs_is_the_same_corpus(kind, tmp_path, memory, cache):
    folder = corpus(kind, tmp_path / "d")
    before = [sample.image_id for sample in check(open_source(folder))]
    put(folder / "out", OUTPUTS["an audit"])
    put(folder / "features", OUTPUTS["a feature store"])
    source = open_source(in_memory(folder))
    assert source.kind == kind
    assert [sample.image_id for sample in check(source)] == before


def test_folders_whose_files_are_only_called_like_records_are_read(tmp_path):
    files = {f"{name}.png": picture(number) for number, name in enumerate(("run", "index", "summary"))}
    write_files(tmp_path / "d", files | {f"{name[:-4]}.json": json.dumps({"caption": name}) for name in files})
    write_files(tmp_path / "parts", {"0.png": picture(0), "0.txt": "c", "plan.json": '{"rooms": 3}'})
    write_files(tmp_path / "embeddings", {"1.png": picture(1), "1.txt": "c", "embeddings.json": "[]"})
    found = [sample.image_id for sample in check(opened(tmp_path))]
    assert found == sorted([*(f"d/{name}" for name in files), "parts/0.png", "embeddings/1.png"])


def test_a_cleaned_copy_is_a_corpus_again(tmp_path):
    for number, name in enumerate(("train", "test")):
        write_files(tmp_path / name, {f"{number}.png": picture(number), f"{number}.txt": "c"})
        put(tmp_path / name, {"provenance.parquet": TABLE})
        assert not outputs.is_output(tmp_path / name)
