"""The tables of README.md and RESULTS.md, from the numbers of the runs.

    python benchmarks/tables.py            # rewrite what stands between the marks in both files
    python benchmarks/tables.py --check    # say whether they are what the numbers give

``ladder.json`` and ``demo.json``, beside this file, hold the numbers of finished runs, as ``accuracy.py --collect`` and
``demo_accuracy.py --collect`` wrote them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from truepair.spread import spread as spread_of

HERE = Path(__file__).parent
NUMBERS = (HERE / "ladder.json", HERE / "demo.json")
PAGES = (HERE.parent / "README.md", HERE / "RESULTS.md")

Numbers = Mapping[str, Any]
"""What `accuracy.numbers_of` says of a run."""

RECALLS = [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
MAIN = ("plain InfoNCE", "CRCL", "MSCN", "DisNCL", "teacher")
WITH_WORDS, WITH_SENTENCES = "pooled", "pooled_sentences"


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean and standard deviation over seeds, of those values that are known."""
    return spread_of([value for value in values if value is not None], digits)


def chosen(numbers: Iterable[Numbers], **wanted: Any) -> list[Numbers]:
    """Runs with these backbone, level, system and rate."""
    return [run for run in numbers if all(run[name] == value for name, value in wanted.items())]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def readme_table(numbers: Sequence[Numbers]) -> str:
    """One row a kind of noise: rSum and AUROC of every system, the best rSum in bold."""
    columns: list[tuple[str, str, str]] = [(WITH_WORDS, system, system) for system in MAIN]
    columns += [(WITH_SENTENCES, "teacher", "teacher, sentence vectors too"), (WITH_WORDS, "plain oracle", "oracle")]
    rows = []
    for level in ("caption", "image"):
        for rate in (0.0, 0.2, 0.4, 0.6, 0.8):
            cells = [chosen(numbers, backbone=b, system=s, level=level, rate=rate) for b, s, _ in columns]
            if rate == 0:
                cells[-1] = cells[0]
            if any(cells):
                what = f"{100 * rate:.0f} %" + ("" if level == "caption" else " of the images")
                rows.append([what, *_in_bold(cells, len(MAIN))])
    return markdown(["captions shuffled", *(title for _, _, title in columns)], rows)


def _in_bold(cells: Sequence[Sequence[Numbers]], compared: int) -> list[str]:
    """rSum / AUROC of every cell; of the first ones, the best rSum is set in bold."""
    means = [statistics.mean(run["test"]["rsum"] for run in runs) if runs else 0.0 for runs in cells]
    best = max(range(compared), key=means.__getitem__)
    said = []
    for place, runs in enumerate(cells):
        rsum = spread([run["test"]["rsum"] for run in runs], 1)
        auroc = spread([run["detection"]["auroc"] for run in runs], 3) if place < len(cells) - 1 else "–"
        rsum = f"**{rsum}**" if place == best and runs else rsum
        said.append(rsum if auroc == "–" else f"{rsum} / {auroc}")
    return said


def demo_table(numbers: Sequence[Numbers]) -> str:
    """The table of `truepair demo`, over the seeds that were run."""
    runs = chosen(numbers, backbone="demo", level="caption", rate=0.4)
    rows = []
    for system in ("plain InfoNCE", "CRCL", "MSCN", "DisNCL", "teacher", "plain oracle"):
        of_system = chosen(runs, system=system)
        found = [run["detection"] for run in of_system]
        rates = [None if each["estimated_noise_rate"] is None else 100 * each["estimated_noise_rate"] for each in found]
        row = [system, spread([run["test"]["rsum"] for run in of_system], 1), spread([e["auroc"] for e in found], 3)]
        rows.append([*row, spread([e["expected_calibration_error"] for e in found], 3), spread(rates, 1)])
    return markdown(["demo, 40 % shuffled", "rSum", "AUROC", "calibration error", "estimated rate, %"], rows)


def ladder_tables(numbers: Sequence[Numbers]) -> str:
    """One table a backbone and kind of noise, with all that was measured."""
    tables = []
    for backbone in dict.fromkeys(run["backbone"] for run in numbers):
        for level in ("caption", "image"):
            for rate in (0.0, 0.2, 0.4, 0.6, 0.8):
                of_table = chosen(numbers, backbone=backbone, level=level, rate=rate)
                if of_table:
                    tables += [f"#### {backbone}, {100 * rate:.0f} % noise, {level} level", _full(of_table)]
    return "\n\n".join(tables)


def _full(runs: Sequence[Numbers]) -> str:
    head = "system | seeds | rSum | i2t R@1 | R@5 | R@10 | t2i R@1 | R@5 | R@10 | AUROC | AP | calibration error"
    head += " | estimated rate, % | best epoch | CPU s"
    rows = []
    for system in dict.fromkeys(run["system"] for run in runs):
        of_system = chosen(runs, system=system)
        found = [run["detection"] for run in of_system]
        rates = [None if each["estimated_noise_rate"] is None else 100 * each["estimated_noise_rate"] for each in found]
        row = [system, str(len(of_system)), spread([run["test"]["rsum"] for run in of_system], 1)]
        row += [spread([run["test"][name] for run in of_system], 1) for name in RECALLS]
        row += [spread([each[name] for each in found], 3) for name in ("auroc", "average_precision")]
        row += [spread([each["expected_calibration_error"] for each in found], 3), spread(rates, 1)]
        row += [", ".join(str(run["best_epoch"]) for run in of_system)]
        row += [spread([run["cpu_seconds"] for run in of_system], 0)]
        rows.append(row)
    return markdown(head.split(" | "), rows)


TABLES: Mapping[str, Callable[[Sequence[Numbers]], str]] = {
    "ladder": readme_table,
    "demo": demo_table,
    "full ladder": ladder_tables,
}
"""What stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->``."""


def rewritten(page: str, numbers: Sequence[Numbers]) -> str:
    """A page with its tables as the numbers give them.

    >>> rewritten("<!-- full ladder -->\\nold\\n<!-- end of full ladder -->", []).splitlines()
    ['<!-- full ladder -->', '', '', '', '<!-- end of full ladder -->']
    """
    for name, table in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if start in page:
            before, rest = page.split(start, 1)
            page = f"{before}{start}\n\n{table(numbers)}\n\n{end}{rest.split(end, 1)[1]}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    arguments = parser.parse_args()
    numbers = [run for path in NUMBERS for run in json.loads(path.read_text())]
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        wanted = rewritten(page, numbers)
        if arguments.check and page != wanted:
            sys.exit(f"{path} is not what the numbers give: run python benchmarks/tables.py")
        if not arguments.check:
            path.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
