"""A small table with pictures and planted mistakes, audited once; each test reviews a copy of the audit's folder."""

import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from latent_factors import latent_factor_pairs
from PIL import Image
from reviewed_table import BROKEN, COLUMNS, EVIL, QUICK, ROWS

from truepair.audit.run import audit_corpus, audit_pairs
from truepair.config import DataConfig, NoiseConfig
from truepair.data.corpora import load_corpus
from truepair.data.noise import inject_noise
from truepair.review.app import make_app


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """JSONL with pictures and features; 15 % of the rows have another row's picture."""
    folder = tmp_path_factory.mktemp("table")
    true = latent_factor_pairs(ROWS, world_seed=0, draw_seed=0, shared=16, exclusive=2).pairs
    noisy = inject_noise(true, 0.15, seed=0)
    for image in range(ROWS):
        written = io.BytesIO()
        Image.new("RGB", (40, 20), (2 * image, 90, 128)).save(written, "PNG")
        (folder / f"{image}.png").write_bytes(b"broken" if image == BROKEN else written.getvalue())
    images = true.images.take(torch.arange(ROWS)).values
    captions = true.caption_inputs.take(torch.arange(ROWS)).values
    rows = [
        {
            "picture": f"{image}.png",
            "text": EVIL if row % 3 == 0 else f"caption {row}",
            "key": f"k{row}",
            "seen": images[image].tolist(),
            "said": captions[row].tolist(),
        }
        for row, image in enumerate(noisy.image_of_caption.tolist())
    ]
    path = folder / "scraped.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def audited(table, tmp_path_factory) -> Path:
    """The folder of an audit of the table."""
    data = DataConfig(path=str(table), source=COLUMNS)
    out = tmp_path_factory.mktemp("audited") / "audit"
    audit_corpus(load_corpus(data), data, NoiseConfig(), out, QUICK)
    return out


@pytest.fixture(scope="session")
def audited_in_memory(tmp_path_factory) -> Path:
    """The folder of an audit, with re-pairing, of pairs that are in no file and have no pictures."""
    true = latent_factor_pairs(ROWS, world_seed=1, draw_seed=1, shared=16, exclusive=2).pairs
    out = tmp_path_factory.mktemp("in_memory") / "audit"
    audit_pairs(inject_noise(true, 0.15, seed=1), None, out, replace(QUICK, re_pair=True))
    return out


@pytest.fixture
def folder(audited, tmp_path) -> Path:
    """A copy of the table's audit."""
    return Path(shutil.copytree(audited, tmp_path / "audit"))


@dataclass
class Browser:
    """What a browser that was given the page's address can ask."""

    client: TestClient

    def pairs(self, **query):
        """The answer of a list that must succeed."""
        answer = self.client.get("/api/pairs", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path, body=None, status=200):
        """The answer of a request that must have this status."""
        answer = self.client.post(f"/api/{path}", json={} if body is None else body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def decide(self, pair, action, image_id=None):
        """A decision that must succeed."""
        return self.post("decide", {"caption_id": pair["caption_id"], "action": action, "image_id": image_id})


@pytest.fixture
def visit():
    """A new browser on an application's page."""

    def visited(app, cookies=None):
        client = TestClient(app, base_url="http://127.0.0.1:8765", cookies=cookies)
        assert client.get("/", params={"token": app.state.token}).status_code == 200
        return Browser(client)

    return visited


@pytest.fixture
def app(folder):
    return make_app(folder)


@pytest.fixture
def browser(app, visit):
    return visit(app)
