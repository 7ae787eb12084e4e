"""What the tests of models share: a box whose servers hold models, and what they were asked."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
from pathlib import Path
from typing import Any

from process_box import Box, wait_for

KEEPING = Path(__file__).with_name("keeping_ollama.py")
HASTY = {"ollamux.supervisor.preload.RENEW_AFTER_S": 0.1, "ollamux.supervisor.preload.QUIET_S": 0.3}


class Models:
    """A box whose ollama keeps models, with a store that all instances share unless they say otherwise."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.store = box.root / "models"
        box.install("ollama", fake=KEEPING)

    def put(self, *names: str, store: Path | None = None) -> None:
        """Put models into a store."""
        for name in names:
            path = self._manifest(name, store)
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = f"sha256:{_blob(_full(name))}"
            layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": 1000}
            path.write_text(json.dumps({"schemaVersion": 2, "config": {**layer, "mediaType": "c"}, "layers": [layer]}))

    def remove(self, name: str) -> None:
        """Take a model out of the store."""
        self._manifest(name).unlink()

    def _manifest(self, name: str, store: Path | None = None) -> Path:
        model, tag = _full(name).split(":")
        return (store or self.store) / "manifests/registry.ollama.ai/library" / model / tag

    def looks(self, name: str, count: int) -> None:
        """Wait until the supervisor has asked an instance so often again what is loaded."""
        file = self.box.knobs(name) / "looks"
        before = file.stat().st_size if file.exists() else 0
        wait_for(lambda: file.exists() and file.stat().st_size >= before + 2 * count, f"{count} looks at {name}")

    def post(self, name: str, path: str = "/api/generate", **body: Any) -> tuple[int, dict[str, Any]]:
        """Ask an instance, as a client does."""
        connection = http.client.HTTPConnection(self.box.host, self.box.ports[name], timeout=30)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def ps(self, name: str) -> dict[str, dict[str, Any]]:
        """Return what an instance has loaded, by name."""
        connection = http.client.HTTPConnection(self.box.host, self.box.ports[name], timeout=30)
        try:
            connection.request("GET", "/api/ps")
            return {row["name"]: row for row in json.loads(connection.getresponse().read())["models"]}
        finally:
            connection.close()

    def kept(self, name: str) -> set[str]:
        """Return what an instance keeps for ever."""
        return {model for model, row in self.ps(name).items() if row["expires_at"] > "2200"}

    def asked(self, name: str, path: str = "/api/") -> list[dict[str, Any]]:
        """Return the bodies of what an instance was asked."""
        file = self.box.knobs(name) / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line.partition(" ")[2]) for line in lines if line.startswith(path)]

    def pulls(self, name: str) -> list[str]:
        """Return the pulls that an instance began and ended."""
        file = self.box.knobs(name) / "pulls"
        return file.read_text().splitlines() if file.exists() else []

    def view(self, name: str) -> dict[str, Any]:
        """Return what the supervisor knows of the models of an instance."""
        instances = self.box.ask("models")["models"]["instances"]
        return next(one for one in instances if one["name"] == name)

    def pin(self, name: str, model: str) -> dict[str, Any]:
        """Return what the supervisor says of a pin."""
        return next((pin for pin in self.view(name)["pins"] if pin["name"] == model), {})

    def wait_kept(self, name: str, *models: str) -> None:
        """Wait until exactly these are kept, and the supervisor has seen it."""
        wanted = {_full(model) for model in models}
        wait_for(lambda: self.kept(name) == wanted, f"{name} keeps {wanted}\n{self.box.story()}")

    def listed(self) -> dict[str, Any]:
        """Return `models ls -o json` with its models by name."""
        done = self.box.ollamux("models", "ls", "-o", "json")
        found: dict[str, Any] = json.loads(done.stdout)
        return {**found, "exit": done.returncode, "models": {row["name"]: row for row in found["models"]}}

    def signal_runner(self, name: str, model: str, number: int) -> None:
        """Signal the runner of a model: SIGUSR1 lets it compute, SIGUSR2 stop."""
        blob = _blob(_full(model))
        os.kill(next(pid for pid in self.box.runners(name) if blob in _words(pid)), number)


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _words(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def _blob(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
