"""Circuits on a hub: a stand-in on this machine's loopback that speaks as much of it as is needed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cna
import pandas as pd
import pytest
from conftest import PROMPTS, make_hf, make_tokenizer


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory: created, committed to in one request, and read back."""

    repos: dict[str, dict[str, bytes]]
    tokens: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.tokens.append(self.headers.get("Authorization") or "")
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.repos.setdefault(name, {})
            return self._json({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        repo = "/".join(self.path.split("/")[3:5])
        if repo not in self.repos:
            return self._json({"error": "no such repository"}, 404)
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            plain = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            return self._json({"files": plain})
        for line in body.decode().splitlines():  # a commit
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.repos[repo][value["path"]] = base64.b64decode(value["content"])
        url = f"http://{self.headers['Host']}/{repo}/commit/1"
        done = {"commitUrl": url, "commitOid": "1" * 40}
        return self._json(done | {"commitMessage": "", "commitDescription": ""})

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[0] == "api":
            repo = "/".join(parts[2:4])
            if repo not in self.repos:
                return self._json({"error": "no such repository"}, 404)
            return self._json({"id": repo, "sha": "1" * 40, "siblings": [], "private": True,
                               "tags": [], "downloads": 0, "likes": 0})  # fmt: skip
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        found = self.repos.get(repo, {}).get(name)
        if found is None:
            code = "RepoNotFound" if repo not in self.repos else "EntryNotFound"
            return self._send(b"", 404, X_Error_Code=code)
        return self._send(found, ETag=f'"{hash(found) & 0xFFFFFF:x}"', X_Repo_Commit="1" * 40)

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    kind = type("Fresh", (Hub,), {"repos": {}, "tokens": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kind
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_circuit_comes_back_from_a_hub_as_it_went(
    hub: tuple[str, type[Hub]], circuit: cna.Circuit
) -> None:
    address, kind = hub
    url = circuit.push_to_hub("someone/c", endpoint=address, token="hf_x", title="Mine")
    assert url.endswith("someone/c/commit/1")
    assert set(kind.repos["someone/c"]) == {"circuit.json", "README.md"}
    assert "Bearer hf_x" in kind.tokens
    assert "# Mine" in kind.repos["someone/c"]["README.md"].decode()
    assert cna.Circuit.from_hub("someone/c", endpoint=address) == circuit


def test_what_a_hub_refuses_is_one_line(hub: tuple[str, type[Hub]], circuit: cna.Circuit) -> None:
    address, _ = hub
    with pytest.raises(
        RuntimeError, match=r"^from_hub: expected a repository with circuit\.json at"
    ):
        cna.Circuit.from_hub("someone/none", endpoint=address)
    with pytest.raises(RuntimeError, match=r"^push_to_hub: expected to write to 'a/b/c'"):
        circuit.push_to_hub("a/b/c", endpoint=address)
    with pytest.raises(RuntimeError, match=r"^push_to_hub: .*network"):
        circuit.push_to_hub("a/b", endpoint="http://127.0.0.1:1")


def test_a_card_says_what_was_found_and_measured(circuit: cna.Circuit, tmp_path: Path) -> None:
    rows = [
        {"method": "cna", "kind": "circuit", "strength": 0.0, "rate": 0.125, "kl_benign": 0.02},
        {"method": "random", "kind": "random", "strength": 0.0, "rate": 0.5, "kl_benign": 0.1},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    text = circuit.card(tmp_path, text="For a paper.")
    assert text.startswith("---\nlibrary_name: cna\n") and "For a paper." in text
    effects = text.split("## What steering does")[1].split("##")[0]
    assert "| cna | 0 | 0.125 | 0.02 |" in effects and "random" not in effects
    assert f"{len(circuit)} of 256 MLP neurons of llama" in text
    for name in circuit.provenance:
        assert f"- {name}: " in text
    assert "Not measured" in circuit.card() and "## Limits" in circuit.card()
    with pytest.raises(FileNotFoundError, match=r"^card: expected a sweep's folder"):
        circuit.card(tmp_path / "none")


def test_verify_knows_the_model_again(tiny: cna.Model, circuit: cna.Circuit) -> None:
    def said(c: cna.Circuit, model: cna.Model) -> dict[str, bool | None]:
        return {v.name: v.ok for v in c.verify(model)}

    good = {"shape": True, "weights": True, "template": True}
    assert said(circuit, tiny) == good | {"fingerprint": None}
    marked = circuit.with_fingerprint(tiny)
    assert said(marked, tiny) == good | {"fingerprint": True}
    again = cna.Circuit.from_json(marked.to_json())
    live = cna.live(make_hf("llama"), make_tokenizer())  # another host: its hash is of another kind
    assert said(again, live)["fingerprint"] is True
    other = cna.live(make_hf("llama", seed=1), make_tokenizer())
    found = said(again, other)
    assert found["fingerprint"] is False and found["weights"] is False and found["shape"]
    raw = cna.live(make_hf("llama"), make_tokenizer(chat=False))
    assert said(again, raw)["fingerprint"] is False
    smaller = cna.Circuit((2, 8), [cna.Neuron(0, 1, 1.0)])
    assert said(smaller, tiny)["shape"] is False


def test_the_shell_verifies(
    exports: Any, circuit: cna.Circuit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cna.cli import main

    circuit.save(tmp_path / "c.json")
    words = ["verify", str(tmp_path / "c.json"), "-m", str(exports("llama"))]
    assert main(words) == 0 and "?   fingerprint" in capsys.readouterr().out
    assert main([*words, "--write"]) == 0 and "ok  fingerprint" in capsys.readouterr().out
    assert len(cna.Circuit.load(tmp_path / "c.json").provenance["fingerprint"]) == 10
    assert main([*words[:3], str(exports("gpt2"))]) == 1
    out = capsys.readouterr().out
    assert "NO  weights" in out and "NO  fingerprint" in out and len(PROMPTS)
