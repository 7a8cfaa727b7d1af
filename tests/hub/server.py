"""A hub of one's own on the loopback address: repositories in memory, the endpoints that huggingface_hub asks."""

import base64
import json
import re
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"


class Hub:
    """What the hub has: files by repository, and every body that was sent to it."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.received: list[bytes] = []
        self.url = ""

    def commit(self, name):
        """Of the names and sizes of the files."""
        return sha1(
            repr([(file, len(content)) for file, content in self.repositories[name].items()]).encode()
        ).hexdigest()

    def find(self, name, revision):
        """The files of a repository, None where it has no such revision."""
        return self.repositories[name] if revision in ("main", self.commit(name)) else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def _answer(self, body=b"", status=200, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", str(len(content))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _fail(self, status, code, message="no"):
        self._answer({"error": message}, status, X_Error_Code=code, X_Error_Message=message)

    def _known(self, name):
        if name in self.hub.repositories:
            return True
        self._fail(404 if self._is_signed_in else 401, "RepoNotFound", "Repository not found")
        return False

    @property
    def _is_signed_in(self):
        return self.headers.get("authorization") == f"Bearer {TOKEN}"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if of := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path):
            return self._resolve(*of.groups())
        if of := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([\w.-]+))?", path):
            return self._about(of[1], of[2], of[3] or "main")
        return self._fail(404, "EntryNotFound")

    def _resolve(self, name, revision, file):
        if not self._known(name):
            return
        files = self.hub.find(name, revision)
        if files is None or file not in files:
            self._fail(404, "RevisionNotFound" if files is None else "EntryNotFound", "Entry not found")
            return
        commit = self.hub.commit(name)
        headers = {"ETag": f'"{sha1((commit + file).encode()).hexdigest()}"', "X_Repo_Commit": commit}
        self._answer(files[file], **headers)

    def _about(self, name, what, revision):
        if not self._known(name):
            return
        files = self.hub.find(name, revision)
        if files is None:
            self._fail(404, "RevisionNotFound", "Invalid rev id")
        elif what == "tree":
            tree = [{"type": "file", "path": f, "size": len(c), "oid": sha1(c).hexdigest()} for f, c in files.items()]
            self._answer(tree)
        else:
            siblings = [{"rfilename": file} for file in files]
            self._answer({"id": name, "modelId": name, "sha": self.hub.commit(name), "siblings": siblings, "tags": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if not self._is_signed_in:
            return self._fail(401, "", "Invalid credentials in Authorization header")
        self.hub.received.append(body)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        name = re.match(r"/api/models/([\w.-]+/[\w.-]+)/", path)[1]
        if not self._known(name):
            return None
        if "/preupload/" in path:
            asked = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": p, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for p in asked]
            return self._answer({"files": files})
        return self._commit(name, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "others":
            return self._fail(403, "", "You don't have the rights to create a model under this namespace")
        is_new = name not in self.hub.repositories
        self.hub.repositories.setdefault(name, {".gitattributes": b""})
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(name)
        return self._answer({"url": f"{self.hub.url}/{name}", "id": name}, 200 if is_new else 409)

    def _commit(self, name, lines):
        files = self.hub.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.hub.commit(name)
        self._answer({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})


@contextmanager
def serving():
    """A hub that is served while the context lasts."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
