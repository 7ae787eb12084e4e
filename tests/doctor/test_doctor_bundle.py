"""The file for a bug report: what is in it, that no secret is, and that it harms nothing that is there."""

from __future__ import annotations

import gzip
import io
import json
import re
import stat
import tarfile
from pathlib import Path

import pytest
from doctor_rig import Box

from ollamux.doctor.scrub import Scrubber

REFUSED, DENIED = 7, 9
PLANTED = {
    "key": "planted-api-key-1",
    "token": "hf_plantedtokenplanted",
    "proxy": "planted-proxy-pw",
    "hook": "planted-webhook-secret",
    "query": "planted-query-token",
    "bearer": "planted.bearer.value",
    "shell": "planted-from-the-shell",
    "logged": "planted only in a log",
    "named": "planted-and-never-seen-before",
    "twice": "planted-s3cr3t@twice",
    "told": "planted-for-the-notifier",
    "path": "planted-in-the-path-of-a-webhook",
    "signed": "planted-signature",
    "pat": "planted-access-token",
    "asked": "planted in a prompt",
}


def files_of(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {name: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]


@pytest.fixture
def secretive(box: Box) -> Box:
    """A machine with secrets in every place that we know of."""
    box.config(
        gpu0="env = { "
        f'MY_API_KEY = "{PLANTED["key"]}", HF_TOKEN = "{PLANTED["token"]}", '
        f'HTTPS_PROXY = "http://me:{PLANTED["proxy"]}@proxy.example:3128", '
        f'WEBHOOK = "https://h.example/x?token={PLANTED["query"]}", GITHUB_PAT = "{PLANTED["pat"]}", '
        f'TEAM_WEBHOOK_URL = "https://h.example/services/{PLANTED["path"]}" }}'
    )
    file = box.place.work / "ollamux.toml"
    notify = ["/usr/bin/curl", "-d", f'say "{PLANTED["told"]}"', f"https://h.example/bot/{PLANTED['path']}"]
    file.write_text(file.read_text() + f"[supervisor]\nnotify = {json.dumps(notify)}\n")
    box.place.env |= {
        "AWS_SECRET_ACCESS_KEY": PLANTED["shell"],
        "http_proxy": f"http://u:{PLANTED['twice']}@p.example",
        "HOOK_PASSWORD": PLANTED["hook"],
    }
    box.place.state.mkdir()
    box.place.logs.mkdir()
    event = {"reason": f"asked {PLANTED['hook']} at {box.place.env['HOME']}/x, {PLANTED['shell']}"}
    (box.place.state / "events.jsonl").write_text(json.dumps(event) + "\n")
    lines = [
        f'msg="server config" env="map[HTTPS_PROXY:http://me:{PLANTED["proxy"]}@proxy.example OLLAMA_HOST:127.0.0.1 '
        f'OTHER_TOKEN:{PLANTED["named"]} ROCR:]"',
        f"Authorization: Bearer {PLANTED['bearer']}",
        json.dumps({"password": PLANTED["logged"], "model": "qwen3:8b"}),
        json.dumps({"body": json.dumps({"client_secret": PLANTED["logged"]})}),
        f"GET https://h.example/x?token={PLANTED['query']} {box.place.env['HOME']}/.ollama",
        f"url http://u:{PLANTED['twice']}@p.example/a token {PLANTED['token']}",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nplanted\nplanted\n-----END OPENSSH PRIVATE KEY-----",
        "level=INFO prompt_tokens=17 n_head=32",
        f"GET https://h.example/x?X-Amz-Date=1&X-Amz-Signature={PLANTED['signed']} for {notify[3]}",
        rf'level=TRACE source=server.go:1581 msg="completion request" prompt="<|user|>\n\"{PLANTED["asked"]}\""',
        f'level=TRACE source=bpe.go:7 msg=encoded string="{PLANTED["asked"]}" ids="[1 2]"',
        f'level=DEBUG source=routes.go:7 msg="chat request" images=0 prompt="{PLANTED["asked"]}"',
        'level=TRACE source=gpu.go:22 msg="performing CPU discovery" count=2',
    ]
    (box.place.logs / "gpu0.log").write_text("\n".join(lines) + "\n")
    return box


def test_no_planted_secret_is_in_any_of_its_bytes(secretive: Box) -> None:
    path = secretive.root / "home/report.tar.gz"

    result = secretive.run("--bundle", str(path))

    assert result.code == 0 and str(path) in result.err
    raw = path.read_bytes()
    for data in (raw, gzip.decompress(raw)):
        for secret in (*PLANTED.values(), "planted", str(secretive.root / "home")):
            assert secret.encode() not in data, secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_holds_what_a_report_needs(secretive: Box) -> None:
    path = secretive.root / "report.tar.gz"
    secretive.run("--bundle", str(path))

    files = files_of(path)

    names = {name.removeprefix("ollamux-doctor/") for name in files}
    assert names == {"doctor.json", "versions.txt", "config.toml", "events.jsonl", "logs/gpu0.log"}
    assert json.loads(files["ollamux-doctor/doctor.json"])["schema"] == "ollamux.doctor/1"
    versions = files["ollamux-doctor/versions.txt"]
    assert "driver: 580.95.05" in versions and "0.32.15 ['cuda_v12', 'cuda_v13']" in versions
    assert 'HTTPS_PROXY = "http://***@proxy.example:3128"' in files["ollamux-doctor/config.toml"]
    log = files["ollamux-doctor/logs/gpu0.log"]
    assert "~/.ollama" in log and "qwen3:8b" in log and "OLLAMA_HOST:127.0.0.1" in log
    assert "prompt_tokens=17 n_head=32" in log
    assert 'msg="performing CPU discovery" count=2' in log and 'msg="completion request" prompt="***"' in log
    assert '"/usr/bin/curl", "***"' in files["ollamux-doctor/config.toml"]
    assert json.loads(files["ollamux-doctor/events.jsonl"])["reason"] == "asked *** at ~/x, ***"


def test_a_supervisor_that_runs_is_in_it_with_its_status_and_logs(box: Box) -> None:
    box.place.simulate(1)
    path = box.root / "report.tar.gz"

    assert box.run("--simulated", "--bundle", str(path)).code == 0

    files = files_of(path)
    status = json.loads(files["ollamux-doctor/status.json"])
    assert status["simulated"] is True and status["instances"][0]["phase"] == "READY"
    assert "Listening on" in files["ollamux-doctor/logs/gpu0.log"]
    assert '"to": "READY"' in files["ollamux-doctor/events.jsonl"]


def test_only_the_last_part_of_a_log_is_in_it_and_no_half_line(box: Box) -> None:
    box.place.logs.mkdir()
    lines = [f"{number:07d} {'x' * 90}" for number in range(10_000)]
    (box.place.logs / "gpu0.log").write_text("\n".join(lines) + "\n")
    path = box.root / "report.tar.gz"

    box.run("--bundle", str(path))

    kept = files_of(path)["ollamux-doctor/logs/gpu0.log"].splitlines()
    assert kept == lines[-len(kept) :] and 2000 < len(kept) < 3000


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_there_is_never_overwritten(box: Box, kind: str) -> None:
    path, other = box.root / "report.tar.gz", box.root / "other"
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(other)

    result = box.run("--bundle", str(path))

    assert result.code == REFUSED and "is there already" in result.err
    assert not other.exists() and (kind == "link" or path.read_text() == "mine")


def test_a_folder_that_is_not_there_is_told_in_a_line(box: Box) -> None:
    result = box.run("--bundle", str(box.root / "no/where.tar.gz"))

    assert result.code == DENIED and len(result.err.splitlines()) == 1


def test_a_broken_machine_still_gives_its_file_and_its_code(box: Box) -> None:
    box.scene("system init mismatch\n")
    (box.place.work / "ollamux.toml").write_text(
        '[instances.a]\nenv = { API_KEY = "planted-in-a-mistake" }\nprot = 1\n'
    )
    path = box.root / "report.tar.gz"

    assert box.run("--bundle", str(path)).code == 6

    text = gzip.decompress(path.read_bytes())
    assert b"driver-mismatch" in text and b"config-invalid" in text and b"planted" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("OPENAI_API_KEY=sk-abc", "OPENAI_API_KEY=***"),
        ('{"api_key": "a b, c"}', '{"api_key": "***"}'),
        ("password: hunter22, user: me", "password: ***, user: me"),
        ("https://u:p@h/x https://h/y", "https://***@h/x https://h/y"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: ***"),
        ("curl -H 'bearer abcdefghijkl'", "curl -H 'bearer ***'"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "***"),
        ("GET /x?sig_token=abc&n=1", "GET /x?sig_token=***&n=1"),
        ("X_TOKEN: null, n_tokens=17, token=1717", "X_TOKEN: null, n_tokens=17, token=***"),
        ("/home/me/.ollama /home/member /home/me", "~/.ollama /home/member ~"),
        ('"/var/home/me/x" HOME=/home/me: -I/home/me.', '"~/x" HOME=~: -I~.'),
        ('cut off: api_key="abc', 'cut off: api_key="***'),
        ("DB_PASS=x1 PIN_KEY=1234", "DB_PASS=*** PIN_KEY=***"),
        ('env="map[A_TOKEN:abc B:c]" d=e', 'env="map[A_TOKEN:*** B:c]" d=e'),
        ('tokenizer.ggml.model = "gpt2", cached_tokens: 5', 'tokenizer.ggml.model = "gpt2", cached_tokens: 5'),
        ("", ""),
    ],
)
def test_what_is_taken_out_of_text(text: str, shown: str) -> None:
    assert Scrubber(secrets={}, homes=["/home/me", "/var/home/me"]).text(text) == shown


@pytest.mark.parametrize(
    "word", ["a-", "key-", "key=", "://", "x:y@", 'key:"', "-----BEGIN PRIVATE KEY-----", " ", "k"]
)
def test_a_line_that_never_ends_is_read_in_no_time(word: str) -> None:
    assert Scrubber(secrets={}, homes=["/home/me", "/var/home/me"]).text(word * (1_000_000 // len(word)))


def test_what_is_known_to_be_secret_is_taken_out_wherever_it_stands() -> None:
    scrub = Scrubber(
        secrets={"DB_PASS": "s3cr3t!", "A_KEY": "no", "B_AUTH": "false", "HTTP_PROXY": "http://u:p4ssw0rd@h"},
        homes=["/"],
    )

    assert scrub.text("it is s3cr3t! and p4ssw0rd, or no, false") == "it is *** and ***, or no, false"


def test_packing_is_the_same_every_time(box: Box) -> None:
    """Neither its name nor a time is in it."""
    path = box.root / "with-a-name.tar.gz"
    box.run("--bundle", str(path))

    with gzip.open(io.BytesIO(path.read_bytes())) as stream:
        assert stream.read(1) and stream.mtime == 0
    assert not re.search(rb"with-a-name", path.read_bytes())
