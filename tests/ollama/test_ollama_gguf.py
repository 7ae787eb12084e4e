"""The head of a model file: read as the reference reader does, and refused with a reason where it cannot be."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollamux.ollama.gguf import GgufError, Skipped, read_head

NO_GGUF = "the reference reader is the PyPI package gguf, which is not installed: pip install gguf"


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCHITECTURE = pair("general.architecture", 8, text("llama"))
WEIGHT = tensor("token_embd.weight", (4, 2))


def file(
    *pairs: bytes,
    tensors: tuple[bytes, ...] = (),
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: bytes = b"\0" * 4096,
) -> bytes:
    tensor_count, pair_count = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, pair_count) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_what_a_head_says(path: Path) -> None:
    path.write_bytes(
        file(
            ARCHITECTURE,
            pair("llama.block_count", 4, struct.pack("<I", 7)),
            pair("llama.rope.freq_base", 6, struct.pack("<f", 0.5)),
            pair("tokenizer.ggml.add_bos_token", 7, b"\1"),
            pair("llama.attention.head_count_kv", 9, struct.pack("<IQ3i", 5, 3, 1, 0, 2)),
            pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc")),
            pair("nested", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ2B", 0, 2, 1, 2)),
            tensors=(WEIGHT, tensor("output.weight", (32, 2), 8, 32)),
        )
    )
    head = read_head(path)
    assert head.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 7,
        "llama.rope.freq_base": 0.5,
        "tokenizer.ggml.add_bos_token": True,
        "llama.attention.head_count_kv": (1, 0, 2),
        "tokenizer.ggml.tokens": Skipped(length=2),
        "nested": Skipped(length=1),
    }
    assert [(tensor.name, tensor.type, tensor.shape, tensor.size_bytes) for tensor in head.tensors] == [
        ("token_embd.weight", "F32", (4, 2), 32),
        ("output.weight", "Q8_0", (32, 2), 68),
    ]
    assert head.data_offset % 32 == 0


def nested(depth: int) -> bytes:
    return struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 0, 0)


HUGE = 2**63
BROKEN = {
    "empty": (b"", "ends too early: the magic number needs 4 bytes more, and 0 are left"),
    "magic": (b"GGML" + bytes(100), "begins with b'GGML'"),
    "version 1": (file(version=1), "is of version 1, and only 2 and 3 are known"),
    "version 4": (file(version=4), "is of version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "it is big-endian"),
    "cut in the counts": (file()[:12], "ends too early: the counts"),
    "pairs": (file(counts=(0, HUGE)), "counts 9223372036854775808 metadata"),
    "tensors": (file(counts=(HUGE, 0)), "counts 9223372036854775808 tensors"),
    "pairs that do not fit": (file(counts=(0, 9000)), "more than its 4128 bytes can hold"),
    "a long key": (file(struct.pack("<Q", HUGE), counts=(0, 1)), "has a name of 9223372036854775808 bytes"),
    "a long text": (file(pair("a", 8, struct.pack("<Q", HUGE))), "the value of a needs 9223372036854775808 bytes"),
    "a long array": (file(pair("a", 9, struct.pack("<IQ", 4, HUGE))), "the value of a needs"),
    "a long array of texts": (file(pair("a", 9, struct.pack("<IQ", 8, HUGE))), "counts 9223372036854775808 elements"),
    "a long text in an array": (file(pair("a", 9, struct.pack("<IQQ", 8, 1, HUGE))), "the value of a needs"),
    "a type": (file(pair("a", 13, bytes(8))), "the value of a is of the unknown type 13"),
    "a type in an array": (file(pair("a", 9, struct.pack("<IQ", 99, 1))), "the value of a is of the unknown type 99"),
    "deep arrays": (file(pair("a", 9, nested(1000))), "nests arrays more than 4 deep"),
    "twice a key": (file(ARCHITECTURE, ARCHITECTURE), "the key general.architecture is there twice"),
    "twice a tensor": (file(tensors=(WEIGHT, WEIGHT)), "the tensor token_embd.weight is there twice"),
    "a tensor's type": (file(tensors=(tensor("a", (4,), 77),)), "the tensor a is of the unknown type 77"),
    "dimensions": (file(tensors=(tensor("a", (1,) * 5),)), "the tensor a has 5 dimensions"),
    "a shape": (file(tensors=(tensor("a", (HUGE, HUGE)),)), "impossible shape"),
    "no shape": (file(tensors=(tensor("a", (0,)),)), "impossible shape"),
    "half a block": (file(tensors=(tensor("a", (33,), 8),)), "impossible shape"),
    "an offset": (file(tensors=(tensor("a", (4,), 0, HUGE),)), "the tensor a would end at"),
    "an odd offset": (file(tensors=(tensor("a", (4,), 0, 3),)), "is said to begin at 3"),
    "tensors over each other": (file(tensors=(tensor("a", (40,)), tensor("b", (4,), 0, 32))), "said to begin at 32"),
    "no data": (file(tensors=(tensor("a", (5000,)),)), "the tensor a would end at"),
    "alignment": (file(pair("general.alignment", 4, struct.pack("<I", 0))), "general.alignment is no alignment"),
    "text as alignment": (file(pair("general.alignment", 8, text("x"))), "general.alignment is no alignment"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_head_is_told_with_its_file(path: Path, what: str) -> None:
    data, reason = BROKEN[what]
    path.write_bytes(data)
    with pytest.raises(GgufError) as caught:
        read_head(path)
    assert str(path) in caught.value.message
    assert reason in caught.value.message


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, reason in (("fifo", "no regular file"), ("none", "No such file"), ("", "directory|no regular file")):
        with pytest.raises(GgufError, match=reason):
            read_head(tmp_path / name)


WHOLE = file(
    ARCHITECTURE,
    pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + text("a") + text("bc") + text("def")),
    pair("scores", 9, struct.pack("<IQ4f", 6, 4, 1, 2, 3, 4)),
    tensors=(WEIGHT, tensor("output.weight", (32, 2), 8, 32)),
    data=bytes(100),
)


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    for length in range(len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        with pytest.raises(GgufError):
            read_head(path)
    path.write_bytes(WHOLE)
    assert len(read_head(path).tensors) == 2


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 101), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), min_size=1, max_size=4
    )
)
def test_any_bytes_are_read_or_refused(path: Path, changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    path.write_bytes(data)
    try:
        read_head(path)
    except GgufError:
        pass


def test_a_vocabulary_is_stepped_over_piece_by_piece(path: Path) -> None:
    tokens = b"".join(text("x" * (number % 50)) for number in range(60_000))
    array = pair("tokens", 9, struct.pack("<IQ", 8, 60_000) + tokens)
    last = pair("after", 4, struct.pack("<I", 5))
    path.write_bytes(file(array, pair("big", 9, struct.pack("<IQ", 8, 1) + text("y" * 900_000)), last))
    tracemalloc.start()
    head = read_head(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert head.metadata == {"tokens": Skipped(length=60_000), "big": Skipped(length=1), "after": 5}
    assert peak < 4 * 1024**2


def test_40_gb_are_not_read(path: Path) -> None:
    path.write_bytes(file(ARCHITECTURE, tensors=(tensor("a", (10**10,)),)))
    os.truncate(path, 40 * 10**9 + 8192)
    start = time.process_time()
    head = read_head(path)
    assert head.tensors[0].size_bytes == 40 * 10**9
    assert time.process_time() - start < 1.0


def test_as_the_reference_reader(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gguf = pytest.importorskip("gguf", reason=NO_GGUF)
        import numpy

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(3)
    writer.add_layer_norm_rms_eps(0.5)
    writer.add_head_count_kv([1, 2, 3])
    writer.add_token_list([f"token{number}" for number in range(3000)])
    writer.add_token_scores([float(number) for number in range(6000)])
    writer.add_bool("llama.some", True)
    writer.add_int64("llama.long", -5)
    kinds = gguf.GGMLQuantizationType
    chance = numpy.random.default_rng(1)
    for kind in (kinds.Q8_0, kinds.Q4_0, kinds.Q5_1):
        data = gguf.quantize(chance.standard_normal((4, 256), dtype=numpy.float32), kind)
        writer.add_tensor(f"blk.{kind.name}.weight", data, raw_dtype=kind)
    writer.add_tensor("plain", numpy.ones((3, 5, 7), numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ours, reference = read_head(path), gguf.GGUFReader(str(path))
    theirs = {key: field.contents() for key, field in reference.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata.keys() == theirs.keys()
    for key, value in ours.metadata.items():
        if isinstance(value, Skipped):
            assert value.length == len(theirs[key])
        else:
            assert value == (tuple(theirs[key]) if isinstance(theirs[key], list) else theirs[key])
    assert [(t.name, t.type, t.shape, t.size_bytes, ours.data_offset + t.offset) for t in ours.tensors] == [
        (t.name, t.tensor_type.name, tuple(t.shape.tolist()), t.n_bytes, t.data_offset) for t in reference.tensors
    ]
