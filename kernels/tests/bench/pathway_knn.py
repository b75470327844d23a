"""Pathway's exact index under the stream of `changes.py`: seconds of each round, as JSON.

    python pathway_knn.py X.npy ROWS CHANGES ROUNDS NEIGHBORS

The first rows fill the index; a round's clock runs from its first change until the last of the rows
that came has its answer.
"""

import json
import sys
import threading
import time

import numpy as np
import pathway as pw
from pathway.stdlib.indexing import BruteForceKnn, BruteForceKnnMetricKind, DataIndex

from changes import gone


class Row(pw.Schema):
    row: int = pw.column_definition(primary_key=True)
    vector: np.ndarray


class Told:
    """What subscribers have seen, and who waits for it."""

    def __init__(self):
        self.changed = threading.Condition()
        self.count = self.answers = 0

    def note(self, **seen):
        with self.changed:
            self.count = seen.get("count", self.count)
            self.answers += seen.get("answers", 0)
            self.changed.notify_all()

    def wait(self, what):
        with self.changed:
            assert self.changed.wait_for(what, timeout=3_600), "Pathway does not answer"


class Feed(pw.io.python.ConnectorSubject):
    """Sends what `work` yields, and commits before it waits."""

    def __init__(self, work):
        super().__init__()
        self.work = work

    def run(self):
        self.work(self)

    @property
    def _deletions_enabled(self):
        return True


def check(x, left, found, nearest, half):
    """Answers of the last round by brute force. Its inserts were in the table before it was asked,
    which does not mean that the index has them."""
    live = np.setdiff1d(np.arange(len(x)), left)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)

    def best(row, among):
        among = among[among != row]
        return list(among[np.argsort(-(unit[among] @ unit[row]))[:nearest]])

    for row in range(len(x) - half, len(x))[:16]:
        may = [best(row, live), best(row, live[live < len(x) - half])]
        assert found[row][:nearest] in may, (row, may, found[row])


def main(path, rows, changes, rounds, neighbors):
    x = np.load(path).astype(np.float64)
    half, told, seconds = changes // 2, Told(), []
    found = {}
    filled = threading.Barrier(2)

    def change(feed):
        for row in range(rows):
            feed.next(row=row, vector=x[row])
        feed.commit()
        told.wait(lambda: told.count == rows)
        for number in range(rounds):
            filled.wait()
            begin = number * half
            for i in range(half):
                row = gone(begin + i, rows)
                feed.delete(row=row, vector=x[row])
            feed.commit()
            # As many rows as before stand for a round that is in.
            told.wait(lambda: told.count == rows - half)
            for row in range(rows + begin, rows + begin + half):
                feed.next(row=row, vector=x[row])
            feed.commit()
            told.wait(lambda: told.count == rows)
            filled.wait()
            filled.wait()

    def ask(feed):
        for number in range(rounds):
            filled.wait()
            begun = time.perf_counter()
            filled.wait()
            begin = rows + number * half
            for row in range(begin, begin + half):
                feed.next(row=row, vector=x[row])
            feed.commit()
            told.wait(lambda: told.answers >= (number + 1) * half)
            seconds.append(time.perf_counter() - begun)
            filled.wait()

    read = lambda work: pw.io.python.read(Feed(work), schema=Row, autocommit_duration_ms=None)
    index_rows, queries = read(change), read(ask)
    inner = BruteForceKnn(
        data_column=index_rows.vector,
        metadata_column=None,
        dimensions=x.shape[1],
        reserved_space=rows + half,
        metric=BruteForceKnnMetricKind.COS,
    )
    try:
        inner.query(queries.vector, number_of_matches=neighbors)
        refuses = False
    except NotImplementedError:
        refuses = True
    index = DataIndex(index_rows, inner)
    answers = index.query_as_of_now(queries.vector, number_of_matches=neighbors)
    answers = answers.select(asked=pw.left.row, found=pw.right.row)
    count = index_rows.reduce(count=pw.reducers.count())

    def on_count(key, row, time, is_addition):
        if is_addition:
            told.note(count=row["count"])

    def on_answer(key, row, time, is_addition):
        if is_addition:
            found[row["asked"]] = [other for other in row["found"] if other != row["asked"]]
            told.note(answers=1)

    pw.io.subscribe(count, on_change=on_count)
    pw.io.subscribe(answers, on_change=on_answer)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    assert len(seconds) == rounds and told.answers == half * rounds, (seconds, told.answers)
    check(x, [gone(i, rows) for i in range(half * rounds)], found, neighbors - 1, half)
    version = "pathway " + pw.__version__
    print(json.dumps({"seconds": seconds, "refuses": refuses, "version": version}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
