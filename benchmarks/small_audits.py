"""Audits of small collections of photographs: how well is a shuffled caption found among 40, 100, … 12,500 pairs?

    truepair embed photographs.csv --out runs/photographs
    python benchmarks/small_audits.py runs/photographs --out runs/small.jsonl
    python benchmarks/small_audits.py runs/photographs --out runs/small.jsonl --table     # what there is

Random images of the store, one random caption each, of which a share is shuffled; of 12,500 pairs, which are more than
there are images, all captions of some images. Every audit is judged three times: by
the trained models alone, by the embeddings alone, and by all evidence, as ``truepair audit`` does. Where nothing is
trained (`audit.judging.FEWEST_LEARNED`) the first is missing. Shuffled 0 says how many right pairs would be dropped.

A row of the table has, as means and standard deviations over the seeds: AUROC and average precision of the mismatch
probability, its calibration error, the estimated noise rate with the mean ends of its interval, and suspects. Audits
that say that nothing can be said are not among them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import markdown, spread

from truepair.audit.judging import Judgement, judged
from truepair.config import AuditConfig, DataConfig, NoiseConfig
from truepair.data.corpora import load_corpus
from truepair.data.embeddings import stored_encoders
from truepair.data.noise import noisy
from truepair.data.pairs import Pairs
from truepair.data.whole import every_pair
from truepair.evaluation.detection import detection_metrics
from truepair.scoring.pair_features import FEATURES, OF_FROZEN
from truepair.scoring.probability import noise_rate_interval, probabilities

SEEDS = {40: 5, 100: 5, 300: 5, 1000: 5, 2500: 5, 12_500: 2}
RATES = (0.2, 0.4, 0.05, 0.0)


def sample(pairs: Pairs, count: int, seed: int) -> Pairs:
    """Random images, and one random caption of each; all captions of some, if there are fewer images than pairs."""
    random = np.random.default_rng((seed, count))
    if count > len(pairs.images):
        place = torch.from_numpy(random.permutation(len(pairs.images)))[pairs.image_of_caption]  # of a pair's image
        return pairs.select(place.argsort(stable=True)[:count].sort().values)
    images = torch.from_numpy(random.permutation(len(pairs.images))[:count])
    order = torch.from_numpy(random.permutation(len(pairs)))
    first = torch.full((len(pairs.images),), -1)
    first[pairs.image_of_caption[order]] = order
    return pairs.select(first[images])


def measured(judgement: Judgement, match: torch.Tensor, rate: float, interval: Sequence[float], pairs: Pairs) -> dict:
    """The numbers of one way to judge."""
    if match.isnan().all():
        return {"unknown": True}
    clean = pairs.is_clean
    found = detection_metrics(match.float(), clean).as_dict() if clean is not None and not clean.all() else {}
    names = ("auroc", "average_precision", "expected_calibration_error")
    return {name: found.get(name) for name in names} | {
        "rate": rate,
        "low": interval[0],
        "high": interval[1],
        "suspects": int((match <= 0.5).sum()),
    }


def alone(judgement: Judgement, names: Sequence[str], pairs: Pairs, seed: int) -> dict | None:
    """By some of the features, without the network of all pairs."""
    if not set(names) <= set(judgement.features.names):
        return None
    features = judgement.features.columns(names)
    found = probabilities(features, seed)
    if found.unknown is not None:
        return {"unknown": True}
    return measured(judgement, found.match, found.noise_rate, noise_rate_interval(features, found, seed), pairs)


def run(pairs: Pairs, vocabulary: Any, encoders: tuple[str, str] | None, count: int, rate: float, seed: int) -> dict:
    """One audit, judged in each way."""
    some = noisy(sample(pairs, count, seed), NoiseConfig(rate=rate, seed=seed))
    started = time.process_time()
    judgement = judged(some, vocabulary, encoders, AuditConfig(seed=seed, device="cpu"))
    seconds = time.process_time() - started
    interval = noise_rate_interval(judgement.features, judgement.found, seed)
    together = measured(judgement, judgement.match, judgement.found.noise_rate, interval, some)
    trained = alone(judgement, FEATURES, some, seed) if judgement.is_trained else None
    untrained = alone(judgement, OF_FROZEN, some, seed) if judgement.is_trained else together
    of = {"pairs": count, "shuffled": rate, "seed": seed, "cpu_seconds": round(seconds, 1)}
    return of | {"trained": trained, "untrained": untrained, "together": together}


def table(runs: Iterable[dict]) -> str:
    """One row a number of pairs, rate and way to judge."""
    runs, rows = list(runs), []
    for rate in RATES:
        for count in SEEDS:
            chosen = [each for each in runs if each["pairs"] == count and each["shuffled"] == rate]
            for way in ("trained", "untrained", "together") if chosen else ():
                told = [each[way] for each in chosen if each[way] is not None]
                found = [each for each in told if "unknown" not in each]
                if not found:
                    continue
                row = [f"{100 * rate:.0f}", f"{count:,}", way, f"{len(found)} of {len(told)}"]
                row += [spread([each[n] for each in found], 3) for n in ("auroc", "average_precision")]
                row += [spread([each["expected_calibration_error"] for each in found], 3)]
                ends = [100 * float(np.mean([each[end] for each in found])) for end in ("low", "high")]
                row += [f"{spread([100 * each['rate'] for each in found], 1)} ({ends[0]:.0f} to {ends[1]:.0f})"]
                row += [spread([each["suspects"] for each in found], 1)]
                rows.append([*row, spread([each["cpu_seconds"] for each in chosen], 0) if way == "together" else ""])
    head = "shuffled, % | pairs | judged by | known in | AUROC | AP | calibration error | rate, % (interval) | suspects"
    return markdown([*head.split(" | "), "CPU s"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="what 'truepair embed' made of photographs")
    parser.add_argument("--out", type=Path, required=True, help="a line of JSON an audit")
    parser.add_argument("--pairs", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--table", action="store_true", help="audit nothing")
    arguments = parser.parse_args()
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    done = {(run["pairs"], run["shuffled"], run["seed"]) for run in map(json.loads, lines)}
    if not arguments.table:
        torch.set_num_threads(1)
        corpus = load_corpus(replace(DataConfig(), path=str(arguments.store)))
        pairs, encoders = every_pair(corpus.splits), stored_encoders(arguments.store)
        for rate in arguments.rates:
            for count in arguments.pairs:
                for seed in range(SEEDS.get(count, 2)):
                    if (count, rate, seed) in done:
                        continue
                    found = run(pairs, corpus.vocabulary, encoders, count, rate, seed)
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(found) + "\n")
    print(table(map(json.loads, arguments.out.read_text().splitlines())))


if __name__ == "__main__":
    main()
