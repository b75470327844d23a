"""Rows of Delta tables as readers other than Everpair see them.

    python delta_rows.py rows READER TABLE VERSION COLUMN...   one JSON array per row, sorted
    python delta_rows.py sql ROOT QUERY                        DuckDB; the tables under ROOT are views
    python delta_rows.py script FILE QUERY                     DuckDB; a query after the SQL in a file
    python delta_rows.py watch ROOT QUERY...                   DuckDB; one number per query, of each epoch


`watch` opens the tables at the versions that _everpair/latest.json names, as often as it changes,
until standard input ends; a line is the epoch and the numbers. Queries may use the variable `epoch`.

READER is duckdb, deltalake or polars. VERSION is a number or "latest". Bytes are printed in
hexadecimal, times as microseconds since 1970. TABLE and ROOT are folders or s3:// URLs; of S3 the
usual variables tell the server and the keys: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY.
"""

import datetime
import importlib.util
import json
import os
import pathlib
import shutil
import sys
import tempfile
import threading
import urllib.parse


def duckdb_connection():
    """DuckDB with its extensions, loaded from the installed packages: nothing is downloaded."""
    import duckdb

    connection = duckdb.connect()
    for name in ["httpfs", "delta"]:
        package = pathlib.Path(importlib.util.find_spec(f"duckdb_extension_{name}").origin).parent
        (extension,) = package.glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension")
        connection.execute(f"LOAD '{extension}'")
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        address = urllib.parse.urlparse(endpoint)
        connection.execute(
            f"""CREATE SECRET (TYPE s3, ENDPOINT {literal(address.netloc)}, URL_STYLE 'path',
                USE_SSL {str(address.scheme == "https").lower()},
                REGION {literal(os.environ["AWS_REGION"])},
                KEY_ID {literal(os.environ["AWS_ACCESS_KEY_ID"])},
                SECRET {literal(os.environ["AWS_SECRET_ACCESS_KEY"])})"""
        )
    return connection


def storage_options():
    """For readers on object_store: the variables say the rest."""
    return {"AWS_ALLOW_HTTP": "true"} if "AWS_ENDPOINT_URL" in os.environ else None


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
    table = deltalake.DeltaTable(table, version=version, storage_options=storage_options())
    builder = deltalake.QueryBuilder().register("t", table)
    batches = builder.execute(query).read_all()
    return list(zip(*(batches[column].to_pylist() for column in columns)))


def rows_polars(table, version, columns):
    import polars

    scan = polars.scan_delta(table, version=version, storage_options=storage_options())
    return scan.select(columns).collect().rows()


def tables(root):
    """Names of the tables under a root: of the folders, all but those that begin with _."""
    if "://" not in root:
        return sorted(log.parent.name for log in pathlib.Path(root).glob("*/_delta_log"))
    import boto3

    address = urllib.parse.urlparse(root)
    prefix = address.path.strip("/") + "/"
    client = boto3.client("s3")
    pages = client.get_paginator("list_objects_v2")
    pages = pages.paginate(Bucket=address.netloc, Prefix=prefix, Delimiter="/")
    folders = (folder["Prefix"] for page in pages for folder in page.get("CommonPrefixes", []))
    names = (folder.removeprefix(prefix).strip("/") for folder in folders)
    return sorted(name for name in names if not name.startswith("_"))


def sql(root, query):
    if "://" not in root:
        root = str(pathlib.Path(root).resolve())
    connection = duckdb_connection()
    for name in tables(root):
        scan = f"delta_scan({literal(f'{root}/{name}')})"
        connection.execute(f"CREATE VIEW {quoted(name)} AS SELECT * FROM {scan}")
    return connection.execute(query).fetchall()


def script(file, query):
    """A script that installs extensions finds them installed: nothing is downloaded."""
    import duckdb

    connection = duckdb.connect()
    ((platform,),) = connection.execute("PRAGMA platform").fetchall()
    with tempfile.TemporaryDirectory() as folder:
        installed = pathlib.Path(folder, f"v{duckdb.__version__}", platform)
        installed.mkdir(parents=True)
        for name in ("delta", "httpfs", "aws"):
            spec = importlib.util.find_spec(f"duckdb_extension_{name}")
            folder_of = pathlib.Path(spec.origin).parent / f"extensions/v{duckdb.__version__}"
            shutil.copy(folder_of / f"{name}.duckdb_extension", installed)
        connection.execute(f"SET extension_directory = {literal(folder)}")
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(pathlib.Path(file).read_text())
        return connection.execute(query).fetchall()


def page_of(root):
    """Gives a function that reads latest.json; it gives None while there is none."""
    if "://" not in root:
        path = pathlib.Path(root, "_everpair/latest.json")
        return lambda: json.loads(path.read_text()) if path.exists() else None
    import boto3
    import botocore.exceptions

    address = urllib.parse.urlparse(root)
    key = address.path.strip("/") + "/_everpair/latest.json"
    client = boto3.client("s3")

    def read():
        try:
            return json.load(client.get_object(Bucket=address.netloc, Key=key)["Body"])
        except client.exceptions.NoSuchKey:
            return None

    return read


def watch(root, queries):
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    connection, read, seen = duckdb_connection(), page_of(root), None
    while True:
        # Asked before the page is read, so that the newest one is always looked at.
        last = ended.is_set()
        page = read()
        if page is not None and page["epoch"] != seen:
            seen = page["epoch"]
            for name, version in page["tables"].items():
                scan = f"delta_scan({literal(f'{root}/{name}')}, version => {version})"
                connection.execute(f"CREATE OR REPLACE VIEW {quoted(name)} AS SELECT * FROM {scan}")
            connection.execute(f"SET VARIABLE epoch = {seen}")
            query = "SELECT " + ", ".join(f"({query})" for query in queries)
            print(json.dumps([seen, *connection.execute(query).fetchone()]), flush=True)
        if last:
            return
        ended.wait(0.1)


def main(arguments):
    match arguments:
        case ["rows", reader, table, version, *columns] if columns:
            readers = {"duckdb": rows_duckdb, "deltalake": rows_deltalake, "polars": rows_polars}
            at = None if version == "latest" else int(version)
            rows = readers[reader](table, at, columns)
            lines = sorted(json.dumps(row, default=plain) for row in rows)
        case ["sql", root, query]:
            lines = [json.dumps(row, default=plain) for row in sql(root, query)]
        case ["script", file, query]:
            lines = [json.dumps(row, default=plain) for row in script(file, query)]
        case ["watch", root, *queries] if queries:
            watch(root, queries)
            lines = []
        case _:
            sys.exit(__doc__)
    for line in lines:
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
