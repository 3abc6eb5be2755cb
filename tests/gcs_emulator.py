"""A Google Cloud Storage on this machine: as much of its JSON API as gcsfs and TensorStore use.

Objects are bytes in memory. Preconditions on generations hold, as they do there: the server decides
which of several writers creates an object. https://cloud.google.com/storage/docs/json_api/v1
"""

import http.server
import itertools
import json
import re
import threading
from urllib.parse import parse_qsl, unquote, urlsplit

BUCKET = "bucket"


class Store:
    """What the server holds.

    Attributes:
        objects: {name: (generation, bytes)}.
        refuse: called with (method, name) of each change; what it returns is an HTTP status that
            the request fails with, or None.
    """

    def __init__(self):
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.refuse = lambda method, name: None
        self.lock = threading.RLock()
        self._generations = itertools.count(1)

    def write(self, name: str, data: bytes, wanted: str | None = None) -> dict | None:
        """The new object's metadata; None where its generation is not the one wanted."""
        with self.lock:
            if wanted is not None and int(wanted) != self.objects.get(name, (0,))[0]:
                return None
            self.objects[name] = (next(self._generations), bytes(data))
            return self.describe(name)

    def describe(self, name: str) -> dict:
        generation, data = self.objects[name]
        return {"kind": "storage#object", "bucket": BUCKET, "name": name, "size": str(len(data)),
                "generation": str(generation), "metageneration": "1",
                "updated": "2026-01-01T00:00:00.000Z", "timeCreated": "2026-01-01T00:00:00.000Z",
                "mediaLink": ""}  # fmt: skip

    def list(self, query: dict[str, str]) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        first, end = query.get("startOffset", ""), query.get("endOffset")
        items, prefixes = [], set()
        with self.lock:
            for name in sorted(self.objects):
                if not name.startswith(prefix) or name < first or (end and name >= end):
                    continue
                below = name[len(prefix) :]
                if delimiter and delimiter in below:
                    prefixes.add(prefix + below.split(delimiter)[0] + delimiter)
                else:
                    items.append(self.describe(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection; `store` is set by `serve`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: Store
    uploads: dict[str, tuple[str, str | None, bytearray]]

    def do_GET(self):
        path, query = self._asked()
        if path == f"/storage/v1/b/{BUCKET}":
            return self._answer(200, {"kind": "storage#bucket", "name": BUCKET})
        if path == f"/storage/v1/b/{BUCKET}/o":
            return self._answer(200, self.store.list(query))
        name = self._object(path)
        with self.store.lock:
            if name not in self.store.objects:
                return self._answer(404, {"error": {"code": 404, "message": f"No such: {path}"}})
            generation, data = self.store.objects[name]
            described = self.store.describe(name)
        if query.get("alt") != "media":
            return self._answer(200, described)
        if query.get("ifGenerationNotMatch") == str(generation):
            return self._answer(304, b"")
        given = {"x-goog-generation": str(generation), "x-goog-metageneration": "1",
                 "x-goog-stored-content-length": str(len(data))}  # fmt: skip
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not span:
            return self._answer(200, data, given)
        start, end = int(span[1]), int(span[2] or len(data) - 1) + 1
        if start >= len(data):
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        part = data[start:end]
        given["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        return self._answer(206, part, given)

    def do_POST(self):
        path, query = self._asked()
        if path == "/resume":
            return self.do_PUT()
        body = self._body()
        if path == "/batch/storage/v1":
            return self._batch(body)
        if path != f"/upload/storage/v1/b/{BUCKET}/o":
            return self._answer(404, {"error": {"message": path}})
        kind, name, wanted = query["uploadType"], query.get("name"), query.get("ifGenerationMatch")
        if kind == "multipart":
            boundary = re.search(r"boundary=['\"]?([^'\";]+)", self.headers["Content-Type"])[1]
            _, said, content, _ = body.split(f"--{boundary}".encode())
            name = name or json.loads(re.split(rb"\r?\n\r?\n", said, maxsplit=1)[1])["name"]
            body = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
            body = body[: -2 if body.endswith(b"\r\n") else -1]
        elif kind == "resumable":
            name = name or json.loads(body)["name"]
            number = str(len(self.uploads))
            self.uploads[number] = (name, wanted, bytearray())
            place = f"http://{self.headers['Host']}/resume?upload_id={number}"
            return self._answer(200, b"", {"Location": place})
        return self._write(name, body, wanted)

    def do_PUT(self):
        _, query = self._asked()
        name, wanted, data = self.uploads[query["upload_id"]]
        data += self._body()
        if self.headers["Content-Range"].endswith("/*"):
            return self._answer(308, b"", {"Range": f"bytes=0-{len(data) - 1}"})
        return self._write(name, data, wanted)

    def do_DELETE(self):
        path, query = self._asked()
        status = self._delete(path, query.get("ifGenerationMatch"))
        self._answer(status, b"" if status == 204 else {"error": {"message": "No such object"}})

    def _batch(self, body: bytes) -> None:
        """Many deletions in one request."""
        answers = []
        for line in re.findall(rb"^DELETE (\S+)", body, re.M):
            status = self._delete(urlsplit(line.decode()).path)
            answers.append(
                f"--x\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status} -\r\n\r\n"
            )
        text = "".join(answers) + "--x--\r\n"
        self._answer(200, text.encode(), {"Content-Type": "multipart/mixed; boundary=x"})

    def _delete(self, path: str, wanted: str | None = None) -> int:
        name = self._object(path)
        if status := self.store.refuse("DELETE", name):
            return status
        with self.store.lock:
            if wanted is not None and int(wanted) != self.store.objects.get(name, (0,))[0]:
                return 412 if name in self.store.objects else 404
            return 204 if self.store.objects.pop(name, None) else 404

    def _write(self, name: str, data: bytes, wanted: str | None) -> None:
        if status := self.store.refuse("POST", name):
            return self._answer(status, {"error": {"code": status, "message": "refused"}})
        written = self.store.write(name, data, wanted)
        if written is None:
            return self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        return self._answer(200, written)

    def _asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, dict(parse_qsl(parts.query))

    def _object(self, path: str) -> str:
        return unquote(path.split(f"/b/{BUCKET}/o/", 1)[-1])

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, content: dict | bytes, headers: dict | None = None) -> None:
        if isinstance(content, dict):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json"}
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # clients hang up on answers that they no longer need


def serve() -> tuple[Store, str]:
    """Starts a server in a thread; what it holds, and its address."""
    store = Store()
    handler = type("Bound", (Handler,), {"store": store, "uploads": {}})
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return store, f"http://127.0.0.1:{server.server_address[1]}"


def environment(address: str) -> dict[str, str]:
    """The variables that lead gcsfs and TensorStore there, without credentials."""
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks another service about the bucket
        "FSSPEC_GS_TOKEN": "anon",
    }
