"""The review page in a real browser: does it work with keys only, look right, and stay quick?

    python benchmarks/review_in_browser.py AUDIT --screenshots shots/   # reviews 20 pairs of a copy of the audit
    python benchmarks/review_in_browser.py --rows 100000                # time of lists and scrolling, without pictures

The first starts `truepair review`, decides by keys, undoes one step, starts the server anew on another port, undoes one
more, searches, filters by issue, exports, and compares the export with what the keys meant. It takes pictures, wide, of
a telephone's width, and dark; on a telephone the first pair must be within the first screen.
The second makes an audit of random numbers in a temporary folder. Both need playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

KEYS = "KDDRKDDDRKDKDDRDDKDD"
"""K keep, D drop, R re-pair where something is suggested (drop elsewhere)."""
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audit", type=Path, nargs="?", help="an audit's folder; it is copied")
    parser.add_argument("--screenshots", type=Path, default=Path("review-screenshots"), help="a folder for pictures")
    parser.add_argument("--rows", type=int, help="measure with so many pairs instead")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    if (arguments.audit is None) == (arguments.rows is None):
        parser.error("give an audit's folder, or --rows")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        if arguments.rows is None:
            arguments.screenshots.mkdir(parents=True, exist_ok=True)
            copy = Path(shutil.copytree(arguments.audit, Path(folder) / "audit"))
            for earlier in (copy / "review.sqlite", copy / "reviewed"):
                shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink(missing_ok=True)
            review(browser, copy, arguments.screenshots)
        else:
            measure(browser, synthetic(Path(folder) / "audit", arguments.rows))
        browser.close()


@contextmanager
def served(audit: Path) -> Iterator[str]:
    """The address of a review's page."""
    command = [sys.executable, "-m", "truepair.cli.main", "review", str(audit), "--no-browser"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        print(f"the server was up after {time.perf_counter() - started:.1f} s")
        yield first.removeprefix("review: ").strip()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def watched(context: BrowserContext, address: str) -> Iterator[Page]:
    """The page, which must not complain on the console."""
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        page.goto(address)
        page.locator(".card:not(.waiting)").first.wait_for()
        yield page
    finally:
        print(*complaints, sep="\n", end="")
    page.close()
    assert not complaints, "see what the page complained about"


def settled(page: Page) -> None:
    """Wait until every step is answered, pictures are there and the cut is counted."""
    page.evaluate("async () => { await steps; await new Promise((done) => setTimeout(done, 150)); }")
    page.wait_for_load_state("networkidle")


def review(browser: Browser, audit: Path, screenshots: Path) -> None:
    context = browser.new_context(viewport=WIDE)
    findings = pq.read_table(audit / "findings.parquet").to_pylist()
    meant = {}
    with served(audit) as address, watched(context, address) as page:
        settled(page)
        page.screenshot(path=screenshots / "first.png")
        for key, found in zip(KEYS, findings, strict=False):
            key = "D" if key == "R" and found["suggested_image_id"] is None else key
            page.keyboard.press(key.lower())
            meant[found["caption_id"]] = {"K": "keep", "D": "drop", "R": "re-pair"}[key]
        settled(page)
        progress = page.locator("#progress-says").inner_text()
        assert progress.startswith(f"{len(KEYS)} of "), progress
        page.keyboard.press("u")
        settled(page)
        meant.pop(findings[len(KEYS) - 1]["caption_id"])
        page.keyboard.press("Home")
        settled(page)
        page.screenshot(path=screenshots / "decided.png")
        page.keyboard.press("Enter")
        settled(page)
        page.screenshot(path=screenshots / "closer.png")
        page.keyboard.press("Enter")
        page.keyboard.press("?")
        page.screenshot(path=screenshots / "keys.png")
    with served(audit) as address, watched(context, address) as page:
        settled(page)
        page.keyboard.press("Control+z")  # the browser's own last step, made before the restart
        settled(page)
        meant.pop(findings[len(KEYS) - 2]["caption_id"])
        progress = page.locator("#progress-says").inner_text()
        assert progress.startswith(f"{len(KEYS) - 2} of "), progress
        search_and_filter(page)
        page.locator("#export").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#says")).to_have_text(re.compile("^Written"))
        print(page.locator("#says").inner_text())
        expect(page.locator("#written-path")).to_have_value(str((audit / "reviewed").resolve()))
        page.locator("#copy-path").click()
        expect(page.locator("#says")).to_have_text(re.compile("^The path is (copied|selected)"))
        page.select_option("select[name=decided]", "")
        expect(page.locator("#says")).to_have_text(re.compile("in this list$"))
        settled(page)
        for name, viewport, scheme in (
            ("wide", WIDE, "light"),
            ("wide_dark", WIDE, "dark"),
            ("narrow", NARROW, "light"),
            ("narrow_dark", NARROW, "dark"),
        ):
            page.set_viewport_size(viewport)
            page.emulate_media(color_scheme=scheme)
            page.evaluate("window.scrollTo(0, 0)")
            settled(page)
            page.screenshot(path=screenshots / f"{name}_top.png")
            if viewport is NARROW:
                page.reload()  # the panels are closed where a telephone opens the page
                page.locator(".card:not(.waiting)").first.wait_for()
                settled(page)
                box = page.locator(".card").first.bounding_box()
                bottom = box["y"] + box["height"]
                assert bottom <= viewport["height"], f"{name}: the first pair ends at {bottom:.0f} pixels"
                page.screenshot(path=screenshots / f"{name}_first.png")
            page.evaluate("document.getElementById('bar').scrollIntoView()")
            settled(page)
            page.screenshot(path=screenshots / f"{name}_cards.png")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= viewport["width"], f"{name}: the page is {width} pixels wide"
    check_export(audit, findings, meant)


def search_and_filter(page: Page) -> None:
    """Esc in the search clears the field and the list; an issue shows all its pairs."""
    page.select_option("select[name=decided]", "")
    expect(page.locator("#says")).to_have_text(re.compile("in this list$"))
    settled(page)
    everything = page.locator("#says").inner_text()
    page.keyboard.press("/")
    page.keyboard.type("no caption says this")
    expect(page.locator("#says")).to_have_text("0 pairs in this list")
    page.keyboard.press("Escape")
    expect(page.locator("#says")).to_have_text(everything)
    expect(page.locator("input[name=text]")).to_have_value("")
    for option in page.locator("select[name=issue] option").all()[1:]:
        count = re.search(r"\(([\d,]+)\)$", option.inner_text())[1]
        page.select_option("select[name=issue]", option.get_attribute("value"))
        expect(page.locator("#says")).to_have_text(re.compile(f"^{count} pairs? in this list$"))
    if page.locator("select[name=issue]").is_enabled():
        page.select_option("select[name=issue]", "")
        expect(page.locator("#says")).to_have_text(everything)
    page.select_option("select[name=decided]", "undecided")
    expect(page.locator("#says")).not_to_have_text(everything)
    print("search and issues do what they say")


def check_export(audit: Path, findings: list[dict], meant: dict[str, str]) -> None:
    """The hand where the keys decided, the rule elsewhere."""
    threshold = json.loads((audit / "summary.json").read_text())["threshold"]
    rows = pq.read_table(audit / "reviewed" / "provenance.parquet").to_pylist()
    for row, found in zip(rows, findings, strict=True):
        rule = "drop" if found["mismatch_probability"] >= threshold else "keep"
        assert row["action"] == meant.get(found["caption_id"], rule), row
        assert (row["rule"] == "by hand") == (found["caption_id"] in meant), row
    print(f"the export is what the keys meant: {dict(Counter((row['action'], row['rule']) for row in rows))}")


def synthetic(folder: Path, rows: int) -> Path:
    """An audit of pairs that were in memory: random numbers and words, a fifth of them suspects."""
    random = np.random.default_rng(0)
    probability = np.sort(random.beta(0.4, 1.2, rows).astype(np.float32))[::-1]
    words = np.array(("two", "black", "dog", "cat", "bird", "in", "the", "snow", "street", "running", "woman"))
    chosen = words[random.integers(0, len(words), (rows, 9))]
    suggested = [f"image {i}" if i >= 0 else None for i in np.where(probability > 0.5, random.permutation(rows), -1)]
    table = {
        "rank": np.arange(1, rows + 1),
        "caption_id": [f"caption {i}" for i in range(rows)],
        "image_id": [f"image {i}" for i in range(rows)],
        "caption": [" ".join(caption) for caption in chosen],
        "mismatch_probability": probability.copy(),
        "is_suspect": probability >= 0.5,
        "similarity": random.uniform(-1, 1, rows).astype(np.float32),
        "suggested_image_id": pa.array(suggested, pa.string()),
        "suggestion_probability": pa.nulls(rows, pa.float32()),
        "suggestion_is_mutual": np.zeros(rows, dtype=bool),
        "may_re_pair": np.zeros(rows, dtype=bool),
        "suggested_caption_id": pa.array([f"caption {i}" for i in random.permutation(rows)]),
    }
    folder.mkdir()
    pq.write_table(pa.table(table), folder / "findings.parquet")
    summary = {
        "corpus": "pairs in memory",
        "pairs": rows,
        "data": {},
        "audit": {"re_pair": False, "split": "all"},
        "scored_by": {"how": "cross-fitting"},
        "threshold": 0.5,
        "image_root": None,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


FRAMES = """async (pixels) => {
  const frames = [];
  let most = 0, last = performance.now();
  for (let step = 1; step <= 150; step++) {
    window.scrollTo(0, 500 + step * pixels);
    await new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)));
    frames.push(performance.now() - last);
    last = performance.now();
    most = Math.max(most, document.querySelectorAll('.card').length);
  }
  return [frames, most];
}"""
"""Milliseconds from one frame to the next, scrolling so many pixels each, and the most cards in the document."""


def measure(browser: Browser, audit: Path) -> None:
    with served(audit) as address, watched(browser.new_context(viewport=WIDE), address) as page:
        for query in ("", "filter=suspects,undecided&offset=15000", "text=bird in the snow", "order=borderline"):
            times = []
            for _ in range(20):
                started = time.perf_counter()
                answer = page.request.get(f"{address.partition('?')[0]}api/pairs?limit=100&{query}")
                times.append(1000 * (time.perf_counter() - started))
            median, found = statistics.median(times), answer.json()["total"]
            print(f"/api/pairs?{query}: median {median:.0f} ms, worst {max(times):.0f} ms ({found:,} pairs)")
        page.select_option("select[name=which]", "")
        settled(page)
        for pixels, how in ((100, "scrolling by the wheel"), (1500, "dragging the scroll bar")):
            frames, most = page.evaluate(FRAMES, pixels)
            print(
                f"{how}: median frame {statistics.median(frames):.0f} ms, worst {max(frames):.0f} ms; "
                f"at most {most} cards in the document"
            )
        started = time.perf_counter()
        page.keyboard.press("End")
        page.locator(".card.now:not(.waiting)").wait_for()
        print(f"to the last pair: {1000 * (time.perf_counter() - started):.0f} ms")
        page.keyboard.press("Home")
        settled(page)
        started = time.perf_counter()
        for _ in range(100):
            page.keyboard.press("d")
        settled(page)
        print(f"100 decisions by key: {time.perf_counter() - started:.1f} s, all of them saved")
        assert page.locator("#progress-says").inner_text().startswith("100 of ")


if __name__ == "__main__":
    main()
