"""Addresses are written in digits, and an instance is asked where it listens, in the family it listens in."""

from __future__ import annotations

import socket

import pytest
from process_box import Box


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
@pytest.mark.parametrize("stranger_on_ipv4", [False, True])
def test_R71_an_instance_on_ipv6_is_asked_over_ipv6(box: Box, stranger_on_ipv4: bool) -> None:
    box.host = "::1"
    box.config("a")
    with socket.socket() as other:
        if stranger_on_ipv4:
            other.bind(("127.0.0.1", box.ports["a"]))
            other.listen()
        box.up()

        found = box.instance("a")
        assert (found["phase"], found["url"]) == ("READY", f"http://[::1]:{box.ports['a']}")
        told = box.ollamux("exec", "a", "--", "sh", "-c", "echo $OLLAMA_HOST").stdout
        assert f"[::1]:{box.ports['a']}" in told


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "ip6-localhost", "gpu-box", "example.org"])
def test_R71_a_name_is_refused_because_nobody_knows_what_it_resolves_to(box: Box, name: str) -> None:
    box.config("a")
    box.config_path.write_text(box.config_path.read_text().replace(box.host, name))

    done = box.ollamux("up", "--config", str(box.config_path))

    assert done.returncode == 4
    assert "address" in done.stderr
    assert box.starts("a") == []
