"""The page that searches an index: alone, or beside the page that reviews an audit."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from truepair.errors import ConfigError, DataError
from truepair.review.searching import MOST_RANKED, Asked, Kind, Searching
from truepair.review.serving import Text, UnknownError, guarded_app, number, page_of
from truepair.search.index import Index, open_index
from truepair.search.layout import Side
from truepair.sources.thumbnails import Thumbnails

MOST_HITS = 200
"""Hits of one answer."""
LARGEST_PICTURE = 64 * 2**20
"""Bytes of a picture that is dropped on the page."""
LARGER_REQUESTS = {"/api/picture": LARGEST_PICTURE}
"""Paths whose requests may be larger than others."""


@dataclass(frozen=True)
class SearchPage:
    """What the answers are made of.

    Attributes:
        searching: The index, and rankings in it.
        thumbnails: Pictures of its images.
        version: Stands in pictures' addresses, which browsers keep: another start may be of other pictures.
    """

    searching: Searching
    thumbnails: Thumbnails
    version: str

    @property
    def index(self) -> Index:
        """The index."""
        return self.searching.index


class SearchAsked(BaseModel):
    """A query, and which of its hits to show: one of `text`, `like` and `picture`, or none for every row."""

    model_config = ConfigDict(extra="forbid")
    text: Text | None = None
    like: Text | None = None
    picture: Text | None = None
    find: Side | None = None
    where: Text = ""
    offset: int = Field(0, ge=0, le=2**31 - 1)
    limit: int = Field(48, ge=1, le=MOST_HITS)

    def asked(self) -> Asked:
        """The query.

        Raises:
            ConfigError: If there are several.
        """
        kinds: dict[Kind, str | None] = {"text": self.text, "like": self.like, "picture": self.picture}
        given = [(kind, value) for kind, value in kinds.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"a search is for one of a text, an id and a picture: {len(given)} given")
        kind, value = given[0] if given else ("all", "")
        return Asked(kind, value, self.find, self.where.strip())


def make_search_app(index: Path, *, hosts: Sequence[str] = ()) -> FastAPI:
    """The page that searches an index; ``app.state.token`` is what its address must hold (``/search?token=…``).

    Args:
        index: The index's folder.
        hosts: Names that the page answers to besides 127.0.0.1 and localhost, with or without a port.

    Raises:
        DataError: If the folder holds no index, or it cannot be opened.
    """
    app = guarded_app("truepair search", hosts, LARGER_REQUESTS)
    add_search(app, index)
    app.add_api_route("/", _to_search, include_in_schema=False)
    return app


def add_search(app: FastAPI, index: Path) -> None:
    """Add the page and what it asks to an application; encoders are loaded meanwhile.

    Raises:
        DataError: If the folder holds no index, or it cannot be opened.
    """
    opened = open_index(index)
    thumbnails = Thumbnails(opened.picture_of_row)
    app.state.search = SearchPage(Searching(opened), thumbnails, secrets.token_hex(4))
    app.include_router(router)
    Thread(target=app.state.search.searching.warm_up, daemon=True).start()


def _to_search(request: Request) -> RedirectResponse:
    """The page itself, with the token that was given."""
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"search{query}")


def _search_page(request: Request) -> SearchPage:
    page: SearchPage = request.app.state.search
    return page


ThePage = Annotated[SearchPage, Depends(_search_page)]
router = APIRouter()


@router.get("/search")
def page(request: Request, search: ThePage) -> HTMLResponse:
    """The page; it gives the browser the token as a cookie."""
    manifest = search.index.manifest
    shown = {
        "folder": search.index.folder,
        "images": manifest.count("images"),
        "captions": manifest.count("captions"),
        "columns": search.index.columns_to_filter("images"),
        "is_calibrated": bool(manifest.calibration.get("images")),
        "most": MOST_RANKED,
        "review": hasattr(request.app.state, "review"),
    }
    return page_of(request, "search.html", shown)


@router.post("/api/search")
def hits(search: ThePage, asked: SearchAsked) -> dict[str, Any]:
    """Some of the hits of a query, best first; of no query, some of all rows.

    ``total`` is how many hits can be looked through, ``answer`` the probability that the index holds an answer, and
    ``fits`` is false where nothing seems to fit; both are null where that is unknown.
    """
    query = asked.asked()
    ranking, table = search.searching.part(query, asked.offset, asked.limit)
    rows = ranking.rows[asked.offset : asked.offset + asked.limit].tolist()
    found = table.to_pylist()
    images = rows if query.side == "images" else search.index.image_of_caption[rows].tolist()
    return {
        "find": query.side,
        "total": len(ranking.rows),
        "offset": asked.offset,
        "answer": number(found[0]["answer"]) if found else None,
        "fits": found[0]["fits"] if found else None,
        "said": ranking.said,
        "hits": [
            _hit(search, each, image, rank)
            for rank, (each, image) in enumerate(zip(found, images, strict=True), asked.offset + 1)
        ],
    }


@router.post("/api/picture")
async def picture(search: ThePage, request: Request) -> dict[str, str]:
    """Take a picture as a query; its key stands for it."""
    encoded = await request.body()
    if not encoded:
        raise DataError("the picture is empty: drop a picture file")
    return {"picture": await run_in_threadpool(search.searching.look_up_picture, encoded)}


@router.get("/api/images/{image}")
def image(search: ThePage, image: int) -> dict[str, Any]:
    """All captions of an image, by its row."""
    if not 0 <= image < len(search.index.images):
        raise UnknownError(f"there is no image {image:,}")
    return {"captions": search.searching.captions_of(image)}


@router.get("/found/{image}")
def thumbnail(search: ThePage, image: int, size: Annotated[int, Query(ge=32, le=1024)] = 320) -> Response:
    """A picture as WebP, by the row of its image."""
    try:
        small = search.thumbnails.of(image, size)
    except DataError as error:
        raise UnknownError(str(error)) from error
    return Response(small, media_type="image/webp", headers={"Cache-Control": "private, max-age=31536000, immutable"})


def _hit(search: SearchPage, found: dict[str, Any], image: int, rank: int) -> dict[str, Any]:
    has_picture = found["reference"] is not None
    return {
        "rank": rank,
        "id": found["id"],
        "image": image,
        "image_id": found["image_id"],
        "caption": found["caption"],
        "score": number(found["score"]),
        "probability": number(found["probability"]),
        "picture": f"found/{image}?v={search.version}" if has_picture else None,
    }
