"""Well-known models as values: shape and abilities, from which files, memory and speed follow. It writes nothing.

The numbers are those the models' publishers state; sizes of files follow from the shapes, within a few per cent of the
real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ollamux.simulation.gguf import Gguf, Tensor

TEMPLATE = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}<|im_start|>user\n"
    "{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n"
)
_TYPES = {1: ("F16", "F16", "F16"), 7: ("Q8_0", "Q8_0", "Q8_0"), 15: ("Q4_K", "Q6_K", "Q6_K")}
_TYPES[38] = ("Q8_0", "Q8_0", "MXFP4")
# What llama.cpp takes in the place of a type whose rows must be multiples of 256 values (llama-quant.cpp, 0.24.0).
_SHORT_ROWS = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of a model. `file_type` is the number GGUF uses: 1 F16, 7 Q8_0, 15 Q4_K_M, 38 MXFP4."""

    name: str
    architecture: str
    layers: int
    embedding: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int
    context: int
    file_type: int = 15
    experts: int = 0
    experts_used: int = 0
    tied: bool = False
    capabilities: tuple[str, ...] = ("completion",)
    tokens: int = 16
    stop: tuple[str, ...] = ("<|im_end|>",)

    @property
    def embeds_only(self) -> bool:
        """Say whether it is an embedding model."""
        return "completion" not in self.capabilities


def _of(name: str, architecture: str, shape: tuple[int, ...], **rest: Any) -> ModelSpec:
    layers, embedding, heads, kv_heads, head_size, feed_forward, vocabulary, context = shape
    return ModelSpec(
        name=name,
        architecture=architecture,
        layers=layers,
        embedding=embedding,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        feed_forward=feed_forward,
        vocabulary=vocabulary,
        context=context,
        **rest,
    )


_TOOLS = ("completion", "tools")
_THINKS = ("completion", "tools", "thinking")
_ALL = (
    _of("qwen3:0.6b", "qwen3", (28, 1024, 16, 8, 128, 3072, 151936, 40960), tied=True, capabilities=_THINKS),
    _of("qwen3:1.7b", "qwen3", (28, 2048, 16, 8, 128, 6144, 151936, 40960), tied=True, capabilities=_THINKS),
    _of("qwen3:4b", "qwen3", (36, 2560, 32, 8, 128, 9728, 151936, 262144), tied=True, capabilities=_THINKS),
    _of("qwen3:8b", "qwen3", (36, 4096, 32, 8, 128, 12288, 151936, 40960), capabilities=_THINKS),
    _of("qwen3:14b", "qwen3", (40, 5120, 40, 8, 128, 17408, 151936, 40960), capabilities=_THINKS),
    _of("qwen3:32b", "qwen3", (64, 5120, 64, 8, 128, 25600, 151936, 40960), capabilities=_THINKS),
    _of(
        "qwen3:30b",
        "qwen3moe",
        (48, 2048, 32, 4, 128, 768, 151936, 262144),
        experts=128,
        experts_used=8,
        capabilities=_THINKS,
    ),
    _of("qwen2.5:7b", "qwen2", (28, 3584, 28, 4, 128, 18944, 152064, 32768), capabilities=_TOOLS),
    _of("qwen2.5-coder:7b", "qwen2", (28, 3584, 28, 4, 128, 18944, 152064, 32768), capabilities=_TOOLS),
    _of("qwen2.5:72b", "qwen2", (80, 8192, 64, 8, 128, 29568, 152064, 32768), capabilities=_TOOLS),
    _of(
        "llama3.2:1b", "llama", (16, 2048, 32, 8, 64, 8192, 128256, 131072), file_type=7, tied=True, capabilities=_TOOLS
    ),
    _of("llama3.2:3b", "llama", (28, 3072, 24, 8, 128, 8192, 128256, 131072), tied=True, capabilities=_TOOLS),
    _of("llama3.1:8b", "llama", (32, 4096, 32, 8, 128, 14336, 128256, 131072), capabilities=_TOOLS),
    _of("llama3.3:70b", "llama", (80, 8192, 64, 8, 128, 28672, 128256, 131072), capabilities=_TOOLS),
    _of("mistral:7b", "llama", (32, 4096, 32, 8, 128, 14336, 32768, 32768), capabilities=_TOOLS),
    _of("phi4:14b", "phi3", (40, 5120, 40, 10, 128, 17920, 100352, 16384)),
    _of("gemma3:1b", "gemma3", (26, 1152, 4, 1, 256, 6912, 262144, 32768), tied=True),
    _of("gemma3:4b", "gemma3", (34, 2560, 8, 4, 256, 10240, 262144, 131072), tied=True),
    _of("gemma3:12b", "gemma3", (48, 3840, 16, 8, 256, 15360, 262144, 131072), tied=True),
    _of("gemma3:27b", "gemma3", (62, 5376, 32, 16, 128, 21504, 262144, 131072), tied=True),
    _of("deepseek-r1:8b", "qwen3", (36, 4096, 32, 8, 128, 12288, 151936, 131072), capabilities=_THINKS),
    _of(
        "gpt-oss:20b",
        "gptoss",
        (24, 2880, 64, 8, 64, 2880, 201088, 131072),
        file_type=38,
        experts=32,
        experts_used=4,
        capabilities=_THINKS,
    ),
    _of(
        "gpt-oss:120b",
        "gptoss",
        (36, 2880, 64, 8, 64, 2880, 201088, 131072),
        file_type=38,
        experts=128,
        experts_used=4,
        capabilities=_THINKS,
    ),
    _of(
        "nomic-embed-text:latest",
        "nomic-bert",
        (12, 768, 12, 12, 64, 3072, 30522, 2048),
        file_type=1,
        tied=True,
        capabilities=("embedding",),
        stop=(),
    ),
    _of(
        "mxbai-embed-large:latest",
        "bert",
        (24, 1024, 16, 16, 64, 4096, 30522, 512),
        file_type=1,
        tied=True,
        capabilities=("embedding",),
        stop=(),
    ),
)
CATALOGUE = {spec.name: spec for spec in _ALL}
_LATEST = {
    "qwen3": "qwen3:8b",
    "qwen2.5": "qwen2.5:7b",
    "qwen2.5-coder": "qwen2.5-coder:7b",
    "llama3.2": "llama3.2:3b",
    "llama3.1": "llama3.1:8b",
    "llama3.3": "llama3.3:70b",
    "mistral": "mistral:7b",
    "phi4": "phi4:14b",
    "gemma3": "gemma3:4b",
    "deepseek-r1": "deepseek-r1:8b",
    "gpt-oss": "gpt-oss:20b",
}


def find(model: str, tag: str) -> ModelSpec | None:
    """Return the model of that name, or None where the registry would not be reached."""
    name = _LATEST.get(model, f"{model}:latest") if tag == "latest" else f"{model}:{tag}"
    return CATALOGUE.get(name)


def gguf_of(spec: ModelSpec) -> Gguf:
    """Return the head of the file that holds the model."""
    return Gguf(metadata=_metadata(spec), tensors=tuple(_tensors(spec)))


def _metadata(spec: ModelSpec) -> dict[str, Any]:
    special = ["<|end|>", "<|begin|>", "<|im_start|>", "<|im_end|>"]
    tokens = special + [f"token{i}" for i in range(spec.tokens - len(special))]
    arch = spec.architecture
    experts = {f"{arch}.expert_count": spec.experts, f"{arch}.expert_used_count": spec.experts_used}
    # A head of another size than embedding / heads is stated, as the converters do.
    lengths = {f"{arch}.attention.key_length": spec.head_size, f"{arch}.attention.value_length": spec.head_size}
    return {
        "general.architecture": arch,
        "general.name": spec.name.removesuffix(":latest"),
        f"{arch}.context_length": spec.context,
        f"{arch}.embedding_length": spec.embedding,
        f"{arch}.block_count": spec.layers,
        f"{arch}.feed_forward_length": spec.feed_forward,
        f"{arch}.attention.head_count": spec.heads,
        f"{arch}.attention.head_count_kv": spec.kv_heads,
        f"{arch}.rope.dimension_count": spec.head_size,
        f"{arch}.attention.layer_norm_rms_epsilon": 0.00001,
        f"{arch}.rope.freq_base": 10000.0,
        f"{arch}.vocab_size": spec.vocabulary,
        **(experts if spec.experts else {}),
        **(lengths if spec.head_size * spec.heads != spec.embedding else {}),
        **({f"{arch}.pooling_type": 1} if spec.embeds_only else {}),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(special) + [1] * (len(tokens) - len(special)),
        "tokenizer.ggml.merges": [f"t {i}" for i in range(max(1, len(tokens) - 101))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.eot_token_id": 3,
        "tokenizer.ggml.add_bos_token": False,
        "general.quantization_version": 2,
        "general.file_type": spec.file_type,
    }


def _tensors(spec: ModelSpec) -> Iterator[Tensor]:
    base, fine, expert = _TYPES[spec.file_type]
    embedding, vocabulary = spec.embedding, spec.vocabulary
    if not spec.tied:
        yield Tensor(name="output.weight", type=fine, shape=(embedding, vocabulary))
    yield Tensor(name="output_norm.weight", type="F32", shape=(embedding,))
    yield Tensor(name="token_embd.weight", type=fine if spec.tied else base, shape=(embedding, vocabulary))
    for layer in range(spec.layers):
        # Q4_K_M keeps half of the sensitive tensors in six bits.
        half = fine if layer % 2 else base
        yield from _layer(spec, f"blk.{layer}", base, half, half if spec.file_type == 15 else expert)


def _layer(spec: ModelSpec, prefix: str, base: str, half: str, expert: str) -> Iterator[Tensor]:
    embedding, ff = spec.embedding, spec.feed_forward
    queries, values = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
    many = (spec.experts,) if spec.experts else ()
    suffix, wide, deep = ("_exps", expert if spec.file_type != 15 else base, expert) if many else ("", base, half)
    shapes: list[tuple[str, str, tuple[int, ...]]] = [
        ("attn_k", base, (embedding, values)),
        ("attn_norm", "F32", (embedding,)),
        ("attn_output", base, (queries, embedding)),
        ("attn_q", base, (embedding, queries)),
        ("attn_v", half, (embedding, values)),
        (f"ffn_down{suffix}", deep, (ff, embedding, *many)),
        (f"ffn_gate{suffix}", wide, (embedding, ff, *many)),
        ("ffn_norm", "F32", (embedding,)),
        (f"ffn_up{suffix}", wide, (embedding, ff, *many)),
    ]
    if many:
        shapes.insert(6, ("ffn_gate_inp", "F32", (embedding, spec.experts)))
    if "bert" in spec.architecture:
        shapes = [shape for shape in shapes if not shape[0].startswith("ffn_gate")]
    for name, kind, shape in shapes:
        fitting = _SHORT_ROWS.get(kind, kind) if shape[0] % 256 else kind
        yield Tensor(name=f"{prefix}.{name}.weight", type=fitting, shape=shape)
