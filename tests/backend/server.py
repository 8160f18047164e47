"""The stand-in's HTTP: addresses, the key, streams and files."""

import base64
import contextlib
import gzip
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from . import graphql
from .faults import Faults
from .state import State

# Made up: no key of anybody's.
KEY = "0123456789abcdef" * 2 + "0badc0de"


class Backend:
    """A server that is there from ``with Backend() as backend`` on.

    Attributes:
        url: For WANDB_BASE_URL.
        state: What it got.
        faults: How it fails.
    """

    def __init__(self):
        self.state, self.faults = State(), Faults()
        self._server = None
        self._port = 0

    def __enter__(self):
        self.come_back()
        return self

    def __exit__(self, *_):
        self.go_away()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self):
        """What a process needs to have its runs here, and nothing elsewhere."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def runs(self):
        """The runs that it has, in the order in which they came."""
        with self.state.lock:
            return list(self.state.runs.values())

    def come_back(self):
        """Listen; at the address of before, if there was one."""
        self._server = _Server(self, self._port)
        self._port = self._server.server_address[1]
        serve = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        serve.start()

    def go_away(self):
        """Refuse new connections, and cut those that there are."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, backend, port):
        self.backend = backend
        self._open = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request, client_address):
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self):
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        pass  # who is killed says no goodbye


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_):
        pass

    def do_POST(self):
        self._handle(self._post)

    def do_PUT(self):
        self._handle(self._put)

    def do_GET(self):
        self._handle(self._get)

    def _handle(self, answer):
        body = self._body()
        status = self.server.backend.faults.strike()
        if status is None:
            status, content = answer(body)
        else:
            content = {"error": "as a test has asked"}
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if not size:
                    break
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _key(self):
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            return base64.b64decode(value).decode().partition(":")[2]
        return value

    def _parts(self):
        return [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]

    def _post(self, body):
        state, parts, key = self.server.backend.state, self._parts(), self._key()
        if key != KEY:
            return 401, {"errors": [{"message": "no such key"}]}
        if parts == ["graphql"]:
            asked = json.loads(body)
            url = self.server.backend.url
            try:
                found = graphql.answer(
                    state, asked["query"], asked.get("variables") or {}, url, key
                )
            except graphql.Unknown:
                return self._unknown(asked["query"], 400)
            return 200, {"data": found}
        if len(parts) == 5 and (parts[0], parts[4]) == ("files", "file_stream"):
            with state.lock:
                return self._stream(state.run(*parts[1:4], make=True), json.loads(body), key)
        return self._unknown(f"POST {self.path}", 404)

    def _stream(self, run, sent, key):
        run.keys[key] += 1
        for name, chunk in (sent.get("files") or {}).items():
            run.take(name, chunk["offset"], chunk["content"])
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]
        elif sent.get("files"):
            run.exit_code = None  # it has been resumed
        return 200, {"exitcode": None, "limits": {}}

    def _put(self, body):
        state, parts = self.server.backend.state, self._parts()
        if parts[0] != "uploads":
            return self._unknown(f"PUT {self.path}", 404)
        with state.lock:
            state.run(*parts[1:4], make=True).uploads["/".join(parts[4:])] = body
        return 200, {}

    def _get(self, body):
        return self._unknown(f"GET {self.path}", 404)

    def _unknown(self, what, status):
        with self.server.backend.state.lock:
            self.server.backend.state.unknown.append(what)
        return status, {"errors": [{"message": f"the stand-in does not know: {what}"}]}
