"""A world of pairs with known mistakes, audited once for all tests that look at the outcome."""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from latent_factors import latent_factor_pairs
from PIL import Image
from reviewed_table import COLUMNS

from truepair.audit.run import audit_corpus, audit_pairs
from truepair.cleaning.summary import AuditSummary
from truepair.config import DataConfig, ModelConfig, NoiseConfig, OptimisationConfig, TeacherConfig
from truepair.config.audit import AuditConfig
from truepair.data.corpora import Corpus, load_corpus
from truepair.data.noise import inject_noise

QUICK = AuditConfig(
    folds=3,
    repetitions=1,
    method=TeacherConfig(
        fold_epochs=6,
        epochs=6,
        optimisation=OptimisationConfig(learning_rate=2e-3, schedule="cosine", weight_average=0.9),
    ),
    model=ModelConfig(embedding=64),
    batch_size=64,
    cards=30,
)
EVIL = '<script src="http://evil.example/x.js">alert("1")</script> & "quotes"'


def coloured_picture(number: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (160, 90), (number % 256, number // 256 * 40, 128)).save(written, "PNG")
    return written.getvalue()


@pytest.fixture(scope="session")
def quick() -> AuditConfig:
    return QUICK


@dataclass
class Audited:
    """A table with planted mistakes, and what an audit of it wrote."""

    folder: Path
    table: Path
    out: Path
    data: DataConfig
    corpus: Corpus
    mismatched: set[str]
    before: bytes
    summary: AuditSummary
    evil: str = EVIL


@pytest.fixture(scope="session")
def audited(tmp_path_factory) -> Audited:
    """300 rows of JSONL with pictures and features; 10 % of the rows have another row's picture."""
    folder = tmp_path_factory.mktemp("audited")
    true = latent_factor_pairs(300, world_seed=0, draw_seed=0, shared=16, exclusive=2).pairs
    noisy = inject_noise(true, 0.1, seed=0)
    (folder / "pictures").mkdir()
    for image in range(300):
        (folder / "pictures" / f"{image}.png").write_bytes(coloured_picture(image))
    images = true.images.take(torch.arange(300)).values
    captions = true.caption_inputs.take(torch.arange(300)).values
    rows = [
        {
            "picture": f"pictures/{image}.png",
            "text": EVIL if row % 3 == 0 else f"caption {row}",
            "key": f"k{row}",
            "seen": images[image].tolist(),
            "said": captions[row].tolist(),
            "licence": ["CC0", None, 1.5][row % 3],
        }
        for row, image in enumerate(noisy.image_of_caption.tolist())
    ]
    table = folder / "scraped.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = DataConfig(path=str(table), source=COLUMNS)
    before = table.read_bytes()
    corpus = load_corpus(data)
    summary = audit_corpus(corpus, data, NoiseConfig(), folder / "audit", QUICK)
    mismatched = {f"k{row}" for row in (~noisy.is_clean).nonzero().flatten().tolist()}
    return Audited(folder, table, folder / "audit", data, corpus, mismatched, before, summary)


@pytest.fixture(scope="session")
def measured(noisy_world, tmp_path_factory) -> tuple[Path, AuditSummary]:
    """Where an audit of the noisy world, with re-pairing, wrote, and its summary."""
    out = tmp_path_factory.mktemp("measured")
    return out, audit_pairs(noisy_world, None, out, replace(QUICK, re_pair=True))


@pytest.fixture(scope="session")
def noisy_world():
    """240 pairs without pictures, 15 % of them mismatched, whose truth is known."""
    true = latent_factor_pairs(240, world_seed=1, draw_seed=1, shared=16, exclusive=2).pairs
    return inject_noise(replace(true, captions=[EVIL, *true.captions[1:]]), 0.15, seed=1)
