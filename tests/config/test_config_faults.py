"""The faults of a configuration file, each by its id: refused, at its place, in words that help."""

from __future__ import annotations

import os

import pytest

from ollamux.config.load import ConfigInvalid, Problem, parse
from ollamux.config.source import first_open_port
from ollamux.domain.errors import Exit

ONE = "version = 1\n[instances.gpu0]\ngpus = [0]\nport = 11435\n"


def refused(text: str | bytes, *, open_port: int = 1024) -> ConfigInvalid:
    """Return the error of a file that has to be refused."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), "ollamux.toml", open_port=open_port)
    assert caught.value.exit_code is Exit.CONFIG
    assert caught.value.message.endswith("Nothing was changed.")
    return caught.value


def only(text: str | bytes) -> Problem:
    """Return the one problem of a file."""
    (problem,) = refused(text).problems
    return problem


@pytest.mark.parametrize("text", ["version = 1\n", "version = 1\n[instances]\n", "version = 1\n[defaults]\n"])
def test_C2_a_file_without_instances_is_no_idle_supervisor(text: str) -> None:
    problem = only(text)
    assert problem.message == "there is no instance to run"
    assert "ollamux init --stdout" in (problem.hint or "")
    assert "there is no instance to run" in refused("").message


def test_C3_a_syntax_error_is_shown_with_its_line_and_a_caret() -> None:
    lines = refused("version = 1\n\n[instances.gpu0]\nport = 11435 oops\n").message.splitlines()
    assert lines[:2] == ["ollamux.toml:4:14  not valid TOML", "    4 | port = 11435 oops"]
    assert lines[2].startswith("      |              ^ the line should end here")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (ONE.encode() + b"# caf\xe9\n", f"byte 0xe9, which is not UTF-8, at offset {len(ONE) + 5}"),
        (ONE.encode() + b"# \0\n", f"a NUL byte at offset {len(ONE) + 2}"),
        (ONE.encode("utf-16"), "the file is in UTF-16; save it as UTF-8"),
    ],
)
def test_C4_another_encoding_is_refused_with_the_place_of_the_byte(source: bytes, told: str) -> None:
    assert only(source).message == told


def test_C5_an_unknown_key_is_refused_with_the_one_that_was_meant() -> None:
    problem = only(ONE.replace("port", "prot"))
    assert (problem.line, problem.path) == (4, "instances.gpu0.prot")
    assert (problem.message, problem.hint) == ("unknown key", 'did you mean "port"?')


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", '"11434"'),
        ("port", "true"),
        ("port", "11434.0"),
        ("gpus", "0.0"),
        ("gpus", "[0.0]"),
        ("gpus", "[true]"),
        ("gpus", '"0"'),
        ("enabled", '"true"'),
        ("enabled", "1"),
        ("context_length", '"8192"'),
        ("host", "127"),
        ("preload", '"qwen3:8b"'),
        ("headroom", "1073741824"),
        ("env", '["A=1"]'),
    ],
)
def test_C6_no_value_is_bent_into_another_type(key: str, value: str) -> None:
    text = "\n".join(line for line in ONE.splitlines() if not line.startswith(key)) + f"\n{key} = {value}\n"
    problem = only(text)
    assert problem.path.startswith(f"instances.gpu0.{key}")
    assert problem.line == text[: text.index(f"\n{key} = ") + 1].count("\n") + 1


def test_C7_all_mistakes_are_told_in_one_run_sorted_by_line() -> None:
    text = "version = 1\n[instances.b]\ngpus = [0]\nprot = 1\nport = 70000\n[instances.A]\ngpus = 0\nport = 11436\n"
    found = refused(text)
    assert [problem.line for problem in found.problems] == [4, 5, 6, 7]
    assert found.message.endswith("4 problems. Nothing was changed.")


@pytest.mark.parametrize("port", [0, -1, 65536, 99999])
def test_C8_a_port_has_to_be_one(port: int) -> None:
    assert only(ONE.replace("11435", str(port))).message == "must be between 1 and 65535"


def test_C8_an_ordinary_user_is_held_to_what_the_kernel_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
        lowest = max(int(file.read()), 1)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert first_open_port() == lowest
    parse(ONE.replace("11435", str(lowest)).encode(), "x")
    if lowest > 1:
        with pytest.raises(ConfigInvalid, match=f"ports below {lowest} are for root"):
            parse(ONE.replace("11435", str(lowest - 1)).encode(), "x")


NAMES = ["", ".", "../x", "a/b", "a\\u0000", "a\\n", "--help", "-a", "_a", "GPU0", "a b", "\\U0001F42B", "a" * 33, "ä"]


@pytest.mark.parametrize("name", NAMES)
def test_C11_S10_a_name_that_is_no_name_is_refused_with_the_rule(name: str) -> None:
    problem = only(ONE.replace("instances.gpu0", f'instances."{name}"'))
    assert problem.message.startswith("a name is made of a-z, 0-9, _ and -, begins with a letter or digit")
    assert problem.line == 2


def test_C11_names_that_differ_only_in_capitals_are_told_apart_for_the_person() -> None:
    problem = only(f"{ONE}[instances.GPU0]\ngpus = [1]\nport = 11436\n")
    assert problem.hint == "gpu0 (line 2) is the same but for capitals"
    again = only(f"{ONE}[instances.gpu0]\ngpus = [1]\nport = 11436\n")
    assert again.message == "the table instances.gpu0 is already begun in line 2"


@pytest.mark.parametrize("name", ["a", "0", "a" * 32, "gpu-0_b"])
def test_C11_a_good_name_is_taken(name: str) -> None:
    (spec,) = parse(ONE.replace("gpu0", name).encode(), "x", open_port=1024).instances
    assert spec.name == name


@pytest.mark.parametrize("name", ["all", "supervisor"])
def test_C12_a_reserved_name_is_refused(name: str) -> None:
    assert only(ONE.replace("gpu0", name)).message == "this name is taken by ollamux itself"


def test_C13_a_reference_that_can_be_none_is_refused_before_any_driver_is_asked() -> None:
    for wrong in ('"gpu0"', '"GPU-xyz"', "-1", "5000", '"65:00"', '""'):
        assert only(ONE.replace("[0]", f"[{wrong}]")).path == "instances.gpu0.gpus[0]"


@pytest.mark.parametrize(
    ("env", "path", "told"),
    [
        ('"A=B" = "1"', '"A=B"', "is not the name of a variable"),
        ('"" = "1"', '""', "is not the name of a variable"),
        ('"A\\u0000" = "1"', '"A\\u0000"', "must not hold a NUL character"),
        ('A = "x\\u0000"', "A", "must not hold a NUL character"),
        ("A = 1", "A", 'must be text in quotes, as "1", not a whole number'),
        ("A = [1]", "A", 'must be text in quotes, as "1", not a list'),
    ],
)
def test_C16_what_no_environment_can_hold_is_refused_with_its_key(env: str, path: str, told: str) -> None:
    problem = only(f"{ONE}env = {{ {env} }}\n")
    assert problem.path == f"instances.gpu0.env.{path}"
    assert problem.message == told


@pytest.mark.parametrize("value", ['"10"', '"10 minutes"', "-5", '"-5s"', "0", '"0s"', "1e400", '"1e400s"', '"9000h"'])
def test_C20_a_time_is_a_number_with_its_unit(value: str) -> None:
    assert only(f"{ONE}health.interval = {value}\n").path == "instances.gpu0.health.interval"


def test_C20_zero_stands_only_where_it_means_something() -> None:
    (spec,) = parse(f'{ONE}restart.first = "0s"\n'.encode(), "x", open_port=1024).instances
    assert spec.restart.first_s == 0.0


def test_C9_both_lines_of_a_clash_are_named() -> None:
    problem = only(f"{ONE}[instances.gpu1]\ngpus = [1]\nport = 11435\n")
    assert problem.line == 7
    assert problem.message == "127.0.0.1:11435 is taken by instances.gpu0 (line 4)"
