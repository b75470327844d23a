"""Exact search as PyTorch users write it, for comparison: chunked matmul, then top-k or a band
test.

    python3 beside.py FILE [--device cuda] [--queries 2048] [--rows 1048576] [--dim 1024]

Prints a table and writes the figures to FILE, as JSON; what fails, a compiler that is not there
say, is listed with its reason. Rates count 2·queries·rows·dim operations, as the harness does for
its own. bf16 products are not exact, and ties fall as they may: it is the speed that is compared,
and of the answers only that one planted row is found.
"""

import argparse
import json
import statistics
import time

import torch

NEIGHBORS = 32
CHUNK = 1 << 16
REPEATS = 7
WARM_UP = 0.5  # seconds: clocks of an idle device take a while to rise
LOW, HIGH = 0.8, 1.1
PLANTED = (7, 5)  # this query is that row


def chunks(rows):
    return zip(range(0, len(rows), CHUNK), rows.split(CHUNK))


# What is done with each chunk, and what `torch.compile` takes: a whole loop it would cut in pieces.


def best(queries, chunk):
    return (queries @ chunk.T).topk(min(NEIGHBORS, len(chunk)), dim=1)


def keep(queries, chunk):
    scores = queries @ chunk.T
    return (scores >= LOW) & (scores < HIGH)


def top_k(best, queries, rows):
    scores, ids = None, None
    for first, chunk in chunks(rows):
        here, at = best(queries, chunk)
        at = at + first
        if scores is not None:
            here, at = torch.cat([scores, here], 1), torch.cat([ids, at], 1)
            here, order = here.topk(min(NEIGHBORS, here.shape[1]), dim=1)
            at = at.gather(1, order)
        scores, ids = here, at
    return ids


def band(keep, queries, rows):
    found = []
    for first, chunk in chunks(rows):
        pairs = keep(queries, chunk).nonzero()
        pairs[:, 1] += first
        found.append(pairs)
    return torch.cat(found)


def top_k_is_right(ids):
    return ids[PLANTED[0], 0].item() == PLANTED[1]


def band_is_right(pairs):
    return pairs.tolist() == [list(PLANTED)]


def median_seconds(run, device):
    def seconds():
        begin = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    begun = time.perf_counter()
    while device == "cuda" and time.perf_counter() - begun < WARM_UP:
        seconds()
    return statistics.median(seconds() for _ in range(REPEATS))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=1 << 20)
    parser.add_argument("--dim", type=int, default=1024)
    options = parser.parse_args()

    torch.manual_seed(0)
    kind = torch.bfloat16 if options.device == "cuda" else torch.float32
    unit = torch.nn.functional.normalize
    shape = {"device": options.device}
    queries = unit(torch.randn(options.queries, options.dim, **shape), dim=1).to(kind)
    rows = unit(torch.randn(options.rows, options.dim, **shape), dim=1).to(kind)
    queries[PLANTED[0]] = rows[PLANTED[1]]

    work = 2.0 * options.queries * options.rows * options.dim
    ways = [("top-k", top_k, best, top_k_is_right), ("band test", band, keep, band_is_right)]
    if hasattr(torch, "compile"):
        ways += [
            (f"{name}, compiled", way, torch.compile(part, dynamic=False), is_right)
            for name, way, part, is_right in ways
        ]
    figures, failed = [], []
    for name, way, part, is_right in ways:
        name = f"torch {str(kind).split('.')[1]} matmul + {name}"
        try:
            # The first run compiles.
            if not is_right(way(part, queries, rows)):
                raise RuntimeError("the planted row was not found, or more than it")
            seconds = median_seconds(lambda: way(part, queries, rows), options.device)
        except Exception as error:
            failed.append({"name": name, "why": f"{type(error).__name__}: {error}"})
            print(f"{name:<52} failed: {type(error).__name__}")
            continue
        rate = work / seconds / 1e12
        figures.append({"name": name, "value": round(rate, 3), "unit": "TOP/s"})
        print(f"{name:<52} {rate:>10.1f} TOP/s")
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    with open(options.file, "w") as file:
        json.dump({**versions, "figures": figures, "failed": failed}, file)


main()
