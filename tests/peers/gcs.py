"""A stand-in for Google's object store: the XML API as a client of tables uses it, in front of
moto's S3 server, which keeps what it is given and its promise on conditional puts.

    gcs.py PORT BUCKET ACCOUNT

makes the bucket, writes a service account with a new key to the file ACCOUNT, and listens.

What is Google's here: bearer tokens signed with the account's key, preconditions on generations, no
such object where one is deleted that is not there, and no more than one write a second to a name.
To be of use in a test it also fails: one request in 40 is refused, and of one in 40 that was done
nobody is told.
"""

import base64
import io
import itertools
import json
import sys
import threading
import time
import zlib

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple
from werkzeug.test import run_wsgi_app

SCOPES = {
    "https://www.googleapis.com/auth/cloud-platform",
    "https://www.googleapis.com/auth/devstorage.full_control",
    "https://www.googleapis.com/auth/devstorage.read_write",
}
SIGNED = (
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
)
EMAIL = "tables@everpair.iam.gserviceaccount.com"
FAULTS_EVERY = 40
BETWEEN_WRITES = 1.0


class Refused(Exception):
    def __init__(self, status, code, why=""):
        super().__init__(why)
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{why}</Message></Error>"
        self.status, self.body = status, text.encode()


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Google:
    def __init__(self):
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.count = itertools.count(1)
        self.lock = threading.Lock()
        self.written = {}

    def account(self):
        pem = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "type": "service_account",
            "private_key": pem.decode(),
            "private_key_id": "1",
            "client_email": EMAIL,
            "client_id": "1",
        }

    def check_token(self, environ):
        kind, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        try:
            head, claims, signature = token.split(".")
            self.key.public_key().verify(
                unpadded(signature),
                f"{head}.{claims}".encode(),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
            claims = json.loads(unpadded(claims))
            good = claims["iss"] == EMAIL and SCOPES & set(claims["scope"].split())
            assert kind == "Bearer" and good and claims["iat"] <= time.time() + 60 < claims["exp"]
        except Exception as error:
            raise Refused("401 Unauthorized", "AuthenticationRequired", repr(error)) from error

    def ask(self, environ, **changes):
        """Status, headers and body of what moto answers."""
        asked = {key: environ[key] for key in environ if not key.startswith("werkzeug.")}
        # moto may read the path as it was sent, where a slash is %2F.
        for raw in ("REQUEST_URI", "RAW_URI", "HTTP_X_GOOG_IF_GENERATION_MATCH"):
            asked.pop(raw, None)
        asked |= {"HTTP_AUTHORIZATION": SIGNED} | changes
        body, status, headers = run_wsgi_app(self.moto, asked, buffered=True)
        return status, headers, b"".join(body)

    def may_write(self, name):
        with self.lock:
            if time.monotonic() - self.written.get(name, -BETWEEN_WRITES) < BETWEEN_WRITES:
                raise Refused("429 Too Many Requests", "SlowDown", "one write a second")

    def carried_out(self, environ):
        method, name, query = (
            environ[key] for key in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING")
        )
        is_object = name.strip("/").count("/") > 0
        if not is_object and (method != "GET" or "list-type=2" not in query):
            raise Refused("400 Bad Request", "InvalidRequest", f"{method} {name}?{query}")
        whole = is_object and method == "PUT" and "uploadId" not in query
        changes = {}
        generation = environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH")
        if generation == "0":
            changes["HTTP_IF_NONE_MATCH"] = "*"
        elif generation is not None:
            raise Refused("501 Not Implemented", "NotImplemented", "only generation 0 is tried")
        elif whole:
            self.may_write(name)
        if is_object and method == "DELETE" and "uploadId" not in query:
            nothing = {"REQUEST_METHOD": "HEAD", "CONTENT_LENGTH": "0", "wsgi.input": io.BytesIO()}
            if self.ask(environ, **nothing)[0].startswith("404"):
                raise Refused("404 Not Found", "NoSuchKey")
        status, headers, body = self.ask(environ, **changes)
        if whole and status.startswith("200"):
            with self.lock:
                self.written[name] = time.monotonic()
        tag = headers.get("ETag")
        for header in [name for name, _ in headers if name.lower().startswith("x-amz")]:
            headers.remove(header)
        if tag:
            # Another number where there is another content: nothing here asks for more.
            headers.set("x-goog-generation", str(zlib.crc32(tag.encode()) + 1))
        return status, list(headers), body

    def __call__(self, environ, start):
        number = next(self.count) % FAULTS_EVERY
        # What is not read would be taken for the next request.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        try:
            self.check_token(environ)
            if number == FAULTS_EVERY // 2:
                raise Refused("503 Service Unavailable", "ServiceUnavailable", "before")
            answer = self.carried_out(environ)
            if number == 0:
                raise Refused("503 Service Unavailable", "ServiceUnavailable", "after")
        except Refused as refused:
            length = str(len(refused.body))
            headers = [("Content-Type", "application/xml"), ("Content-Length", length)]
            answer = refused.status, headers, refused.body
        status, headers, body = answer
        start(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def main():
    port, bucket, account = sys.argv[1:]
    google = Google()
    making = {
        "REQUEST_METHOD": "PUT",
        "PATH_INFO": f"/{bucket}",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": f"127.0.0.1:{port}",
        "CONTENT_LENGTH": "0",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
    }
    status, _, body = google.ask(making)
    assert status.startswith("200"), (status, body)
    with open(account, "w") as file:
        json.dump(google.account(), file)
    run_simple(
        "127.0.0.1", int(port), google, threaded=True, request_handler=MotoRequestHandler
    )


main()
