"""The same eight pairs in every form that a source can have, and the readers of others that read each form."""

import csv
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from made_sources import picture, write_files, write_rows, write_tar

from truepair.config import SourceConfig
from truepair.sources.opening import open_source
from truepair.sources.protocol import Source

datasets = pytest.importorskip("datasets")

CAPTIONS = [f'caption {i}, "quoted"\tяркий' for i in range(8)]
"""Number 3's picture is missing where it can be."""


def hf_rows() -> "datasets.Dataset":
    features = datasets.Features(
        {"n": datasets.Value("int8"), "image": datasets.Image(), "caption": datasets.Value("string")}
    )
    cells = [None if i == 3 else {"bytes": picture(i), "path": f"{i}.png"} for i in range(8)]
    return datasets.Dataset.from_dict({"n": range(8), "image": cells, "caption": CAPTIONS}, features)


def table_rows() -> list[dict]:
    return [{"image": f"k{i}.png", "caption": CAPTIONS[i], "n": i} for i in range(8)]


def pictures(root: Path) -> Path:
    return write_files(root, {f"k{i}.png": picture(i) for i in range(8) if i != 3})


def made(kind: str, root: Path) -> Path:
    """Eight pictures, a caption each, in any form."""
    root.mkdir(parents=True, exist_ok=True)
    if kind == "webdataset":
        for shard in range(2):
            files = {}
            for i in range(4 * shard, 4 * shard + 4):
                files |= {f"k{i}.jpg": picture(i, "JPEG"), f"k{i}.json": b'{"n": 1}', f"k{i}.txt": CAPTIONS[i].encode()}
            files.pop("k3.jpg", None)
            write_tar(root / f"{shard:05d}.tar", files)
        return root
    if kind == "folder":
        write_files(root, {f"in/k{i}.png": picture(i) for i in range(8) if i != 3})
        return write_files(root, {f"in/k{i}.txt": f"{CAPTIONS[i]}\r\n" for i in range(8)})
    if kind == "dataset":
        hf_rows().save_to_disk(root / "d")
        return root / "d"
    if kind == "datasetdict":
        rows = hf_rows()
        datasets.DatasetDict(train=rows.select(range(5)), test=rows.select(range(5, 8))).save_to_disk(root / "d")
        return root / "d"
    if kind == "hub":
        rows = hf_rows()
        (root / "data").mkdir()
        rows.select(range(5)).to_parquet(root / "data" / "train-00000-of-00001.parquet")
        rows.select(range(5, 8)).to_parquet(root / "data" / "test-00000-of-00001.parquet")
        (root / "README.md").write_text(
            "---\nlicense: mit\ndataset_info:\n  splits:\n  - name: train\n    num_examples: 5\n"
            "  - name: test\n    num_examples: 3\n---\n# mine\n"
        )
        return root
    if kind == "imagefolder":
        for split, numbers in (("train", range(5)), ("test", range(5, 8))):
            write_files(root / split, {f"k{i}.png": picture(i) for i in numbers if i != 3})
            rows = [{"file_name": f"k{i}.png", "caption": CAPTIONS[i], "n": i} for i in numbers]
            write_rows(root / split / "metadata.jsonl", rows)
        return root
    if kind == "embedded":
        cells = pa.array([None if i == 3 else picture(i) for i in range(8)], pa.binary())
        pq.write_table(pa.table({"image": cells, "caption": CAPTIONS, "n": range(8)}), root / "t.parquet", 3)
        return root / "t.parquet"
    if kind == "coco":
        pictures(root)
        images = [{"id": 10 + i, "file_name": f"k{i}.png"} for i in range(8)] + [{"id": 99, "file_name": "alone.png"}]
        annotations = [{"id": 100 + i, "image_id": 10 + i, "caption": CAPTIONS[i]} for i in range(8)]
        document = {"info": {"year": 2017}, "images": images, "annotations": annotations}
        (root / "captions.json").write_text(json.dumps(document))
        return root / "captions.json"
    if kind == "karpathy":
        pictures(root)
        images = [
            {
                "filename": f"k{i}.png", "filepath": "", "split": "train", "imgid": i, "sentids": [i],
                "sentences": [{"raw": CAPTIONS[i], "sentid": i, "tokens": ["a"]}],
            }
            for i in range(8)
        ]  # fmt: skip
        (root / "dataset.json").write_text(json.dumps({"images": images, "dataset": "mine"}, indent=1))
        return root / "dataset.json"
    if kind == "tokens":
        pictures(root)
        lines = "".join(f"k{i}.png#0\t{caption}\n" for i, caption in enumerate(CAPTIONS))
        (root / "mine.token").write_text(lines, encoding="utf-8")
        return root / "mine.token"
    if kind == "zip":
        inside = root.parent / "unpacked"
        write_rows(pictures(inside) / "t.csv", table_rows())
        with zipfile.ZipFile(root / "t.zip", "w") as archive:
            for file in sorted(inside.iterdir()):
                archive.write(file, f"top/{file.name}")
        return root / "t.zip"
    if kind == "zipped folder":
        inside = made("folder", root.parent / "unpacked")
        with zipfile.ZipFile(root / "t.zip", "w") as archive:
            for file in sorted(path for path in inside.rglob("*") if path.is_file()):
                archive.write(file, file.relative_to(inside).as_posix())
        return root / "t.zip"
    pictures(root)
    if kind in ("csv.gz", "jsonl.zst"):
        plain = write_rows(root.parent / f"plain.{kind.split('.')[0]}", table_rows()).read_bytes()
        compression = "gzip" if kind.endswith("gz") else "zstd"
        with pa.output_stream(str(root / f"t.{kind}"), compression=compression) as file:
            file.write(plain)
        return root / f"t.{kind}"
    if kind == "json":
        (root / "t.json").write_text(json.dumps(table_rows(), indent=2, ensure_ascii=False), encoding="utf-8")
        return root / "t.json"
    if kind in ("arrow", "feather"):
        pa.feather.write_feather(pa.Table.from_pylist(table_rows()), root / f"t.{kind}")
        return root / f"t.{kind}"
    return write_rows(root / f"t.{kind}", table_rows())


TABLES = ("csv", "tsv", "jsonl", "json", "parquet", "arrow", "feather", "csv.gz", "jsonl.zst")
FORMS = (
    *TABLES, "webdataset", "folder", "embedded", "dataset", "datasetdict", "hub", "imagefolder", "coco", "karpathy",
    "tokens", "zip", "zipped folder",
)  # fmt: skip


def reopened(target: Path, form: str, source: Path) -> Source:
    if form in (*TABLES, "embedded", "coco", "karpathy", "tokens"):
        return open_source(target / source.name, SourceConfig(image_root=str(source.parent)))
    return open_source(target / source.name if form.startswith("zip") else target)


def captions_by_others(form: str, path: Path) -> list[str]:
    """The captions in a form, as pandas, datasets, webdataset, json, zipfile and csv read them."""
    if form in ("csv", "csv.gz", "tsv", "jsonl", "jsonl.zst", "json", "parquet", "embedded", "arrow", "feather"):
        pandas = pytest.importorskip("pandas")
        read = {
            "csv": pandas.read_csv, "tsv": lambda file: pandas.read_csv(file, sep="\t"),
            "jsonl": lambda file: pandas.read_json(io.BytesIO(pa.input_stream(str(file)).read()), lines=True),
            "json": pandas.read_json,
            "parquet": pandas.read_parquet, "embedded": pandas.read_parquet,
            "arrow": pandas.read_feather, "feather": pandas.read_feather,
        }[form.partition(".")[0]]  # fmt: skip
        return list(read(path)["caption"])
    if form in ("dataset", "datasetdict"):
        loaded = datasets.load_from_disk(path)
        splits = [loaded] if form == "dataset" else loaded.values()
        return [caption for split in splits for caption in split["caption"]]
    if form in ("hub", "imagefolder"):
        return [caption for split in datasets.load_dataset(str(path)).values() for caption in split["caption"]]
    if form == "webdataset":
        webdataset = pytest.importorskip("webdataset")
        urls = [str(file) for file in sorted(path.glob("*.tar"))]
        return [sample["txt"].decode() for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    if form == "coco":
        return [item["caption"] for item in json.loads(path.read_text())["annotations"]]
    if form == "karpathy":
        return [said["raw"] for image in json.loads(path.read_text())["images"] for said in image["sentences"]]
    if form == "tokens":
        return [line.split("\t", 1)[1] for line in path.read_text(encoding="utf-8").splitlines()]
    if form == "folder":
        return [file.read_text(encoding="utf-8").rstrip("\n") for file in sorted(path.rglob("*.txt"))]
    with zipfile.ZipFile(path) as archive:
        if form == "zip":
            return [row["caption"] for row in csv.DictReader(io.StringIO(archive.read("top/t.csv").decode()))]
        texts = [name for name in archive.namelist() if name.endswith(".txt")]
        return [archive.read(name).decode().rstrip("\r\n") for name in texts]
