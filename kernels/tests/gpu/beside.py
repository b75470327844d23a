"""Exact search as PyTorch users write it, for comparison: chunked matmul, then top-k or a band test.

    python3 beside.py FILE [--device cuda] [--queries 2048] [--rows 1048576] [--dim 1024]

Prints a table and writes the figures to FILE, as JSON. Rates count 2·queries·rows·dim operations, as
the harness does for its own. bf16 products are not exact, and ties fall as they may: it is the speed
that is compared, not the answers.
"""

import argparse
import json
import statistics
import time

import torch

NEIGHBORS = 32
CHUNK = 1 << 16
REPEATS = 7
LOW, HIGH = 0.8, 0.96


def top_k(queries, rows):
    best = None
    for chunk in rows.split(CHUNK):
        scores, ids = (queries @ chunk.T).topk(min(NEIGHBORS, len(chunk)), dim=1)
        if best is not None:
            scores, ids = torch.cat([best[0], scores], 1), torch.cat([best[1], ids], 1)
            scores, order = scores.topk(NEIGHBORS, dim=1)
            ids = ids.gather(1, order)
        best = scores, ids
    return best


def band(queries, rows):
    found = []
    for chunk in rows.split(CHUNK):
        scores = queries @ chunk.T
        found.append(((scores >= LOW) & (scores < HIGH)).nonzero())
    return found


def median_seconds(run, device):
    seconds = []
    for repeat in range(REPEATS + 2):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat >= 2:
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


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

    work = 2.0 * options.queries * options.rows * options.dim
    ways = [("top-k", top_k), ("band test", band)]
    if options.device == "cuda" and hasattr(torch, "compile"):
        ways += [("top-k, compiled", torch.compile(top_k))]
        ways += [("band test, compiled", torch.compile(band))]
    figures = []
    for name, way in ways:
        seconds = median_seconds(lambda: way(queries, rows), options.device)
        rate = work / seconds / 1e12
        name = f"torch {str(kind).split('.')[1]} matmul + {name}"
        figures.append({"name": name, "value": round(rate, 3), "unit": "TOP/s"})
        print(f"{name:<44} {rate:>10.1f} TOP/s")
    with open(options.file, "w") as file:
        json.dump({"torch": torch.__version__, "figures": figures}, file)


main()
