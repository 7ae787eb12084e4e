"""What the configuration says reaches the server: read from its own log and from the kernel, never from the plan."""

from __future__ import annotations

import os
import re
import signal
from datetime import datetime, timedelta

import pytest

from ollamux.supervisor.family import MARKS

from .box import QUICK, Box, generate, proc_env, proc_words, until

pytestmark = pytest.mark.real_ollama

_CONFIG = re.compile(r'msg="server config" env="map\[(.*)\]"')
_PAIR = re.compile(r"(\w+):(\[[^\]]*\]|.*?)(?= \w+:|$)")


def server_config(box: Box, name: str) -> dict[str, str]:
    """Return the settings that the server itself logged last."""
    lines = _CONFIG.findall(box.log(name))
    assert lines, box.log(name)
    return dict(_PAIR.findall(lines[-1]))


def flag(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def test_every_setting_reaches_the_server(box: Box) -> None:
    box.configure(
        {"a": {}},
        context_length=512,
        num_parallel=3,
        max_loaded_models=2,
        keep_alive="90s",
        kv_cache_type="f16",
        flash_attention=False,
        headroom="1GiB",
        cache_ram="100MiB",
        env={"OLLAMA_NO_CLOUD": "1", "OLLAMA_DEBUG": "1", "OLLAMA_MAX_QUEUE": "7"},
    )
    box.up()
    told = server_config(box, "a")
    wanted = {
        "OLLAMA_HOST": f"http://127.0.0.1:{box.ports['a']}",
        "OLLAMA_MODELS": str(box.store),
        "OLLAMA_CONTEXT_LENGTH": "512",
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_MAX_LOADED_MODELS": "2",
        "OLLAMA_KEEP_ALIVE": "1m30s",
        "OLLAMA_KV_CACHE_TYPE": "f16",
        "OLLAMA_FLASH_ATTENTION": "false",
        "OLLAMA_NOPRUNE": "true",
        "OLLAMA_NO_CLOUD": "true",
        "OLLAMA_DEBUG": "DEBUG",
        "OLLAMA_MAX_QUEUE": "7",
        "OLLAMA_LLM_LIBRARY": "cpu",
        "OLLAMA_VULKAN": "false",
        "CUDA_VISIBLE_DEVICES": "-1",
        "OLLAMA_GPU_OVERHEAD": "0" if box.ollama.has_llama_server else str(1024**3),
    }
    assert {name: told.get(name) for name in wanted} == wanted
    env = proc_env(box.instance("a")["pid"])
    assert env["LLAMA_ARG_CACHE_RAM"] == "100"
    assert env["HOME"] == str(box.home)
    if box.ollama.has_llama_server:
        assert told["LLAMA_ARG_FIT_TARGET"] == env["LLAMA_ARG_FIT_TARGET"] == "1024"
        assert "OLLAMA_GPU_OVERHEAD" not in env
    else:
        assert env["OLLAMA_GPU_OVERHEAD"] == str(1024**3)
        assert "LLAMA_ARG_FIT_TARGET" not in env
    shown = dict(line.split("=", 1) for line in box.ok("env", "a", "--reveal").splitlines())
    assert shown == {name: value for name, value in env.items() if name not in MARKS}, "all of it but the mark"


def test_what_is_not_set_is_left_to_ollama(box: Box) -> None:
    box.configure({"a": {}})
    box.up()
    told = server_config(box, "a")
    assert told["OLLAMA_CONTEXT_LENGTH"] == "8192"
    assert (told["OLLAMA_MAX_LOADED_MODELS"], told["OLLAMA_KEEP_ALIVE"]) == ("0", "5m0s")
    assert (told["OLLAMA_KV_CACHE_TYPE"], told["OLLAMA_GPU_OVERHEAD"]) == ("", "0")
    env = proc_env(box.instance("a")["pid"])
    assert env["LLAMA_ARG_CACHE_RAM"] == "2048" and env["OLLAMA_NOPRUNE"] == "1"
    absent = ("OLLAMA_NUM_PARALLEL", "OLLAMA_FLASH_ATTENTION", "LLAMA_ARG_FIT_TARGET", "OLLAMA_GPU_OVERHEAD")
    assert not any(name in env for name in absent)


def test_the_callers_variables_do_not(box: Box) -> None:
    box.configure({"a": {}})
    stray = {
        "OLLAMA_KEEP_ALIVE": "7s",
        "OLLAMA_NUM_PARALLEL": "9",
        "OLLAMA_HOST": "127.0.0.1:1",
        "OLLAMA_MODELS": "/nowhere",
        "CUDA_VISIBLE_DEVICES": "3",
        "GPU_DEVICE_ORDINAL": "3",
        "LLAMA_ARG_THREADS": "1",
        "GGML_STRAY": "1",
    }
    box.ok("up", "-d", "--config", str(box.config), env={**box.env, **stray})
    env = proc_env(box.instance("a")["pid"])
    assert {name: value for name, value in stray.items() if env.get(name) == value} == {}
    assert server_config(box, "a")["OLLAMA_KEEP_ALIVE"] == "5m0s"


@pytest.mark.parametrize("cache", ["f16", "q8_0"])
def test_the_settings_of_a_runner(box: Box, model: str, cache: str) -> None:
    box.configure(
        {"a": {}},
        context_length=512,
        num_parallel=2,
        keep_alive="90s",
        kv_cache_type=cache,
        flash_attention=True,
        cache_ram="100MiB",
        health=QUICK,
    )
    box.up()
    asked = datetime.now().astimezone()
    assert generate(box.ports["a"])["response"]
    runner = box.await_runner("a")
    assert proc_env(runner)["OLLAMUX_INSTANCE"] == "a"
    (said,) = box.ps("a")
    assert said["context_length"] == 512
    left = datetime.fromisoformat(said["expires_at"]) - asked
    assert timedelta(seconds=80) < left < timedelta(seconds=150)
    if not box.ollama.has_llama_server:
        told = server_config(box, "a")
        assert (told["OLLAMA_KV_CACHE_TYPE"], told["OLLAMA_FLASH_ATTENTION"]) == (cache, "true")
        return
    words = proc_words(runner)
    assert (flag(words, "-c"), flag(words, "-np")) == ("1024", "2")
    assert (flag(words, "--cache-type-k"), flag(words, "--cache-type-v")) == (cache, cache)
    assert flag(words, "--flash-attn") == "on"
    assert "prompt cache is enabled, size limit: 100 MiB" in box.log("a")


def test_max_loaded_models_holds(box: Box, model: str) -> None:
    box.configure({"a": {}}, max_loaded_models=1, health=QUICK)
    box.up()
    for name in ("tiny", "other"):
        generate(box.ports["a"], model=name)
    until(lambda: len(box.runners("a")) == 1, "one runner is left", shown=box.told)
    until(lambda: [row["name"] for row in box.status()["models"]] == ["other:latest"], "it is shown", shown=box.told)


def test_more_models_than_one_are_loaded_within_the_limit(box: Box, model: str) -> None:
    box.configure({"a": {}}, max_loaded_models=2, health=QUICK)
    box.up()
    for name in ("tiny", "other"):
        generate(box.ports["a"], model=name)
    until(lambda: len(box.status()["models"]) == 2, "both are shown", shown=box.told)
    assert {row["name"] for row in box.status()["models"]} == {"tiny:latest", "other:latest"}
    assert len(box.runners("a")) == 2


def test_preloaded_models_are_kept_also_after_a_crash(box: Box, model: str) -> None:
    box.configure({"a": {"preload": ["tiny"]}, "b": {}}, keep_alive="1m", health=QUICK)
    box.up()

    def kept() -> bool:
        return [(row["instance"], row["name"], row["expires_at"]) for row in box.status()["models"]] == [
            ("a", "tiny:latest", None)
        ]

    until(kept, "the model is loaded and kept", shown=box.told)
    assert "kept" in box.await_reason("a", "tiny is loaded")
    before, runner = box.instance("a"), box.await_runner("a")
    # A client that asks for no time of its own does not end it.
    generate(box.ports["a"])
    assert box.runners("a") == [runner]
    os.kill(before["pid"], signal.SIGKILL)
    box.await_instance("a", "READY", gen=before["generation"] + 1)
    until(lambda: kept() and box.await_runner("a") != runner, "it is loaded and kept again", shown=box.told)
    assert sum("tiny is loaded" in reason for reason in box.reasons("a")) == 2
    assert box.runners("b") == []


def test_a_pin_that_a_client_ended_is_renewed(box: Box, model: str) -> None:
    box.configure({"a": {"preload": ["tiny"]}}, health=QUICK)
    box.up()

    def ends() -> list[str | None]:
        return [row["expires_at"] for row in box.status()["models"]]

    until(lambda: ends() == [None], "the model is loaded and kept", shown=box.told)
    generate(box.ports["a"], keep_alive="5m")
    until(lambda: ends() not in ([], [None]), "the pin is seen to be lost", shown=box.told)
    # It is renewed only now and then, so as not to quarrel with a client.
    until(lambda: ends() == [None], "it is kept again", seconds=60, shown=box.told)
    assert len(box.runners("a")) == 1


def test_a_pin_whose_runner_was_killed_is_loaded_again(box: Box, model: str) -> None:
    box.configure({"a": {"preload": ["tiny"]}}, health=QUICK)
    box.up()
    box.await_reason("a", "tiny is loaded and kept")
    killed = box.await_runner("a")
    os.kill(killed, signal.SIGKILL)
    box.await_reason("a", "the runner of tiny:latest is gone")
    again = until(lambda: [pid for pid in box.runners("a") if pid != killed], "it is loaded", 60, shown=box.told)
    until(lambda: [row["expires_at"] for row in box.status()["models"]] == [None], "and kept", shown=box.told)
    assert box.runners("a") == again and box.instance("a")["generation"] == 1


def test_a_preload_that_is_not_there_is_told(box: Box, model: str) -> None:
    box.configure({"a": {"preload": ["no-such-model", "tiny"]}}, health=QUICK)
    box.up()
    assert "not found" in box.await_reason("a", "no-such-model could not be loaded")
    until(lambda: box.status()["models"], "the other one is loaded", shown=box.told)
    assert box.instance("a")["phase"] == "READY"
