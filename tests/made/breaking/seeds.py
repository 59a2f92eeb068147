"""Everything that truepair reads, in a sound form, and the reader of each: what the fuzzer starts from."""

import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from breaking.jobs import Job, read_audit, truepair
from breaking.world import COLUMNS, World

PICTURES = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM", "ICO")


@dataclass(frozen=True)
class Seed:
    """Sound files and what reads them.

    Attributes:
        name: What tables call it.
        folder: Where the sound files are.
        files: Glob patterns of those that are damaged, one at a time; each pattern is as likely as any other.
        read: Reads a copy of the folder. It may raise TruepairError, and nothing else; its exit code, where it is a
            command, is 0 or 1.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    read: Callable[[Path], object]


def make_seeds(world: World, every: Mapping[str, Job]) -> list[Seed]:
    """All seeds; to be called in a child, like all that reads or writes."""
    root = world.root / "seeds"
    return [*_sources(root), *_pictures(root), *_features(root, world), *_folders(world, every), *_small(root)]


def needed_snapshots() -> tuple[str, ...]:
    """The snapshots that seeds are made of."""
    return ("audit", "run", "store")


def _sources(root: Path) -> list[Seed]:
    from source_forms import FORMS, made

    seeds = []
    for form in FORMS:
        folder = root / f"source {form}"
        at = made(form, folder / "in").relative_to(folder) if not folder.exists() else _at(folder)
        (folder / "at.path").write_text(str(at))
        seeds.append(Seed(f"source: {form}", folder, ("in/**/*", str(at)), _read_source))
    return seeds


def _at(folder: Path) -> Path:
    return Path((folder / "at.path").read_text())


def _read_source(folder: Path) -> object:
    """Every item with its picture, as an embedding and a report read them."""
    from truepair.config import SourceConfig
    from truepair.data.source_pairs import pairs_of
    from truepair.sources.decoding import decoded
    from truepair.sources.opening import open_source
    from truepair.sources.picture_files import UnreadablePictureError
    from truepair.sources.protocol import Sample

    source = open_source(folder / _at(folder), SourceConfig())
    for shard in source.shards():
        for item in source.read(shard):
            if isinstance(item, Sample):
                source.picture(item.reference)
                try:
                    decoded(item.picture, 64, 1_000_000)
                except UnreadablePictureError:
                    continue
    return len(pairs_of(source, SourceConfig()).pairs)


def _pictures(root: Path) -> list[Seed]:
    from embedding_samples import picture

    folder = root / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in PICTURES:
        image = picture(7, 48, 32)
        written = io.BytesIO()
        (image.convert("P") if kind == "GIF" else image).save(written, kind)
        (folder / f"one.{kind.lower()}").write_bytes(written.getvalue())
    rotated = io.BytesIO()
    exif = picture(8).getexif()
    exif[0x0112] = 6
    picture(8).save(rotated, "JPEG", exif=exif)
    (folder / "rotated.jpg").write_bytes(rotated.getvalue())
    return [Seed("pictures", folder, ("*",), _read_pictures)]


def _read_pictures(folder: Path) -> object:
    from truepair.sources.decoding import decoded, thumbnail
    from truepair.sources.facts import facts_of
    from truepair.sources.picture_files import UnreadablePictureError

    for path in folder.iterdir():
        content = path.read_bytes()
        try:
            facts_of(content, decoded(content, 64, 1_000_000))
            thumbnail(content, 32)
        except UnreadablePictureError:
            continue
    return None


def _features(root: Path, world: World) -> list[Seed]:
    """Folders of features in all layouts; a store of ``embed`` is among them."""
    clip, arrays, regions = root / "clip-retrieval", root / "arrays", root / "regions"
    if not clip.exists():
        _write_clip_retrieval(clip)
        _write_arrays(arrays)
        _write_regions(regions)
    folders = {"clip-retrieval": clip, "arrays": arrays, "regions": regions, "store": world.snapshot("store") / "store"}
    return [Seed(f"features: {name}", folder, ("**/*",), _read_corpus) for name, folder in folders.items()]


def _write_clip_retrieval(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for number in range(2):
        for name in ("img_emb", "text_emb"):
            np.save(folder / name / f"{name}_{number}.npy", random.standard_normal((12, 4)).astype(np.float16))
        rows = {
            "image_path": [f"{number}-{row}.jpg" for row in range(12)],
            "caption": [f"a dog {row}" for row in range(12)],
        }
        pq.write_table(pa.table(rows), folder / "metadata" / f"metadata_{number}.parquet")


def _write_arrays(folder: Path) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    for name in ("images", "captions"):
        np.save(folder / f"{name}.npy", random.standard_normal((24, 4)).astype(np.float32))
    (folder / "captions.txt").write_text("".join(f"a red dog {row}\n" for row in range(24)))


def _write_regions(folder: Path) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(2)
    for split in ("train", "dev", "test"):
        np.save(folder / f"{split}_ims.npy", random.standard_normal((12, 3, 4)).astype(np.float32))
        (folder / f"{split}_caps.txt").write_text("".join(f"a red dog runs {row % 3}\n" for row in range(60)))
        (folder / f"{split}_ids.txt").write_text("".join(f"{row}\n" for row in range(12)))


def _read_corpus(folder: Path) -> object:
    """Corpora of features as training loads them, and a few rows of each."""
    import torch

    from truepair.config import DataConfig
    from truepair.data.corpora import load_corpus

    corpus = load_corpus(DataConfig(str(folder), minimum_word_count=1))
    train = corpus.splits.train
    train.images.take(torch.tensor([0, len(train.images) - 1]))
    return len(train)


def _folders(world: World, every: Mapping[str, Job]) -> list[Seed]:
    """What commands write, and others read."""
    reviewed = world.root / "seeds" / "audit"
    if not reviewed.exists():
        world.start("audit")
        every["review"].run()
        shutil.copytree(world.now / "audit", reviewed)
    run, parts = world.snapshot("run") / "run", _interrupted_store(world, every)
    files = ("findings*.parquet", "issues*.parquet", "summary.json")
    return [
        Seed("audit: read", reviewed, files, read_audit),
        Seed("audit: fix", reviewed, (*files, "review.sqlite"), _fix),
        Seed("audit: review", reviewed, (*files, "review.sqlite"), _review),
        Seed("run: load", run, ("run.json", "vocabulary.json", "best.safetensors"), _load_run),
        Seed(
            "run: resume", run, ("run.json", "last.safetensors", "log.jsonl", "results.json"), partial(_resume, world)
        ),
        Seed("run: figures", run, ("run.json", "log.jsonl", "results.json", "pairs.parquet"), _figures),
        Seed("run: audit", run, ("pairs.parquet", "log.jsonl", "run.json"), _audit_run),
        Seed("store: resume", parts, ("parts/**/*",), partial(_embed, world)),
    ]


def _interrupted_store(world: World, every: Mapping[str, Job]) -> Path:
    """A store of which two of three parts are done."""
    from breaking.children import in_child
    from breaking.kills import until
    from breaking.moments import Moment

    folder = world.root / "seeds" / "parts"
    for event in range(60, 10, -3):
        if folder.exists():
            break
        world.start(None)
        in_child(partial(until, world, every["embed"], Moment("event", event)))
        if (world.now / "store" / "parts" / "00001" / "part.json").exists():
            shutil.copytree(world.now / "store", folder)
    return folder


def _fix(folder: Path) -> int:
    return truepair("fix", folder, "--out", folder.parent / "fixed", "--drop-issues", "duplicate")


def _review(folder: Path) -> object:
    """The page's lists, pictures, steps and undoing."""
    from fastapi.testclient import TestClient

    from truepair.review.app import make_app

    app = make_app(folder)
    client = TestClient(app, base_url="http://127.0.0.1:8765", raise_server_exceptions=True)
    client.get("/", params={"token": app.state.token})
    for path in ("/api/pairs", "/api/pairs?issue=blank", "/api/cut?threshold=0.5", "/pictures/0"):
        client.get(path)
    for path, body in (("decide", {"caption_id": "k5", "action": "drop"}), ("undo", {}), ("redo", {})):
        client.post(f"/api/{path}", json=body)
    return None


def _load_run(folder: Path) -> object:
    from truepair.training.folder import load_run

    return len(load_run(folder).train)


def _resume(world: World, folder: Path) -> int:
    """The training's own command, in the copy."""
    from breaking.jobs import QUICK_TRAINING

    return truepair("train", world.table, "--out", folder, *COLUMNS, *QUICK_TRAINING)


def _figures(folder: Path) -> int:
    return truepair("figures", folder, "--out", folder.parent / "figures", "--pairs", 20)


def _audit_run(folder: Path) -> int:
    return truepair("audit", folder, "--out", folder.parent / "audit", "--cards", 2, "--device", "cpu")


def _embed(world: World, folder: Path) -> int:
    from breaking.jobs import embed_words

    return truepair(*embed_words(world, folder))


def _small(root: Path) -> list[Seed]:
    """Single files: a recipe, a noise index, a vocabulary, tables of decisions."""
    folder = root / "small"
    if not folder.exists():
        folder.mkdir(parents=True)
        _write_small(folder)
    return [
        Seed("recipe", folder, ("*.toml",), _read_recipe),
        Seed("noise index", folder, ("index.npy",), _read_index),
        Seed("vocabulary", folder, ("vocabulary.json",), _read_vocabulary),
        Seed("decisions", folder, ("decisions.*",), partial(_read_decisions, root / "audit")),
    ]


def _write_small(folder: Path) -> None:
    from made_sources import write_rows

    from truepair.data.text import Vocabulary

    (folder / "recipe.toml").write_text(_RECIPE)
    np.save(folder / "index.npy", np.roll(np.arange(24), 1))
    vocabulary = Vocabulary.build(["a red dog", "a red cat", "a dog"], minimum_count=1)
    (folder / "vocabulary.json").write_text(vocabulary.to_json())
    rows = [
        {"caption_id": f"k{row}", "action": action, "image_id": ""} for row, action in enumerate(["keep", "drop"] * 4)
    ]
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        write_rows(folder / f"decisions.{suffix}", rows)


_RECIPE = """\
[data]
path = "photos.csv"
text = "words"

[data.source]
caption_col = ["title", "alt"]

[noise]
rate = 0.4
level = "caption"

[model]
embedding = 64
input_dropout = 0.1

[method]
name = "crcl"
stages = [2, 3]

[method.optimisation]
learning_rate = 2e-4

[training]
batch_size = 32
seed = 1
"""


def _read_recipe(folder: Path) -> object:
    from truepair.training.recipe import load_recipe_file

    return load_recipe_file(folder / "recipe.toml")


def _read_index(folder: Path) -> object:
    import torch

    from truepair.config import NoiseConfig
    from truepair.data.features import Features
    from truepair.data.noise import noisy
    from truepair.data.pairs import Pairs

    names = [str(row) for row in range(24)]
    pairs = Pairs(Features(np.zeros((24, 2), np.float32)), names, torch.arange(24), names, names)
    return noisy(pairs, NoiseConfig(index=str(folder / "index.npy")))


def _read_vocabulary(folder: Path) -> object:
    from truepair.data.text import load_vocabulary

    return load_vocabulary(folder / "vocabulary.json")


def _read_decisions(audited: Path, folder: Path) -> object:
    """All four tables, one of which is damaged, against an audit."""
    from truepair.cleaning.audit_folder import open_audit
    from truepair.cleaning.decision_tables import read_decisions

    audit = open_audit(audited)
    return [read_decisions(path, audit) for path in sorted(folder.glob("decisions.*"))]
