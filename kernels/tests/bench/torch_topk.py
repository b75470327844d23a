"""PyTorch's matmul and topk in bfloat16, for `beside.py`: seconds of each batch, as JSON.

    python torch_topk.py FOLDER BATCHES THREADS NEIGHBORS SECONDS

`FOLDER` has x.npy and q.npy. Rows are taken 65,536 at a time, so that no more scores than that are
written at once. Any PyTorch does: Debian's, where PyPI's would bring CUDA.
"""

import json
import sys
import time

import numpy as np
import torch

ROWS = 65_536


def top(q, parts, count):
    best = []
    for begin, part in parts:
        scores, at = (q @ part.T).topk(min(count, len(part)))
        best.append((scores, at + begin))
    scores, at = (torch.cat(held, 1) for held in zip(*best))
    scores, order = scores.topk(count)
    return scores, at.gather(1, order)


def least(work, seconds):
    best, begin = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def main(folder, batches, threads, count, seconds):
    torch.set_num_threads(int(threads))
    x = torch.from_numpy(np.load(f"{folder}/x.npy")).bfloat16()
    q = torch.from_numpy(np.load(f"{folder}/q.npy")).bfloat16()
    parts = [(begin, x[begin : begin + ROWS]) for begin in range(0, len(x), ROWS)]
    times = {}
    with torch.no_grad():
        for batch in map(int, batches.split(",")):
            some = q[:batch]
            times[batch] = least(lambda: top(some, parts, int(count)), float(seconds))
    print(json.dumps({"version": torch.__version__, "times": times}))


if __name__ == "__main__":
    main(*sys.argv[1:])
