"""Mining under inserts and deletes beside what others offer for it: one stream, one run.

    python3 -m venv beside && beside/bin/pip install -r kernels/tests/bench/requirements.txt
    cargo build --release -p operators --example mining
    beside/bin/python kernels/tests/bench/changes.py target/release/examples/mining \
        [--rows 100000] [--dim 384] [--changes 1000] [--rounds 3] [--threads 2] [--json FILE] \
        [--without hnswlib,pathway]

Rows enter at once; then, in each round, half of the changes are deletes and half are inserts. What
is asked for is the ten nearest of every live image in the band 0.8 to 0.96. Ours keeps them right
for all images (exactly; checked here for a sample by NumPy's float64). The others answer a query
when it is asked: "new" is what the images that came cost, whose earlier answers stay as they were;
"all" is what it costs to ask again for every live image, which is what makes earlier answers right,
timed for 1,024 of them and multiplied. FAISS's flat index and Pathway's brute force are exact and
know no band (ten nearest); hnswlib is approximate, its recall is of the ten nearest. Pathway refuses
to revise with an exact index (`BruteForceKnn.query`), so it has "new" alone. Seconds are those of
the quickest round, for 1,000 changes.
"""

import argparse
import json
import math
import os
import subprocess
import tempfile
import time

BAND = (0.8, 0.96)
NEIGHBORS = 10
FAMILY = 16
SAMPLE = 1024


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("mining")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--changes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", default="")
    parser.add_argument("--json")
    return parser.parse_args()


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def corpus(rows, dim):
    """Families whose images are at a cosine of about 0.87, mixed."""
    random = np.random.default_rng(dim)
    families = max(rows // FAMILY, 1)
    centres = unit(random.standard_normal((families, dim), dtype=np.float32))
    of = random.integers(families, size=rows)
    x = np.empty((rows, dim), np.float32)
    for begin in range(0, rows, 65_536):
        some = of[begin : begin + 65_536]
        own = unit(random.standard_normal((len(some), dim), dtype=np.float32))
        x[begin : begin + 65_536] = unit(0.933 * centres[some] + 0.36 * own)
    return x


def gone(i, rows):
    """As the example deletes: each row once."""
    step = rows // 2 + 1
    while math.gcd(step, rows) > 1:
        step += 1
    return i * step % rows


def rounds(options):
    """Of each round the rows that leave, and those that come."""
    half = options.changes // 2
    for begin in range(0, half * options.rounds, half):
        leave = [gone(begin + i, options.rows) for i in range(half)]
        yield np.array(leave), np.arange(options.rows + begin, options.rows + begin + half)


def integers(x):
    """Rule 2: what is stored of a vector."""
    x = x.astype(np.float64)
    return np.clip(np.rint(32768 * (x / np.linalg.norm(x, axis=1, keepdims=True))), -32767, 32767)


def check(x, live, found):
    """Lists of the sampled rows by brute force, in integers that a double holds exactly."""
    rows = sorted(found)[::4]
    lo, hi = (np.ceil(edge * 2.0**30) for edge in BAND)
    queries = integers(x[rows])
    scores = np.empty((len(rows), len(live)))
    for begin in range(0, len(live), 65_536):
        part = live[begin : begin + 65_536]
        scores[:, begin : begin + 65_536] = queries @ integers(x[part]).T
    for row, of_row in zip(rows, scores):
        inside = np.flatnonzero((of_row >= lo) & (of_row < hi) & (live != row))
        order = live[inside[np.lexsort((live[inside], -of_row[inside]))][:NEIGHBORS]]
        assert list(order) == found[row], (row, found[row], order)
    return len(rows)


def ours(options, folder, x, live):
    vectors, out = os.path.join(folder, "x.npy"), os.path.join(folder, "out.json")
    np.save(vectors, x)
    command = [options.mining, "stream", "--vectors", vectors, "--json", out]
    command += ["--rows", str(options.rows), "--changes", str(options.changes)]
    command += ["--rounds", str(options.rounds), "--workers", str(options.threads)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with open(out) as file:
        lines = json.load(file)
    few = check(x, live, {line["row"]: line["found"] for line in lines if "found" in line})
    told = [line for line in lines if line.get("what") == "changes"]
    best = min(told, key=lambda line: line["seconds"])
    lists = sum(line["lists"] for line in told) // len(told)
    note = f"exact, {lists} lists a round, {few} checked"
    return [("everpair, all kept right", best["seconds"], note)]


def faiss_flat(options, x, live):
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(x.shape[1]))
    index.add_with_ids(x[: options.rows], np.arange(options.rows))
    changing, asking = [], []
    for leave, come in rounds(options):
        begin = time.perf_counter()
        index.remove_ids(leave)
        index.add_with_ids(x[come], come)
        changing.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        index.search(x[come], NEIGHBORS + 1)
        asking.append(time.perf_counter() - begin)
    best = float("inf")
    for _ in range(2):
        begin = time.perf_counter()
        _, truth = index.search(x[live[:SAMPLE]], NEIGHBORS + 1)
        best = min(best, time.perf_counter() - begin)
    every = min(changing) + best * len(live) / min(SAMPLE, len(live))
    return [
        ("FAISS flat, new", min(changing) + min(asking), "exact, earlier answers stay"),
        ("FAISS flat, all", every, "exact, asked again (extrapolated)"),
    ], truth


def hnsw(options, x, live, truth):
    index = hnswlib.Index(space="ip", dim=x.shape[1])
    index.init_index(options.rows, M=16, ef_construction=200, allow_replace_deleted=True)
    index.set_num_threads(options.threads)
    index.set_ef(100)
    begin = time.perf_counter()
    index.add_items(x[: options.rows], np.arange(options.rows))
    print(f"  (hnswlib: {time.perf_counter() - begin:.0f} s for the first rows)", flush=True)
    changing, asking = [], []
    for leave, come in rounds(options):
        begin = time.perf_counter()
        for row in leave:
            index.mark_deleted(row)
        index.add_items(x[come], come, replace_deleted=True)
        changing.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        index.knn_query(x[come], NEIGHBORS + 1)
        asking.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    found, _ = index.knn_query(x[live[:SAMPLE]], NEIGHBORS + 1)
    best = time.perf_counter() - begin
    recall = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth)])
    every = min(changing) + best * len(live) / min(SAMPLE, len(live))
    note = f"recall {recall:.3f}"
    return [
        ("hnswlib, new", min(changing) + min(asking), note + ", earlier answers stay"),
        ("hnswlib, all", every, note + ", asked again (extrapolated)"),
    ]


def pathway(options, x):
    """A process of its own: its engine keeps what it took."""
    command = [sys.executable, os.path.join(HERE, "pathway_knn.py")]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.npy")
        np.save(path, x)
        numbers = [options.rows, options.changes, options.rounds, NEIGHBORS + 1]
        environment = os.environ | {"PATHWAY_THREADS": str(options.threads)}
        command += [path, *map(str, numbers)]
        done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["refuses"], "Pathway's exact index revises by now: compare with that"
    note = f"exact, earlier answers stay; {told['version']} refuses to revise"
    return [("Pathway BruteForceKnn, new", min(told["seconds"]), note)]


def main(options):
    half = options.changes // 2
    x = corpus(options.rows + half * options.rounds, options.dim)
    left = np.concatenate([leave for leave, _ in rounds(options)])
    live = np.setdiff1d(np.arange(len(x)), left)
    print(f"{options.rows} rows of {options.dim}, {options.threads} threads", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = ours(options, folder, x, live)
    figures, truth = faiss_flat(options, x, live)
    rows += figures
    without = options.without.split(",")
    if "pathway" not in without:
        rows += pathway(options, x)
    if "hnswlib" not in without:
        rows += hnsw(options, x, live, truth)
    scale = 1_000 / (2 * half)
    figures = []
    for what, seconds, note in rows:
        ratio = seconds / rows[0][1]
        print(f"  {what:30} {seconds * scale:10.3f} s   {ratio:8.2f} x ours   {note}")
        figures.append({"what": what, "seconds": seconds * scale, "ratio": ratio, "note": note})
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"rows": options.rows, "dim": options.dim, "figures": figures}, file)


if __name__ == "__main__":
    OPTIONS = arguments()
    # Before the libraries are loaded, which read it then.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(OPTIONS.threads)
    import sys

    import faiss
    import hnswlib
    import numpy as np

    HERE = os.path.dirname(os.path.abspath(__file__))
    faiss.omp_set_num_threads(OPTIONS.threads)
    main(OPTIONS)
