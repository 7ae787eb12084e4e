"""What models need of memory: against figures of a real server to the byte, and where nothing exact can be said."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamux.ollama.arena import ALIGNMENT, Graph, Node
from ollamux.ollama.compute import compute_bytes
from ollamux.ollama.estimate import estimate
from ollamux.ollama.gguf import Head, Skipped, Tensor
from ollamux.ollama.memory import (
    CPU,
    CUDA,
    CacheTypeError,
    Wish,
    batch_of,
    kept_cells,
    layers_bytes,
    tensor_bytes,
    weights_bytes,
)
from ollamux.ollama.shape import Shape, ShapeError, shape_of
from ollamux.ollama.version import Era
from tests.real import zoo

# What llama-server of 0.32.15 asked its allocator for on the CPU, with -b 512 -ub 512, for the models of tests/real.
TRUTH: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "memory-0.32.15.json").read_text(encoding="utf-8")
)


def tensor(name: str, shape: tuple[int, ...], *, half: bool = True) -> Tensor:
    elements = 1
    for size in shape:
        elements *= size
    kind, each = ("F16", 2) if half else ("F32", 4)
    return Tensor(name=name, type=kind, shape=shape, offset=0, elements=elements, size_bytes=elements * each)


def head_of(name: str, **changes: Any) -> Head:
    """Return the head that the model of that name would have."""
    animal = zoo.ZOO[name]()
    keys = {f"{animal.arch}.{key}": tuple(v) if isinstance(v, list) else v for key, v in animal.keys.items()}
    tensors = tuple(tensor(name, shape, half=not zoo._plain(shape, name)) for name, shape in animal.tensors.items())
    metadata = {"general.architecture": animal.arch, "general.file_type": 1, **keys, **changes}
    kept = {key: value for key, value in metadata.items() if value is not None}
    return Head(version=3, metadata=kept, tensors=tensors, data_offset=0, file_bytes=0)


def shape(name: str, **changes: Any) -> Shape:
    return shape_of(head_of(name, **changes))


@pytest.mark.parametrize("row", TRUTH, ids=lambda row: "-".join(str(row[key]) for key in list(row)[:5]))
def test_a_real_server_takes_exactly_that(row: dict[str, Any]) -> None:
    """Weights, caches and states to the byte; what is computed with within 7 %."""
    model = shape(row["model"])
    # The figures are of a bare llama-server, which does not know of ollama's one sequence at a time.
    model = model if model.family.is_embedding else replace(model, family=replace(model.family, single=False))
    wish = Wish(
        context=row["context"],
        parallel=row["parallel"],
        cache_type=row["cache_type"],
        flash=row["flash"],
        batch=512,
    )
    layers = layers_bytes(model, wish, CPU)
    tensors = [*model.input, *model.output, *(one for layer in model.layers for one in layer.tensors.values())]
    if row["model"] in zoo.TWICE:
        tensors += [one for one in model.input if one.name == "token_embd.weight"]
    assert weights_bytes(tensors, CPU) == row["weights"]
    assert sum(layer.cache for layer in layers) == row["cache"]
    assert sum(layer.state for layer in layers) == row["state"]
    assert compute_bytes(model, wish) == pytest.approx(row["compute"], rel=0.07)


def test_what_was_measured_with_another_context_or_type_of_cache_never_makes_compute_worse() -> None:
    """Of real servers: each load corrected by how far off the estimate of another one of the same model was."""

    def estimated(row: dict[str, Any]) -> int:
        model = shape(row["model"])
        return compute_bytes(
            model if model.family.is_embedding else replace(model, family=replace(model.family, single=False)),
            Wish(
                context=row["context"],
                parallel=row["parallel"],
                cache_type=row["cache_type"],
                flash=row["flash"],
                batch=512,
            ),
        )

    groups: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    for row in TRUTH:
        group = groups.setdefault((row["model"], row["parallel"], row["flash"]), [])
        group.append((estimated(row), row["compute"]))
    better = 0
    for group in groups.values():
        for (guess, truth), (other_guess, other_truth) in itertools.permutations(group, 2):
            before, after = abs(guess - truth), abs(guess * other_truth // other_guess - truth)
            assert after <= max(before, 1)
            better += after < before
    assert better > 50


def test_at_least_a_dozen_kinds_were_compared() -> None:
    assert len({row["model"] for row in TRUTH}) >= 12


def test_what_is_known_was_compared() -> None:
    from ollamux.ollama.families import FAMILIES

    assert set(FAMILIES) == {zoo.ZOO[row["model"]]().arch for row in TRUTH}


# Where layers go


def test_layers_go_to_the_card_from_the_end() -> None:
    model = shape("llama")
    new = [estimate(model, Wish(context=2048, layers=count)).on_card for count in (0, 1, 3, 7, 99)]
    assert [sum(one) for one in new] == [0, 1, 3, 7, 7]
    assert new[1] == (False,) * 6 + (True,)
    old = [estimate(model, Wish(context=2048, layers=count, era=Era.RUNNER)).on_card for count in (1, 6, 7)]
    assert old == [(False,) * 5 + (True, False), (True,) * 6 + (False,), (True,) * 7]


def test_what_is_not_on_the_card_is_beside_it() -> None:
    model = shape("qwen3")
    whole = estimate(model, Wish(context=2048))
    half = estimate(model, Wish(context=2048, layers=4))
    none = estimate(model, Wish(context=2048, layers=0))
    assert whole.host_bytes == weights_bytes(model.input, CUDA)
    assert whole.weights + whole.cache > half.weights + half.cache > 0
    moved = whole.weights + whole.cache + whole.host_bytes
    assert half.weights + half.cache + half.host_bytes == moved
    assert none.weights == none.cache == none.compute == 0


def test_a_tied_output_is_copied_to_the_card() -> None:
    assert shape("qwen2").is_tied and not shape("llama").is_tied
    output = layers_bytes(shape("qwen2"), Wish(context=2048), CUDA)[-1]
    assert output.weights == zoo.WIDTH * zoo.WORDS * 2 + zoo.WIDTH * 4


def test_rows_of_quantised_tensors_are_filled_up_on_cuda() -> None:
    one = Tensor(name="a", type="Q8_0", shape=(96, 2), offset=0, elements=192, size_bytes=204)
    assert tensor_bytes(one, CPU) == 224
    assert tensor_bytes(one, CUDA) == 768  # 204 and 13 blocks of 34 bytes more, then a multiple of 128


# Context, sequences, batch


def test_the_context_is_a_multiple_of_256_for_each_sequence() -> None:
    model = shape("llama")
    assert [kept_cells(model, Wish(context=context), sliding=False) for context in (1, 256, 257, 2000)] == [
        256,
        256,
        512,
        2048,
    ]
    assert kept_cells(model, Wish(context=300, parallel=3), sliding=False) == 3 * 512


def test_no_more_context_than_the_model_was_trained_for() -> None:
    assert estimate(shape("llama"), Wish(context=1 << 20)).context == zoo.TRAINED


def test_some_kinds_have_one_sequence_at_a_time() -> None:
    assert [estimate(shape(name), Wish(context=512, parallel=4)).parallel for name in ("llama", "lfm2", "bert")] == [
        4,
        1,
        1,
    ]


def test_the_batch_grows_with_the_context_as_ollama_lets_it() -> None:
    model = shape("llama")
    sizes = [(4096, 1), (4097, 1), (8192, 4), (8192, 8)]
    wishes = [Wish(context=context, parallel=parallel) for context, parallel in sizes]
    assert [batch_of(model, wish) for wish in wishes] == [512, 1024, 1024, 2048]
    assert batch_of(model, Wish(context=8192, flash=False)) == 512
    assert batch_of(model, Wish(context=100)) == 100
    assert batch_of(model, Wish(context=8192, era=Era.RUNNER)) == 512


def test_a_cache_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(CacheTypeError, match="needs flash attention"):
        estimate(shape("llama"), Wish(context=512, flash=False, cache_type="q8_0"))
    odd = shape("llama", **{"llama.attention.key_length": 20, "llama.attention.value_length": 20})
    with pytest.raises(CacheTypeError, match="rows of a multiple of 32 numbers, and this model's have 40"):
        estimate(odd, Wish(context=512, cache_type="q8_0"))


# What is not known


def test_an_unknown_kind_has_a_bound_above_every_known_one() -> None:
    """Each known model, taken for one of an unknown kind, stays below what is said then."""
    for name in zoo.ZOO:
        head = head_of(name)
        arch = head.metadata["general.architecture"]
        metadata = {
            f"new.{key.partition('.')[2]}" if key.startswith(f"{arch}.") else key: value
            for key, value in head.metadata.items()
        }
        unknown = shape_of(replace(head, metadata={**metadata, "general.architecture": "new"}))
        for wish in (Wish(context=4096), Wish(context=2048, flash=False), Wish(context=2048, cache_type="q8_0")):
            known, bound = estimate(shape(name), wish), estimate(unknown, wish)
            assert bound.is_bound and not known.is_bound
            assert bound.weights >= known.weights - weights_bytes(shape(name).input, CUDA)
            assert bound.cache + bound.state >= known.cache + known.state, name
            assert bound.compute >= known.compute, name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general.architecture": None}, "does not say its architecture"),
        ({"general.architecture": 5}, "does not say its architecture"),
        ({"llama.block_count": None}, "how many layers"),
        ({"llama.block_count": 0}, "how many layers"),
        ({"llama.block_count": 1 << 30}, "how many layers"),
        ({"llama.block_count": "six"}, "how many layers"),
        ({"llama.embedding_length": -1}, "how wide"),
        ({"llama.attention.head_count_kv": Skipped(length=9999)}, "has 9999 entries"),
    ],
)
def test_a_head_that_does_not_tell_enough(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ShapeError, match=reason):
        shape("llama", **changes)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(sorted(zoo.ZOO)),
    keys=st.lists(st.integers(0, 60), min_size=1, max_size=4, unique=True),
    value=st.sampled_from([0, 1, 3, -1, 2**31, 1.5, True, "text", (), (1, 0), Skipped(length=3), None]),
)
def test_odd_values_give_an_error_or_a_number(name: str, keys: list[int], value: Any) -> None:
    head = head_of(name)
    changed = dict(head.metadata)
    names = [key for key in changed if key != "general.architecture"]
    for number in keys:
        changed[names[number % len(names)]] = value
    try:
        found = estimate(shape_of(replace(head, metadata=changed)), Wish(context=4096))
    except (ShapeError, CacheTypeError):
        return
    assert found.total_bytes >= 0


# The arena


def test_results_go_where_dead_ones_were() -> None:
    graph = Graph()
    first = graph.input(64)
    second = graph.op(64, first)
    graph.op(64, second)
    assert graph.peak() == 128
    assert graph.peak() == 128  # and again


def test_what_may_be_written_over_needs_no_room() -> None:
    graph = Graph()
    first = graph.op(64, graph.input(32))
    graph.op(64, first, inplace=True)
    assert graph.peak() == 96
    view = Graph()
    seen = view.view(view.op(64, view.input(32)))
    view.op(64, seen, inplace=True)
    assert view.peak() == 160


@given(
    st.lists(
        st.tuples(st.integers(1, 500), st.lists(st.integers(0, 30), max_size=3), st.booleans()), min_size=1, max_size=30
    )
)
def test_the_peak_is_between_what_lives_and_all(steps: list[tuple[int, list[int], bool]]) -> None:
    graph = Graph()
    nodes: list[Node] = [graph.input(100)]
    for size, parents, inplace in steps:
        nodes.append(graph.op(size, *(nodes[number % len(nodes)] for number in parents), inplace=inplace))
    padded = [-(-node.size // ALIGNMENT) * ALIGNMENT for node in nodes]
    assert max(padded) <= graph.peak() <= sum(padded)
