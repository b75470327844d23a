"""Rows of Delta tables as readers other than Everpair see them.

    python delta_rows.py rows READER TABLE VERSION COLUMN...   one JSON array per row, sorted
    python delta_rows.py sql ROOT QUERY                        DuckDB; the tables under ROOT are views

READER is duckdb, deltalake or polars. VERSION is a number or "latest". Bytes are printed in
hexadecimal, times as microseconds since 1970.
"""

import datetime
import importlib.util
import json
import pathlib
import sys


def duckdb_connection():
    """DuckDB with its Delta extension, loaded from the installed package: nothing is downloaded."""
    import duckdb

    package = pathlib.Path(importlib.util.find_spec("duckdb_extension_delta").origin).parent
    (extension,) = package.glob(f"extensions/v{duckdb.__version__}/delta.duckdb_extension")
    connection = duckdb.connect()
    connection.execute(f"LOAD '{extension}'")
    return connection


def plain(value):
    """What JSON has no type for, in a form that every reader gives alike."""
    match value:
        case bytes():
            return value.hex()
        case datetime.datetime():
            epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
            return (value - epoch) // datetime.timedelta(microseconds=1)
        case _:
            raise TypeError(f"no JSON form for {type(value)}")


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    return "'" + str(text).replace("'", "''") + "'"


def rows_duckdb(table, version, columns):
    at = "" if version is None else f", version => {version}"
    query = f"SELECT {', '.join(map(quoted, columns))} FROM delta_scan({literal(table)}{at})"
    return duckdb_connection().execute(query).fetchall()


def rows_deltalake(table, version, columns):
    # deltalake reads deletion vectors through its own SQL engine, not through `to_pyarrow_table`.
    import deltalake

    query = f"SELECT {', '.join(map(quoted, columns))} FROM t"
    builder = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(table, version=version))
    batches = builder.execute(query).read_all()
    return list(zip(*(batches[column].to_pylist() for column in columns)))


def rows_polars(table, version, columns):
    import polars

    return polars.scan_delta(table, version=version).select(columns).collect().rows()


def sql(root, query):
    connection = duckdb_connection()
    for log in sorted(pathlib.Path(root).glob("*/_delta_log")):
        table = log.parent
        scan = f"delta_scan({literal(table.resolve())})"
        connection.execute(f"CREATE VIEW {quoted(table.name)} AS SELECT * FROM {scan}")
    return connection.execute(query).fetchall()


def main(arguments):
    match arguments:
        case ["rows", reader, table, version, *columns] if columns:
            readers = {"duckdb": rows_duckdb, "deltalake": rows_deltalake, "polars": rows_polars}
            at = None if version == "latest" else int(version)
            rows = readers[reader](table, at, columns)
            lines = sorted(json.dumps(row, default=plain) for row in rows)
        case ["sql", root, query]:
            lines = [json.dumps(row, default=plain) for row in sql(root, query)]
        case _:
            sys.exit(__doc__)
    for line in lines:
        print(line)


main(sys.argv[1:])
