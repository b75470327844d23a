"""Our search beside FAISS and usearch: the same vectors, the same threads, one run.

    python3 -m venv beside && beside/bin/pip install -r kernels/tests/bench/requirements.txt
    cargo build --release -p kernels --example search
    beside/bin/python kernels/tests/bench/beside.py target/release/examples/search \
        [--rows 200000] [--dims 384,768,1024] [--batches 1,32,256,1024] [--threads 2] [--json FILE] \
        [--torch /usr/bin/python3] [--graphs 384]

Each query has neighbours at cosines from 0.75 to 0.98, of which ten in the band 0.8 to 0.96 are
asked for. Exact search elsewhere knows no band: IndexFlatIP gives the ten nearest (`search`), or
all that score above 0.8 (`range_search`); usearch's exact search the ten nearest. That is less than
what we answer, and it is timed as it is. `--torch` names a Python that has PyTorch: chunked matmul
and topk in bfloat16, which is not exact. `--graphs` names dimensions for which graphs are built too
(hnswlib, usearch: minutes for 200,000 rows), which are approximate; their recall of the ten nearest
stands beside. Times are the least of several, of all in turn, so that
whatever else the machine does falls on all alike. Our neighbours are checked by NumPy's float64.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time

BAND = (0.8, 0.96)
NEIGHBORS = 10
PLANTED = 24
SECONDS = 2.0  # that a figure is repeated for
ROUNDS = 3  # of all in turn


def numbers(text):
    return [int(n) for n in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("search")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dims", type=numbers, default=[384, 768, 1024])
    parser.add_argument("--batches", type=numbers, default=[1, 32, 256, 1024])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cone", action="store_true", help="any two rows at a cosine of about 0.5")
    parser.add_argument("--torch", help="a Python that has PyTorch and NumPy")
    parser.add_argument("--graphs", type=numbers, default=[])
    parser.add_argument("--json")
    return parser.parse_args()


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def corpus(rows, queries, dim, cone):
    random = np.random.default_rng(dim)
    axis = random.standard_normal(dim, dtype=np.float32) if cone else np.float32(0)
    apart = lambda n: unit(random.standard_normal((n, dim), dtype=np.float32) + axis)
    q, x = apart(queries), apart(rows)
    count = min(queries * PLANTED, rows // 2)
    at = random.permutation(rows)[:count]
    of = np.arange(count) % queries
    cosine = (0.75 + 0.23 * (np.arange(count) // queries) / PLANTED).astype(np.float32)[:, None]
    away = x[at] - (x[at] * q[of]).sum(1, keepdims=True) * q[of]
    x[at] = cosine * q[of] + np.sqrt(1 - cosine**2) * unit(away)
    return x.astype(np.float32), q.astype(np.float32)


def least(work):
    best, begin = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def integers(x):
    """Rule 2: what is stored of a vector."""
    x = x.astype(np.float64)
    return np.clip(np.rint(32768 * (x / np.linalg.norm(x, axis=1, keepdims=True))), -32767, 32767)


def check(x, q, found):
    """The neighbours of some queries by brute force, in integers that a double holds exactly."""
    few = min(len(q), 32)
    scores = integers(q[:few]) @ integers(x).T
    lo, hi = (np.ceil(edge * 2.0**30) for edge in BAND)
    for query in range(few):
        inside = np.flatnonzero((scores[query] >= lo) & (scores[query] < hi))
        order = inside[np.lexsort((inside, -scores[query][inside]))][:NEIGHBORS]
        ours = found[query][found[query] >= 0]
        assert list(ours) == list(order), (query, ours, order)
    return few


def ours(options, folder, x, q, batches):
    names = "x.npy", "q.npy", "found.npy", "out.json"
    files = {name: os.path.join(folder, name) for name in names}
    np.save(files["x.npy"], x)
    np.save(files["q.npy"], q)
    command = [options.search, "--vectors", files["x.npy"], "--queries", files["q.npy"]]
    command += ["--batches", ",".join(map(str, batches)), "--threads", str(options.threads)]
    command += ["--band", ",".join(map(str, BAND))]
    command += ["--found", files["found.npy"], "--json", files["out.json"]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with open(files["out.json"]) as file:
        return json.load(file), np.load(files["found.npy"])


def others(index, x, q, threads):
    yield "faiss search", lambda: index.search(q, NEIGHBORS)
    yield "faiss range_search", lambda: index.range_search(q, BAND[0])
    exact = lambda: usearch(x, q, NEIGHBORS, "ip", exact=True, threads=threads)
    yield "usearch exact", exact


def torch_times(options, x, q, batches):
    """In a process of its own: PyTorch brings its own OpenMP."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "torch_topk.py")
    with tempfile.TemporaryDirectory() as folder:
        np.save(os.path.join(folder, "x.npy"), x)
        np.save(os.path.join(folder, "q.npy"), q)
        command = [options.torch, script, folder, ",".join(map(str, batches))]
        command += [str(options.threads), str(NEIGHBORS), str(SECONDS)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    what = f"torch {told['version']} bf16 matmul + topk"
    return {(int(batch), what): seconds for batch, seconds in told["times"].items()}


def graphs(x, q, batches, threads, truth):
    """Approximate indexes: times by batch, and recall of the ten nearest."""
    hnsw = hnswlib.Index(space="ip", dim=x.shape[1])
    hnsw.init_index(len(x), M=16, ef_construction=200)
    hnsw.set_num_threads(threads)
    hnsw.add_items(x)
    hnsw.set_ef(100)
    graph = Index(ndim=x.shape[1], metric="ip", dtype="f32", expansion_search=100)
    graph.add(np.arange(len(x)), x, threads=threads)
    by_row = lambda keys: keys.reshape(-1, NEIGHBORS)  # one query has no rows
    found = {
        "hnswlib HNSW": lambda q: hnsw.knn_query(q, NEIGHBORS)[0],
        "usearch HNSW": lambda q: by_row(graph.search(q, NEIGHBORS, threads=threads).keys),
    }
    for name, search in found.items():
        hits = [len(set(a) & set(b)) for a, b in zip(search(q[: len(truth)]), truth)]
        recall = np.mean(hits) / NEIGHBORS
        for batch in batches:
            yield (batch, f"{name} (recall {recall:.3f})"), least(lambda: search(q[:batch]))


def main(options):
    figures = []
    for dim in options.dims:
        x, q = corpus(options.rows, max(options.batches), dim, options.cone)
        index = faiss.IndexFlatIP(dim)
        index.add(x)
        best = {}
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                timed, found = ours(options, folder, x, q, options.batches)
            for time_of in timed["times"]:
                key = time_of["batch"], "ours, " + time_of["what"]
                best[key] = min(best.get(key, float("inf")), time_of["seconds"])
            for batch in options.batches:
                for what, work in others(index, x, q[:batch], options.threads):
                    best[batch, what] = min(best.get((batch, what), float("inf")), least(work))
        if options.torch:
            best |= torch_times(options, x, q, options.batches)
        if dim in options.graphs:
            _, truth = index.search(q[:256], NEIGHBORS)
            best |= dict(graphs(x, q, options.batches, options.threads, truth))
        few = check(x, q, found)
        print(f"\n{options.rows} rows of {dim}, {options.threads} threads; {few} queries checked")
        for (batch, what), seconds in sorted(best.items()):
            ratio = best[batch, "faiss search"] / seconds
            said = f"{seconds * 1e3:9.2f} ms   {ratio:6.2f} x faiss search"
            print(f"  batch {batch:5} {what:38} {said}")
            figure = {"rows": options.rows, "dim": dim, "batch": batch, "what": what}
            figures.append(figure | {"cone": options.cone, "seconds": seconds})
    if options.json:
        versions = {"faiss": faiss.__version__, "numpy": np.__version__}
        with open(options.json, "w") as file:
            json.dump({"threads": options.threads, "versions": versions, "figures": figures}, file)


if __name__ == "__main__":
    OPTIONS = arguments()
    # Before the libraries are loaded, which read it then.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(OPTIONS.threads)
    import faiss
    import hnswlib
    import numpy as np
    from usearch.index import Index
    from usearch.index import search as usearch

    faiss.omp_set_num_threads(OPTIONS.threads)
    main(OPTIONS)
