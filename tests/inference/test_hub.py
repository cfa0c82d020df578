"""A stand-in of the hub's HTTP interface on this machine: repositories in memory, uploads in one commit."""

import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml

from dermaffinity import LesionClassifier
from dermaffinity.errors import DataError

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    repositories: dict[str, dict] = {}  # noqa: RUF012

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            self.repositories.setdefault(name, {"visibility": asked.get("visibility"), "files": {}})
            self.answer({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self.answer(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
            )
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.repositories[name]["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer({"error": path}, 404)

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            name = "/".join(path.split("/")[3:5])
            if name not in self.repositories:
                return self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            kept = self.repositories[name]["files"]
            if "/tree/" in path:
                tree = [{"type": "file", "path": file, "size": len(kept[file]), "oid": "0" * 40} for file in kept]
                return self.answer(tree)
            files = [{"rfilename": file} for file in kept]
            return self.answer({"id": name, "sha": COMMIT, "siblings": files, "private": False, "tags": []})
        name, _, file = path[1:].partition("/resolve/")
        content = self.repositories.get(name, {"files": {}})["files"].get(file.partition("/")[2])
        if content is None:
            return self.answer({"error": "no"}, 404, {"X-Error-Code": "EntryNotFound"})
        return self.send(content, 200, {"ETag": f'"{hash(content)}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, value, code=200, headers=()):
        self.send(json.dumps(value).encode(), code, {"Content-Type": "application/json", **dict(headers)})

    def send(self, content, code, headers):
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args): ...


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for place, name, value in (
        (constants, "ENDPOINT", address),
        (constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"),
        (constants, "HF_HUB_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setattr(place, name, value)
    monkeypatch.setattr(Hub, "repositories", {})
    yield Hub.repositories
    server.shutdown()


def images(number=3):
    return list(np.random.default_rng(0).integers(0, 255, (number, 40, 50, 3), dtype=np.uint8))


def test_what_comes_back_says_the_same_and_nothing_tells_of_single_images(hub, toy_model):
    classifier = LesionClassifier.load(toy_model)
    assert classifier.push_to_hub("clinic/toy", token="secret").endswith(COMMIT)
    files = hub["clinic/toy"]["files"]
    assert sorted(files) == ["README.md", "classifier.json", "fold-0_seed-0.safetensors", "fold-1_seed-0.safetensors"]
    assert hub["clinic/toy"]["visibility"] == "private"
    assert not any(b".png" in content for content in files.values())
    assert json.loads(files["classifier.json"])["data"]["image_hashes"] == ""
    again = LesionClassifier.from_pretrained("clinic/toy")
    np.testing.assert_array_equal(again.predict_proba(images()), classifier.predict_proba(images()))
    assert again.explain(images()[0]).examples is None


def test_examples_go_along_when_they_are_asked_for(hub, toy_model):
    LesionClassifier.load(toy_model).push_to_hub("clinic/toy", examples=True, token="secret")
    assert "fold-0_seed-0_examples.safetensors" in hub["clinic/toy"]["files"]
    assert LesionClassifier.from_pretrained("clinic/toy").explain(images()[0]).examples is not None


def test_the_card_has_metadata_and_states_the_license_of_the_data(hub, toy_model):
    LesionClassifier.load(toy_model).push_to_hub("clinic/toy", token="secret")
    _, metadata, text = hub["clinic/toy"]["files"]["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(metadata)["pipeline_tag"] == "image-classification"
    assert "License of the images: **none**" in text
    assert "Research use only" in text
    assert 'LesionClassifier.from_pretrained("clinic/toy")' in text
    assert "each was scored on a fold" in text


def test_a_folder_is_read_without_a_hub_and_what_is_not_there_is_one_clear_error(hub, toy_model, tmp_path):
    assert LesionClassifier.from_pretrained(toy_model).description.name == "toy"
    with pytest.raises(DataError, match="clinic/nothing: cannot be read from the hub"):
        LesionClassifier.from_pretrained("clinic/nothing")
    copied = tmp_path / "copied"
    shutil.copytree(toy_model, copied)
    with pytest.raises(DataError, match="not a name: cannot be uploaded"):
        LesionClassifier.load(copied).push_to_hub("not a name", token="secret")
    assert Path(copied).exists()
