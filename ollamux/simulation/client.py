"""The client commands of the simulated `ollama`: list, ps, run, pull, stop, rm, show. They only speak HTTP."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ollamux.simulation.environment import listen_host
from ollamux.simulation.golang import decimal_size
from ollamux.simulation.http import WILDCARDS, Reply, ask

_NO_SERVER = "could not connect to ollama server, run 'ollama serve' to start it"
_FOREVER_YEARS = 20


class ClientError(Exception):
    """Something to say after `Error: `."""


def _request(method: str, path: str, row: Any = None) -> Reply:
    host = listen_host()
    name = "::1" if host.host == "::" else "127.0.0.1" if host.host in (*WILDCARDS, "localhost") else host.host
    try:
        return ask((name, host.port), method, path, b"" if row is None else json.dumps(row).encode())
    except (OSError, EOFError) as error:
        raise ClientError(_NO_SERVER) from error


def _json(method: str, path: str, row: Any = None) -> Any:
    reply = _request(method, path, row)
    body = reply.read()
    if reply.status >= 400:
        raise ClientError(str(json.loads(body)["error"]))
    return json.loads(body) if body else None


def version(own: str) -> int:
    """Print the version of the server, or the warning that there is none."""
    try:
        served = _json("GET", "/api/version")["version"]
    except ClientError:
        print("Warning: could not connect to a running Ollama instance")
        print(f"Warning: client version is {own}")
        return 0
    print(f"ollama version is {served}")
    if served != own:
        print(f"Warning: client version is {own}")
    return 0


def run(command: str, arguments: Sequence[str]) -> int:
    """Run one client command and return its exit code."""
    flags = _flags(arguments)
    words = flags.pop("")
    commands = {"list": _list, "ls": _list, "ps": _ps, "run": _run, "pull": _pull, "stop": _stop, "rm": _rm}
    try:
        if command not in ("list", "ls", "ps") and not words:
            raise ClientError("requires at least 1 arg(s), only received 0")
        if command == "show":
            _show(words)
        else:
            commands[command](words, flags)
    except ClientError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


def _flags(arguments: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"": []}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = value if equals else rest.pop(0) if name == "keepalive" and rest else "true"
        else:
            found[""].append(word)
    return found


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        print("".join(f"{cell:<{width}}    " for cell, width in zip(row, widths, strict=True)))


def _when(text: str) -> datetime:
    head, dot, tail = text.partition(".")
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        text = f"{head}.{tail[: min(digits, 6)].ljust(6, '0')}{tail[digits:]}"
    return datetime.fromisoformat(text)


def _ago(moment: datetime) -> str:
    seconds = (datetime.now(UTC) - moment).total_seconds()
    words = "ago" if seconds >= 0 else "from now"
    seconds = abs(seconds)
    for unit, size in (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count = int(seconds // size)
        if count >= 1:
            if count == 1 and unit != "second":
                return (
                    f"About {'an' if unit == 'hour' else 'a'} {unit} {words}"
                    if unit in ("hour", "minute")
                    else f"1 {unit} {words}"
                )
            return f"{count} {unit}s {words}" if count > 1 else f"{count} second {words}"
    return "Less than a second " + words


def _list(words: Sequence[str], _: dict[str, Any]) -> None:
    rows = [
        (m["name"], m["digest"][:12], decimal_size(m["size"]), _ago(_when(m["modified_at"])))
        for m in _json("GET", "/api/tags")["models"]
        if not words or m["name"].startswith(words[0])
    ]
    _table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


def _ps(_: Sequence[str], __: dict[str, Any]) -> None:
    rows = [
        (
            m["name"],
            m["digest"][:12],
            decimal_size(m["size"]),
            _processor(m["size"], m["size_vram"]),
            str(m["context_length"]),
            _until(m["expires_at"]),
        )
        for m in _json("GET", "/api/ps")["models"]
    ]
    _table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)


def _processor(size: int, vram: int) -> str:
    if vram == 0:
        return "100% CPU"
    if vram == size:
        return "100% GPU"
    if vram > size or size == 0:
        return "Unknown"
    cpu = round((size - vram) / size * 100)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def _until(text: str) -> str:
    moment = _when(text)
    left = moment - datetime.now(UTC)
    if left.total_seconds() < 0:
        return "Stopping..."
    return "Forever" if left.days > 365 * _FOREVER_YEARS else _ago(moment)


def _run(words: Sequence[str], flags: dict[str, Any]) -> None:
    model, prompt = words[0], " ".join(words[1:])
    if _request("POST", "/api/show", {"model": model}).status == 404:
        _pull([model], flags)
    row: dict[str, Any] = {"model": model, "prompt": prompt}
    if "keepalive" in flags:
        row["keep_alive"] = flags["keepalive"]
    if not prompt:
        _json("POST", "/api/generate", row)
        return
    for part in _lines("/api/generate", row):
        sys.stdout.write(part.get("response", ""))
        sys.stdout.flush()
    print("\n")


def _lines(path: str, row: Any) -> Any:
    reply = _request("POST", path, row)
    if reply.status >= 400:
        raise ClientError(str(json.loads(reply.read())["error"]))
    for line in reply.lines():
        part = json.loads(line)
        if "error" in part:
            raise ClientError(str(part["error"]))
        yield part


def _pull(words: Sequence[str], _: dict[str, Any]) -> None:
    last = ""
    for part in _lines("/api/pull", {"model": words[0]}):
        if part["status"] != last:
            sys.stderr.write(f"{part['status']} \n")
            last = part["status"]


def _stop(words: Sequence[str], _: dict[str, Any]) -> None:
    try:
        _json("POST", "/api/generate", {"model": words[0], "keep_alive": 0})
    except ClientError as error:
        if str(error) == _NO_SERVER:
            raise
        raise ClientError(f'couldn\'t find model "{words[0]}" to stop') from error


def _rm(words: Sequence[str], _: dict[str, Any]) -> None:
    for model in words:
        try:
            _json("POST", "/api/generate", {"model": model, "keep_alive": 0})
        except ClientError as error:
            if str(error) == _NO_SERVER:
                raise
        _json("DELETE", "/api/delete", {"model": model})
        print(f"deleted '{model}'")


def _show(words: Sequence[str]) -> None:
    row = _json("POST", "/api/show", {"model": words[0]})
    info, details = row["model_info"], row["details"]
    family = info["general.architecture"]
    print("  Model")
    pairs = [
        ("architecture", family),
        ("parameters", details["parameter_size"]),
        ("context length", str(info[f"{family}.context_length"])),
        ("embedding length", str(info[f"{family}.embedding_length"])),
        ("quantization", details["quantization_level"]),
    ]
    width = max(len(value) for _, value in pairs)
    for name, value in pairs:
        print(f"    {name:<19} {value:<{width}}    ")
    print("\n  Capabilities")
    for ability in row["capabilities"]:
        print(f"    {ability}    ")
    if row.get("parameters"):
        print("\n  Parameters")
        for line in row["parameters"].splitlines():
            name, _, value = line.partition(" ")
            print(f"    {name}    {value.strip()}    ")
    print()
