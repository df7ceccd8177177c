"""A server that answers for data sets as the hub's documented API does: revisions, trees of files, and the files."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha1
from urllib.parse import unquote, urlsplit

from tests.http_server import Answer, HttpServer, Request


class HubServer(HttpServer):
    """``datasets``: (name, revision) -> file -> content."""

    def __init__(self, datasets: Mapping[tuple[str, str], Mapping[str, bytes]]) -> None:
        super().__init__()
        self.datasets = {name: dict(files) for name, files in datasets.items()}

    def answer(self, request: Request) -> Answer:
        path = unquote(urlsplit(request.path).path)
        for (name, revision), files in self.datasets.items():
            commit = sha1(repr((name, revision, sorted(files.items()))).encode()).hexdigest()
            for known in (revision, commit):
                if path == f"/api/datasets/{name}/revision/{known}":
                    return Answer(200, {"id": name, "sha": commit, "siblings": [{"rfilename": each} for each in files]})
                if path == f"/api/datasets/{name}/tree/{known}":
                    return Answer(200, [
                        {"type": "file", "path": each, "size": len(data), "oid": sha1(data).hexdigest()}
                        for each, data in files.items()
                    ])  # fmt: skip
                inside = path.removeprefix(f"/datasets/{name}/resolve/{known}/")
                if inside in files:
                    headers = {"ETag": f'"{sha1(files[inside]).hexdigest()}"', "X-Repo-Commit": commit}
                    return Answer(200, files[inside], headers)
        error = "RevisionNotFound" if any(f"/{name}/" in path for name, _ in self.datasets) else "RepoNotFound"
        return Answer(404, {"error": "not found"}, {"X-Error-Code": error})
