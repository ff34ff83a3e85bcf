"""S3 as moto serves it on this machine, and a proxy before it that breaks what it is told to: fixtures."""

from __future__ import annotations

import http.client
import http.server
import itertools
import logging
import threading
import urllib.request

import pytest
from moto.server import ThreadedMotoServer

from scaleexp import retry
from scaleexp.bucket import bucket
from scaleexp.storage import Store

SECRETS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENG"}
TELLTALE = (
    "<Error><Code>{code}</Code><AWSAccessKeyId>AKIAIOSFODNN7EXAMPLE</AWSAccessKeyId>"
    "<StringToSign>wJalrXUtnFEMIK7MDENG</StringToSign><SignatureProvided>f00dfeed</SignatureProvided></Error>"
)
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    served._port = served.get_host_and_port()[1]  # starts there again after a stop
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{served._port}/studies", method="PUT")).close()
    yield served
    served.stop()


@pytest.fixture(autouse=True)
def object_store(server, monkeypatch):
    """What a user sets; pauses are short."""
    point(monkeypatch, server._port)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr(retry, "_FIRST_S", 0.02)
    monkeypatch.setattr(retry, "_LONGEST_S", 0.05)


def point(patch, port):
    patch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.fixture
def address():
    return f"s3://studies/team/study-{next(_numbers)}"


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on; for each of the first ones a fault: None, a status, (status, code), drop, or swallow.

    A request is dropped before it is passed on; swallowed is an answer.
    """

    daemon_threads = True

    def __init__(self, port, faults):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port, self.faults, self.seen = port, iter(faults), []

    def handle_error(self, request, client_address):
        pass  # a connection that the client gave up


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(self.command)
        fault = next(self.server.faults, None)
        if fault == "drop":
            self.close_connection = True
            return
        if isinstance(fault, int | tuple):
            status, code = fault if isinstance(fault, tuple) else (fault, "InternalError")
            self.reply(status, [], TELLTALE.format(code=code).encode())
            return
        behind = http.client.HTTPConnection("127.0.0.1", self.server.port)
        behind.request(self.command, self.path, body, dict(self.headers))
        found = behind.getresponse()
        content = found.read()
        behind.close()
        if fault == "swallow":
            self.close_connection = True
            return
        dropped = {"connection", "content-length", "transfer-encoding", "date", "server"}
        self.reply(found.status, [h for h in found.getheaders() if h[0].lower() not in dropped], content)

    def reply(self, status, headers, content):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

    def log_message(self, *args):
        pass


@pytest.fixture
def broken(server, monkeypatch, address):
    """broken(faults) -> a store behind a proxy with these faults, and the proxy."""
    proxies = []

    def start(faults, **options):
        proxy = Proxy(server._port, faults)
        proxies.append(proxy)
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        bucket.cache_clear()
        point(monkeypatch, proxy.server_port)
        store = Store(address, **options)
        point(monkeypatch, server._port)
        return store, proxy

    yield start
    bucket.cache_clear()
    for proxy in proxies:
        proxy.shutdown()
        proxy.server_close()
