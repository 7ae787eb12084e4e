"""What a valid file comes to, and that no file at all gets past without an answer."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.config.load import ConfigInvalid, parse, warnings
from ollamux.domain.errors import Exit
from ollamux.domain.spec import FleetSpec, GpuRefKind, InstanceSpec, OnFault, Pinning, RestartPolicy, SupervisorSpec
from ollamux.ollama.env import MANAGED as SET_BY_US

from .config_values import REPEATABLE

ROOT = Path(__file__).parents[2]
ONE = "version = 1\n[instances.gpu0]\ngpus = [0]\nport = 11435\n"


def fleet(text: str | bytes, *, open_port: int = 1024) -> FleetSpec:
    """Parse a text that has to be valid."""
    return parse(text if isinstance(text, bytes) else text.encode(), "ollamux.toml", open_port=open_port)


def only(text: str) -> InstanceSpec:
    """Return the one instance of a text."""
    return fleet(text).instances[0]


def problems(text: str | bytes, *, open_port: int = 1024) -> str:
    """Return what a wrong text prints."""
    with pytest.raises(ConfigInvalid) as caught:
        fleet(text, open_port=open_port)
    assert caught.value.exit_code is Exit.CONFIG
    assert caught.value.problems
    return caught.value.message


def test_what_is_left_out_is_as_the_specification_says() -> None:
    spec = only(ONE)
    assert spec == InstanceSpec(name="gpu0", port=11435, pinning=Pinning.GPUS, gpus=spec.gpus)
    assert fleet(ONE).supervisor == SupervisorSpec()


def test_instances_override_defaults_key_by_key() -> None:
    spec = only(
        """
        version = 1
        [defaults]
        host = "127.0.0.2"
        context_length = 4096
        env = { A = "1", B = "1" }
        health.interval = "10s"
        [defaults.restart]
        policy = "never"
        base = "2s"
        [defaults.on]
        spill = "stop"
        [instances.gpu0]
        gpus = [0]
        port = 11435
        context_length = 512
        env.B = "2"
        keep_alive = -1
        [instances.gpu0.health]
        failures = 9
        [instances.gpu0.restart]
        base = "500ms"
        """
    )
    assert (spec.host, spec.context_length, spec.env) == ("127.0.0.2", 512, (("A", "1"), ("B", "2")))
    assert (spec.health.interval_s, spec.health.failures, spec.health.timeout_s) == (10.0, 9, 5.0)
    assert (spec.restart.policy, spec.restart.base_s, spec.restart.cap_s) == (RestartPolicy.NEVER, 0.5, 60.0)
    assert spec.on.spill.value == "stop"
    assert spec.on.wrong_gpu is OnFault().wrong_gpu
    assert spec.keep_alive_s == -1


def test_instances_keep_the_order_of_the_file() -> None:
    text = "version = 1\n" + "".join(f"[instances.{n}]\ngpus=[]\nport={p}\n" for n, p in (("z", 2000), ("a", 2001)))
    assert [spec.name for spec in fleet(text).instances] == ["z", "a"]


@pytest.mark.parametrize(
    ("written", "kind", "value"),
    [
        ("7", GpuRefKind.INDEX, "7"),
        ('"GPU-8F3C2A90"', GpuRefKind.UUID, "GPU-8f3c2a90"),
        ('"GPU-8f3c2a90-11"', GpuRefKind.UUID, "GPU-8f3c2a90-11"),
        ('"GPU-8f3c2a90-1111-2222-3333-444455556666"', GpuRefKind.UUID, "GPU-8f3c2a90-1111-2222-3333-444455556666"),
        ('"GPU-1a2b3c4d5e6f7081"', GpuRefKind.UUID, "GPU-1a2b3c4d5e6f7081"),
        ('"MIG-63feeb45-94c6-5cb9-8ecd-5AEF5f9a4e38"', GpuRefKind.MIG, "MIG-63feeb45-94c6-5cb9-8ecd-5aef5f9a4e38"),
        ('"00000000:65:00.0"', GpuRefKind.PCI, "0000:65:00.0"),
        ('"0000:C1:1f.7"', GpuRefKind.PCI, "0000:c1:1f.7"),
        ('"65:00.0"', GpuRefKind.PCI, "0000:65:00.0"),
        ('"00010000:65:00.0"', GpuRefKind.PCI, "10000:65:00.0"),
        ('"amd:01"', GpuRefKind.AMD, "1"),
    ],
)
def test_references_are_brought_to_one_form(written: str, kind: GpuRefKind, value: str) -> None:
    (ref,) = only(f"version = 1\n[instances.a]\ngpus = [{written}]\nport = 11435\n").gpus
    assert (ref.kind, ref.value) == (kind, value)


@pytest.mark.parametrize(("written", "pinning"), [("[]", Pinning.CPU), ('"any"', Pinning.ANY), ("[0]", Pinning.GPUS)])
def test_pinning(written: str, pinning: Pinning) -> None:
    assert only(f"version = 1\n[instances.a]\ngpus = {written}\nport = 11435\n").pinning is pinning


@pytest.mark.parametrize(
    ("written", "seconds"), [("-1", -1.0), ("0", 0.0), ('"0s"', 0.0), ('"90m"', 5400.0), ('"250ms"', 0.25)]
)
def test_keep_alive(written: str, seconds: float) -> None:
    assert only(f"{ONE}keep_alive = {written}\n").keep_alive_s == seconds


@pytest.mark.parametrize(("written", "host"), [("[::1]", "::1"), ("0:0:0:0:0:0:0:1", "::1"), ("0.0.0.0", "0.0.0.0")])
def test_hosts_are_brought_to_one_form(written: str, host: str) -> None:
    assert only(f'{ONE}host = "{written}"\n').host == host


def test_C4_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    assert fleet(b"\xef\xbb\xbf" + ONE.replace("\n", "\r\n").encode()) == fleet(ONE)


def two(first: str, second: str, *, defaults: str = "") -> str:
    """Return two instances on the same port and GPU, with more keys each."""
    return (
        f"version = 1\n[defaults]\n{defaults}\n[instances.a]\ngpus = [0]\nport = 11435\n{first}\n"
        f"[instances.b]\ngpus = [0]\nport = 11435\n{second}\n"
    )


SHARE = "share_gpu = true\n"


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::1", False),
        ("127.0.0.1", "0.0.0.0", True),
        ("::", "127.0.0.1", True),
        ("0.0.0.0", "::1", True),
        ("[::]", "0.0.0.0", True),
        ("::1", "[0::1]", True),
        ("192.168.1.4", "127.0.0.1", False),
    ],
)
def test_C9_ports_clash_where_the_addresses_overlap(one: str, other: str, clash: bool) -> None:
    text = two(f'{SHARE}host = "{one}"', f'{SHARE}host = "{other}"')
    if clash:
        assert "is taken by instances.a (line 6)" in problems(text)
    else:
        assert len(fleet(text).instances) == 2


def test_an_instance_that_is_kept_down_is_in_nobodys_way() -> None:
    assert [spec.enabled for spec in fleet(two("enabled = false", "")).instances] == [False, True]


@pytest.mark.parametrize(("first", "second"), [(SHARE, ""), ("", SHARE), ("", "")])
def test_C10_a_shared_gpu_has_to_be_shared_by_both(first: str, second: str) -> None:
    assert "write share_gpu = true in both" in problems(two(first, f'{second}host = "127.0.0.2"'))


def test_C10_sharing_may_be_a_default() -> None:
    assert len(fleet(two("", 'host = "127.0.0.2"', defaults="share_gpu = true")).instances) == 2


def test_C8_privileged_ports_depend_on_the_machine() -> None:
    text = ONE.replace("11435", "80")
    assert "ports below 1024 are for root" in problems(text)
    assert fleet(text, open_port=80).instances[0].port == 80


def test_a_cache_type_set_by_default_clashes_with_the_instance() -> None:
    text = 'version = 1\n[defaults]\nkv_cache_type = "q8_0"\n[instances.a]\ngpus = [0]\nport = 2000\n'
    assert only(text).kv_cache_type == "q8_0"
    assert "instances.a.flash_attention" in problems(f"{text}flash_attention = false\n")


def test_C15_everything_managed_is_refused() -> None:
    for name in (*SET_BY_US, "OLLAMUX_X", "OLLAMA_VULKAN", "OLLAMA_LLM_LIBRARY"):
        assert "is managed by ollamux; " in problems(f'{ONE}env = {{ {name} = "1" }}\n').replace("\n      | ", "; ")


def test_C22_limits() -> None:
    many = "version = 1\n" + "".join(f"[instances.i{n}]\ngpus=[]\nport={2000 + n}\n" for n in range(257))
    assert "more than 256 instances: there are 257" in problems(many)
    assert len(fleet(many.replace("[instances.i256]\ngpus=[]\nport=2256\n", "")).instances) == 256
    assert "larger than 1 MiB" in problems(b"#" * (1024 * 1024 + 1))
    assert "nested too deeply" in problems("x = " + "[" * 100_000)
    assert "nested more than 32 deep" in problems(f"{ONE}{'.'.join('a' * 2000)} = 1\n")
    assert "nested more than 32 deep" in problems(f"{ONE}[{'.'.join('a' * 2000)}]\n")


def test_C22_a_flood_of_problems_is_cut_short() -> None:
    text = problems("version = 1\n" + "".join(f"x{n} = 1\n" for n in range(3000)) + "[instances.a]\n")
    assert "… and " in text
    assert text.endswith("3002 problems. Nothing was changed.")


@REPEATABLE
@given(source=st.binary(max_size=60))
def test_any_bytes_get_an_answer(source: bytes) -> None:
    assert problems(source).endswith("Nothing was changed.")


@REPEATABLE
@given(data=st.data())
def test_any_damage_gets_an_answer(data: st.DataObject) -> None:
    source = bytearray(data.draw(st.sampled_from([path.read_bytes() for path in EXAMPLES])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(source) - 1))
        piece = data.draw(st.sampled_from([b"", b'"', b"[", b"]", b"=", b"\n", b"\x00", b"\xff", b"{", b"'", b"9" * 9]))
        source[at : at + data.draw(st.integers(0, 3))] = piece
    try:
        assert fleet(bytes(source)).instances
    except ConfigInvalid as error:
        assert all(line.isprintable() for line in error.message.splitlines())
        assert all(problem.message for problem in error.problems)


EXAMPLES = sorted((ROOT / "configs").glob("*.toml"))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_valid_and_needs_no_warning(path: Path) -> None:
    assert warnings(fleet(path.read_bytes())) == ()


def test_the_examples_of_the_reference_are_valid() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in page.split("```toml\n")[1:]]
    assert len(blocks) == 5
    for block in blocks:
        text = block if "version" in tomllib.loads(block) else f"version = 1\n{block}"
        assert fleet(text).instances[0].name == "gpu0"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('host = "0.0.0.0"', "ollama asks no password"),
        ('host = "192.168.1.4"', "ollama asks no password"),
        ('host = "0.0.0.0"\nallow_lan = true', None),
        ('host = "127.0.0.9"', None),
        ('env = { OLLAMA_ORIGINS = "http://a, *" }', "every web page"),
        ('env = { OLLAMA_ORIGINS = "http://*" }', "every web page"),
        ('env = { OLLAMA_ORIGINS = "http://a,https:*" }', "every web page"),
        ('env = { OLLAMA_ORIGINS = "http://*.example.org" }', None),
        ('env = { OLLAMA_ORIGINS = "http://example.*" }', None),
        ('env = { LLAMA_API_KEY = "hush" }', "LLAMA_API_KEY"),
        ('preload = ["a", "b"]\nmax_loaded_models = 1', "no more than 1 of them"),
        ("enabled = false", "nothing to run"),
        ('enabled = false\nhost = "0.0.0.0"', "nothing to run"),
    ],
)
def test_C19_S5_S6_warnings(keys: str, told: str | None) -> None:
    given_warnings = warnings(fleet(f"{ONE}{keys}\n"))
    assert len(given_warnings) == (1 if told else 0)
    assert all(told is not None and told in each and "hush" not in each for each in given_warnings)
