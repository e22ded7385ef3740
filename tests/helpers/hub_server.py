"""A small Hub on the loopback interface: the endpoints that `huggingface_hub` needs to push and pull a model."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


TOKEN = "hf_test"
USER = "tester"


class HubError(Exception):
    """Becomes a response with the headers by which the client tells one failure from another."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass
class Commit:
    oid: str
    summary: str
    files: dict[str, str]  # path in the repository -> sha256 of the content


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def commit(self, revision: str) -> Commit:
        for branch, commits in self.branches.items():
            for commit in reversed(commits):
                if revision in (branch, commit.oid):
                    return commit
        raise HubError(404, "RevisionNotFound", f"No revision {revision}")


class HubServer(ThreadingHTTPServer):
    """
    Serves one folder, in which every file content is kept under its sha256. Use it as a context manager; then
    `HF_ENDPOINT=server.url` points a client at it, with `hf_test` as the only good token.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), HubRequestHandler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()

    def blob(self, sha256: str) -> Path:
        return self.folder / sha256

    def store(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob(sha256).write_bytes(content)
        return sha256

    def commits(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """What was committed after the empty commit that creates a repository."""
        return self.repositories[repo_id].branches[revision][1:]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The content of every file at a revision."""
        commit = self.repositories[repo_id].commit(revision)
        return {path: self.blob(sha256).read_bytes() for path, sha256 in commit.files.items()}


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def etag(path: str, content: bytes) -> str:
    """The Hub identifies large files by their sha256 and the others by their git blob."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubRequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer
    repo = r"(?P<repo_id>[\w.-]+/[\w.-]+?)"
    routes = [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", rf"/api/models/{repo}/branch/(?P<branch>[^/]+)", "create_branch"),
        ("POST", rf"/api/models/{repo}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"/{repo}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<sha256>\w+)", "lfs_upload"),
        ("POST", rf"/api/models/{repo}/commit/(?P<revision>[^/]+)", "create_commit"),
        ("GET", rf"/api/models/{repo}(/revision/(?P<revision>[^/]+))?", "model_info"),
        ("GET", rf"/api/models/{repo}/tree/(?P<revision>[^/]+)", "tree"),
        ("GET", rf"/{repo}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ]

    def do_GET(self):
        self.dispatch("GET")

    def do_HEAD(self):
        self.dispatch("GET")

    def do_POST(self):
        self.dispatch("POST")

    def do_PUT(self):
        self.dispatch("PUT")

    def dispatch(self, method: str):
        self.body = self.read_body()
        path = urlsplit(self.path).path
        try:
            for route_method, pattern, name in self.routes:
                match = re.fullmatch(pattern, path)
                if match and route_method == method:
                    arguments = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    with self.server.lock:
                        getattr(self, name)(**arguments)
                    return
            raise HubError(404, "UnknownEndpoint", f"No endpoint {method} {path}")
        except HubError as error:
            self.send_json(
                {"error": str(error)}, error.status, {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            )

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def send_json(self, value: dict | list, status: int = 200, headers: dict[str, str] | None = None):
        self.send_content(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def send_content(self, content: bytes, status: int, headers: dict[str, str]):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        """Silent: the tests read what the server stored, not what it says."""

    def has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def require_token(self):
        if not self.has_token():
            raise HubError(401, "Unauthorized", "Invalid username or password.")

    def repository(self, repo_id: str, *, write: bool = False) -> Repository:
        if write:
            self.require_token()
        repository = self.server.repositories.get(repo_id)
        if repository is None or (repository.private and not self.has_token()):
            raise HubError(404, "RepoNotFound", "Repository not found")
        return repository

    def whoami(self):
        self.require_token()
        self.send_json({"type": "user", "name": USER, "orgs": []})

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        has_front_matter = re.match(r"---\n(\S.*\n)+---\n", content)
        errors = [] if has_front_matter else [{"message": "There is no front matter"}]
        self.send_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create_repo(self):
        self.require_token()
        request = json.loads(self.body)
        repo_id = f"{request['organization'] or USER}/{request['name']}"
        if not repo_id.startswith(f"{USER}/"):
            raise HubError(403, "Forbidden", f"No right to create {repo_id}")
        url = {"url": f"{self.server.url}/{repo_id}"}
        if repo_id in self.server.repositories:
            self.send_json(url, 409)
            return
        repository = Repository(private=request.get("visibility") == "private" or request.get("private", False))
        repository.branches["main"] = [Commit(self.new_oid(repo_id), "initial commit", {})]
        self.server.repositories[repo_id] = repository
        self.send_json(url)

    def new_oid(self, *parts: str) -> str:
        number = sum(len(c) for r in self.server.repositories.values() for c in r.branches.values())
        return hashlib.sha1(repr((number, *parts)).encode()).hexdigest()

    def create_branch(self, repo_id: str, branch: str):
        branches = self.repository(repo_id, write=True).branches
        if branch in branches:
            raise HubError(409, "BranchExists", f"Branch {branch} exists")
        branches[branch] = branches["main"][:1]
        self.send_json({})

    def preupload(self, repo_id: str, revision: str):
        self.repository(repo_id, write=True).commit(revision)
        files = [
            {"path": file["path"], "uploadMode": "lfs" if is_large(file["path"]) else "regular", "shouldIgnore": False}
            for file in json.loads(self.body)["files"]
        ]
        self.send_json({"files": files})

    def lfs_batch(self, repo_id: str):
        self.repository(repo_id, write=True)
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if not self.server.blob(item["oid"]).exists():
                item["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}}
        self.send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, sha256: str):
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise HubError(400, "BadChecksum", f"The content does not hash to {sha256}")
        self.server.store(self.body)
        self.send_json({})

    def create_commit(self, repo_id: str, revision: str):
        repository = self.repository(repo_id, write=True)
        files = dict(repository.commit(revision).files)
        summary = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                summary = value["summary"]
            elif item["key"] == "file" and not is_large(value["path"]):
                files[value["path"]] = self.server.store(base64.b64decode(value["content"], validate=True))
            elif item["key"] == "lfsFile" and self.server.blob(value["oid"]).exists():
                files[value["path"]] = value["oid"]
            elif item["key"] == "deletedFile" and value["path"] in files:
                del files[value["path"]]
            else:
                raise HubError(400, "BadOperation", f"Cannot commit {item['key']} {value['path']}")
        commit = Commit(self.new_oid(repo_id, summary), summary, files)
        repository.branches[revision].append(commit)
        url = f"{self.server.url}/{repo_id}/commit/{commit.oid}"
        self.send_json({"commitUrl": url, "commitOid": commit.oid})

    def model_info(self, repo_id: str, revision: str = "main"):
        repository = self.repository(repo_id)
        commit = repository.commit(revision)
        siblings = [{"rfilename": path} for path in commit.files]
        self.send_json({"id": repo_id, "sha": commit.oid, "private": repository.private, "siblings": siblings})

    def tree(self, repo_id: str, revision: str):
        entries = []
        for path, sha256 in self.repository(repo_id).commit(revision).files.items():
            content = self.server.blob(sha256).read_bytes()
            entry = {"type": "file", "path": path, "oid": etag(path, content), "size": len(content)}
            if is_large(path):
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self.send_json(entries)

    def resolve(self, repo_id: str, revision: str, path: str):
        commit = self.repository(repo_id).commit(revision)
        if path not in commit.files:
            raise HubError(404, "EntryNotFound", f"No file {path}")
        content = self.server.blob(commit.files[path]).read_bytes()
        self.send_content(content, 200, {"ETag": f'"{etag(path, content)}"', "X-Repo-Commit": commit.oid})
