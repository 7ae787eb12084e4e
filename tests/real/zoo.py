"""Small models of many architectures with random weights, each as its own server wants it: metadata and tensors.

Shapes are in ggml's order, the fastest dimension first. Needs the PyPI package `gguf`, imported only when one is
written.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .tiny_model import CONTROL, vocabulary

WIDTH, HEADS, KV_HEADS, HEAD, FEED, WORDS, TRAINED = 256, 8, 2, 32, 640, 4096, 8192
LAYERS = 6
Shape = tuple[int, ...]
Tensors = dict[str, Shape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Animal:
    """A model to be written: what its head says, and its tensors."""

    arch: str
    keys: dict[str, Any]
    tensors: Tensors
    tokenizer: str = "gpt2"


def _common(**more: Any) -> dict[str, Any]:
    return {
        "block_count": LAYERS,
        "context_length": TRAINED,
        "embedding_length": WIDTH,
        "feed_forward_length": FEED,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        "vocab_size": WORDS,
        **more,
    }


def _ends(*, output: bool = True) -> Tensors:
    found: Tensors = {"token_embd.weight": (WIDTH, WORDS), "output_norm.weight": (WIDTH,)}
    return {**found, "output.weight": (WIDTH, WORDS)} if output else found


def _attention(layer: int, *, head: int = HEAD, heads: int = HEADS, kv: int = KV_HEADS) -> Tensors:
    at = f"blk.{layer}."
    return {
        f"{at}attn_norm.weight": (WIDTH,),
        f"{at}attn_q.weight": (WIDTH, heads * head),
        f"{at}attn_k.weight": (WIDTH, kv * head),
        f"{at}attn_v.weight": (WIDTH, kv * head),
        f"{at}attn_output.weight": (heads * head, WIDTH),
    }


def _feed(layer: int, *, feed: int = FEED) -> Tensors:
    at = f"blk.{layer}."
    return {
        f"{at}ffn_norm.weight": (WIDTH,),
        f"{at}ffn_gate.weight": (WIDTH, feed),
        f"{at}ffn_up.weight": (WIDTH, feed),
        f"{at}ffn_down.weight": (feed, WIDTH),
    }


def _experts(layer: int, *, count: int = 8, feed: int = 128) -> Tensors:
    at = f"blk.{layer}."
    return {
        f"{at}ffn_norm.weight": (WIDTH,),
        f"{at}ffn_gate_inp.weight": (WIDTH, count),
        f"{at}ffn_gate_exps.weight": (WIDTH, feed, count),
        f"{at}ffn_up_exps.weight": (WIDTH, feed, count),
        f"{at}ffn_down_exps.weight": (feed, WIDTH, count),
    }


def _norms(layer: int, *names: str, size: int = HEAD) -> Tensors:
    return {f"blk.{layer}.{name}.weight": (size,) for name in names}


def _each(*makers: Callable[[int], Tensors]) -> Tensors:
    return {name: shape for layer in range(LAYERS) for make in makers for name, shape in make(layer).items()}


def _llama(arch: str = "llama", **more: Any) -> Animal:
    return Animal(
        arch=arch, keys=_common(**{"rope.dimension_count": HEAD}, **more), tensors=_ends() | _each(_attention, _feed)
    )


def _qwen2() -> Animal:
    def biases(layer: int) -> Tensors:
        sizes = {"attn_q": HEADS * HEAD, "attn_k": KV_HEADS * HEAD, "attn_v": KV_HEADS * HEAD}
        return {f"blk.{layer}.{name}.bias": (size,) for name, size in sizes.items()}

    return Animal(arch="qwen2", keys=_common(), tensors=_ends(output=False) | _each(_attention, biases, _feed))


def _key_norms(layer: int) -> Tensors:
    return _norms(layer, "attn_q_norm", "attn_k_norm", size=64)


def _wide(layer: int) -> Tensors:
    return _attention(layer, head=64)


_WIDE = {"attention.key_length": 64, "attention.value_length": 64}


def _qwen3() -> Animal:
    return Animal(arch="qwen3", keys=_common(**_WIDE), tensors=_ends() | _each(_wide, _key_norms, _feed))


def _qwen3moe() -> Animal:
    keys = _common(**_WIDE, expert_count=8, expert_used_count=2, expert_feed_forward_length=128)
    return Animal(arch="qwen3moe", keys=keys, tensors=_ends() | _each(_wide, _key_norms, _experts))


def _mixtral() -> Animal:
    keys = _common(**{"rope.dimension_count": HEAD}, expert_count=8, expert_used_count=2) | {"feed_forward_length": 128}
    return Animal(arch="llama", keys=keys, tensors=_ends() | _each(_attention, _experts))


def _gemma_norms(layer: int) -> Tensors:
    return _norms(layer, "post_attention_norm", "post_ffw_norm", size=WIDTH)


def _gemma2() -> Animal:
    keys = _common(
        **_WIDE, **{"attention.sliding_window": 512, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
    )
    return Animal(arch="gemma2", keys=keys, tensors=_ends(output=False) | _each(_wide, _gemma_norms, _feed))


def _gemma3() -> Animal:
    keys = _common(**_WIDE, **{"attention.sliding_window": 512})
    return Animal(arch="gemma3", keys=keys, tensors=_ends(output=False) | _each(_wide, _gemma_norms, _key_norms, _feed))


def _phi3() -> Animal:
    def layer_of(layer: int) -> Tensors:
        at = f"blk.{layer}."
        return {
            f"{at}attn_norm.weight": (WIDTH,),
            f"{at}attn_qkv.weight": (WIDTH, (HEADS + 2 * KV_HEADS) * HEAD),
            f"{at}attn_output.weight": (WIDTH, WIDTH),
            f"{at}ffn_norm.weight": (WIDTH,),
            f"{at}ffn_up.weight": (WIDTH, 2 * FEED),
            f"{at}ffn_down.weight": (FEED, WIDTH),
        }

    keys = _common(
        **{
            "rope.dimension_count": HEAD,
            "attention.sliding_window": 512,
            "rope.scaling.original_context_length": TRAINED,
        }
    )
    return Animal(arch="phi3", keys=keys, tensors=_ends() | _each(layer_of))


def _gpt_oss() -> Animal:
    def layer_of(layer: int) -> Tensors:
        at = f"blk.{layer}."
        experts = {name: shape for name, shape in _experts(layer).items() if not name.endswith("ffn_norm.weight")}
        return {
            **_attention(layer, head=64),
            **experts,
            f"{at}post_attention_norm.weight": (WIDTH,),
            f"{at}attn_sinks.weight": (HEADS,),
            f"{at}attn_q.bias": (HEADS * 64,),
            f"{at}attn_k.bias": (KV_HEADS * 64,),
            f"{at}attn_v.bias": (KV_HEADS * 64,),
            f"{at}attn_output.bias": (WIDTH,),
            f"{at}ffn_gate_inp.bias": (8,),
            f"{at}ffn_gate_exps.bias": (128, 8),
            f"{at}ffn_up_exps.bias": (128, 8),
            f"{at}ffn_down_exps.bias": (WIDTH, 8),
        }

    keys = _common(
        **_WIDE,
        expert_count=8,
        expert_used_count=2,
        expert_feed_forward_length=128,
        **{"attention.sliding_window": 128, "rope.dimension_count": 64},
    )
    return Animal(arch="gpt-oss", keys=keys, tensors=_ends() | _each(layer_of))


def _deepseek2() -> Animal:
    rank, rope, nope, value = 128, 32, 64, 64

    def layer_of(layer: int) -> Tensors:
        at = f"blk.{layer}."
        shared = {
            f"{at}ffn_gate_shexp.weight": (WIDTH, 128),
            f"{at}ffn_up_shexp.weight": (WIDTH, 128),
            f"{at}ffn_down_shexp.weight": (128, WIDTH),
        }
        return {
            f"{at}attn_norm.weight": (WIDTH,),
            f"{at}attn_q_a_norm.weight": (96,),
            f"{at}attn_q_a.weight": (WIDTH, 96),
            f"{at}attn_q_b.weight": (96, HEADS * (nope + rope)),
            f"{at}attn_kv_a_norm.weight": (rank,),
            f"{at}attn_kv_a_mqa.weight": (WIDTH, rank + rope),
            f"{at}attn_k_b.weight": (nope, rank, HEADS),
            f"{at}attn_v_b.weight": (rank, value, HEADS),
            f"{at}attn_output.weight": (HEADS * value, WIDTH),
            **(_feed(layer) if layer == 0 else _experts(layer) | shared),
        }

    keys = _common(
        **{
            "attention.q_lora_rank": 96,
            "attention.kv_lora_rank": rank,
            "attention.key_length": rank + rope,
            "attention.value_length": rank,
            "attention.key_length_mla": nope + rope,
            "attention.value_length_mla": value,
            "rope.dimension_count": rope,
            "leading_dense_block_count": 1,
            "expert_feed_forward_length": 128,
            "expert_shared_count": 1,
            "expert_count": 8,
            "expert_used_count": 2,
            "expert_weights_scale": 1.0,
        }
    ) | {"attention.head_count_kv": 1}
    return Animal(arch="deepseek2", keys=keys, tensors=_ends() | _each(layer_of))


_INNER, _STATE, _RANK, _CONV = 2 * WIDTH, 16, 16, 4


def _mamba_layer(layer: int) -> Tensors:
    at = f"blk.{layer}."
    return {
        f"{at}attn_norm.weight": (WIDTH,),
        f"{at}ssm_in.weight": (WIDTH, 2 * _INNER),
        f"{at}ssm_conv1d.weight": (_CONV, _INNER),
        f"{at}ssm_conv1d.bias": (_INNER,),
        f"{at}ssm_x.weight": (_INNER, _RANK + 2 * _STATE),
        f"{at}ssm_dt.weight": (_RANK, _INNER),
        f"{at}ssm_dt.bias": (_INNER,),
        f"{at}ssm_a": (_STATE, _INNER),
        f"{at}ssm_d": (_INNER,),
        f"{at}ssm_out.weight": (_INNER, WIDTH),
    }


def _ssm(*, state: int = _STATE, rank: int = _RANK, groups: int | None = None) -> dict[str, Any]:
    keys = {
        "ssm.conv_kernel": _CONV,
        "ssm.inner_size": _INNER,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    return keys if groups is None else {**keys, "ssm.group_count": groups}


def _mamba() -> Animal:
    keys = _common(**_ssm()) | {"attention.head_count": 0, "feed_forward_length": 0}
    del keys["attention.head_count_kv"]
    return Animal(arch="mamba", keys=keys, tensors=_ends(output=False) | _each(_mamba_layer))


def _mamba2_layer(layer: int) -> Tensors:
    at, state, rank, groups = f"blk.{layer}.", 64, 8, 1
    convolved = _INNER + 2 * groups * state
    return {
        f"{at}attn_norm.weight": (WIDTH,),
        f"{at}ssm_in.weight": (WIDTH, _INNER + convolved + rank),
        f"{at}ssm_conv1d.weight": (_CONV, convolved),
        f"{at}ssm_conv1d.bias": (convolved,),
        f"{at}ssm_dt.bias": (rank,),
        f"{at}ssm_a": (1, rank),
        f"{at}ssm_d": (1, rank),
        f"{at}ssm_norm.weight": (_INNER // groups, groups),
        f"{at}ssm_out.weight": (_INNER, WIDTH),
    }


def _mamba2() -> Animal:
    keys = _common(**_ssm(state=64, rank=8, groups=1)) | {"attention.head_count": 0, "feed_forward_length": 0}
    del keys["attention.head_count_kv"]
    return Animal(arch="mamba2", keys=keys, tensors=_ends(output=False) | _each(_mamba2_layer))


_SOME = [0, 0, KV_HEADS, 0, 0, KV_HEADS]


def _granite_hybrid() -> Animal:
    def layer_of(layer: int) -> Tensors:
        return (_attention(layer) if _SOME[layer] else _mamba2_layer(layer)) | _feed(layer)

    keys = _common(**_ssm(state=64, rank=8, groups=1), **{"rope.dimension_count": HEAD}) | {
        "attention.head_count_kv": _SOME
    }
    return Animal(arch="granitehybrid", keys=keys, tensors=_ends() | _each(layer_of))


def _jamba() -> Animal:
    def layer_of(layer: int) -> Tensors:
        norms = {
            f"blk.{layer}.ssm_dt_norm.weight": (_RANK,),
            f"blk.{layer}.ssm_b_norm.weight": (_STATE,),
            f"blk.{layer}.ssm_c_norm.weight": (_STATE,),
        }
        return (_attention(layer) if _SOME[layer] else _mamba_layer(layer) | norms) | _feed(layer)

    return Animal(
        arch="jamba", keys=_common(**_ssm()) | {"attention.head_count_kv": _SOME}, tensors=_ends() | _each(layer_of)
    )


def _lfm2() -> Animal:
    def layer_of(layer: int) -> Tensors:
        at = f"blk.{layer}."
        short = {
            f"{at}attn_norm.weight": (WIDTH,),
            f"{at}shortconv.conv.weight": (3, WIDTH),
            f"{at}shortconv.in_proj.weight": (WIDTH, 3 * WIDTH),
            f"{at}shortconv.out_proj.weight": (WIDTH, WIDTH),
        }
        whole = _attention(layer) | _norms(layer, "attn_q_norm", "attn_k_norm")
        return (whole if _SOME[layer] else short) | _feed(layer)

    keys = _common(**{"shortconv.l_cache": 3}) | {"attention.head_count_kv": _SOME}
    tensors = _ends(output=False) | _each(layer_of)
    tensors["token_embd_norm.weight"] = tensors.pop("output_norm.weight")
    return Animal(arch="lfm2", keys=keys, tensors=tensors)


def _bert(arch: str) -> Animal:
    def layer_of(layer: int) -> Tensors:
        at = f"blk.{layer}."
        found: Tensors = {f"{at}attn_output.weight": (WIDTH, WIDTH)}
        if arch == "bert":
            for name in ("attn_q", "attn_k", "attn_v"):
                found |= {f"{at}{name}.weight": (WIDTH, WIDTH), f"{at}{name}.bias": (WIDTH,)}
            found |= {f"{at}attn_output.bias": (WIDTH,), f"{at}ffn_up.bias": (FEED,), f"{at}ffn_down.bias": (WIDTH,)}
        else:
            found |= {f"{at}attn_qkv.weight": (WIDTH, 3 * WIDTH), f"{at}ffn_gate.weight": (WIDTH, FEED)}
        for name in ("attn_output_norm", "layer_output_norm"):
            found |= {f"{at}{name}.weight": (WIDTH,), f"{at}{name}.bias": (WIDTH,)}
        return found | {f"{at}ffn_up.weight": (WIDTH, FEED), f"{at}ffn_down.weight": (FEED, WIDTH)}

    keys = _common(
        **{
            "attention.layer_norm_epsilon": 1e-5,
            "attention.causal": False,
            "pooling_type": 1,
            "tokenizer.ggml.token_type_count": 2,
        }
    ) | {"attention.head_count_kv": HEADS}
    tensors: Tensors = {
        "token_embd.weight": (WIDTH, WORDS),
        "token_types.weight": (WIDTH, 2),
        "token_embd_norm.weight": (WIDTH,),
        "token_embd_norm.bias": (WIDTH,),
        **_each(layer_of),
    }
    if arch == "bert":
        tensors["position_embd.weight"] = (WIDTH, TRAINED)
    return Animal(arch=arch, keys=keys, tensors=tensors, tokenizer="bert")


def _qwen3next() -> Animal:
    state, groups, rank = 32, 4, 8
    key, value = state * groups, state * rank

    def layer_of(layer: int) -> Tensors:
        at = f"blk.{layer}."
        if (layer + 1) % 3:
            found: Tensors = {
                f"{at}attn_norm.weight": (WIDTH,),
                f"{at}attn_qkv.weight": (WIDTH, 2 * key + value),
                f"{at}attn_gate.weight": (WIDTH, value),
                f"{at}ssm_conv1d.weight": (_CONV, 2 * key + value),
                f"{at}ssm_dt.bias": (rank,),
                f"{at}ssm_a": (rank,),
                f"{at}ssm_ba.weight": (WIDTH, 2 * rank),
                f"{at}ssm_norm.weight": (state,),
                f"{at}ssm_out.weight": (value, WIDTH),
            }
        else:
            found = {**_wide(layer), **_key_norms(layer), f"{at}attn_q.weight": (WIDTH, 2 * HEADS * 64)}
        found |= {
            f"{at}post_attention_norm.weight": (WIDTH,),
            f"{at}ffn_gate_inp_shexp.weight": (WIDTH,),
            f"{at}ffn_gate_shexp.weight": (WIDTH, 128),
            f"{at}ffn_up_shexp.weight": (WIDTH, 128),
            f"{at}ffn_down_shexp.weight": (128, WIDTH),
        }
        return found | {name: shape for name, shape in _experts(layer).items() if "ffn_norm" not in name}

    keys = _common(
        **_WIDE,
        **{
            "ssm.conv_kernel": _CONV,
            "ssm.inner_size": value,
            "ssm.state_size": state,
            "ssm.time_step_rank": rank,
            "ssm.group_count": groups,
            "full_attention_interval": 3,
            "expert_count": 8,
            "expert_used_count": 2,
            "expert_feed_forward_length": 128,
            "expert_shared_feed_forward_length": 128,
            "rope.dimension_count": 32,
        },
    )
    return Animal(arch="qwen3next", keys=keys, tensors=_ends() | _each(layer_of))


def _gemma() -> Animal:
    return Animal(arch="gemma", keys=_common(**_WIDE), tensors=_ends(output=False) | _each(_wide, _feed))


def _glm4() -> Animal:
    def layer_of(layer: int) -> Tensors:
        at = f"blk.{layer}."
        feed = {
            f"{at}ffn_norm.weight": (WIDTH,),
            f"{at}ffn_up.weight": (WIDTH, 2 * FEED),
            f"{at}ffn_down.weight": (FEED, WIDTH),
        }
        return {**_attention(layer), **_gemma_norms(layer), **feed}

    return Animal(arch="glm4", keys=_common(**{"rope.dimension_count": HEAD}), tensors=_ends() | _each(layer_of))


def _qwen35(arch: str) -> Animal:
    base = _qwen3next()
    keys = {**base.keys, "rope.dimension_sections": [8, 4, 4, 0]}
    tensors: Tensors = {}
    for name, shape in base.tensors.items():
        if name.endswith("ssm_ba.weight"):
            for part in ("ssm_beta", "ssm_alpha"):
                tensors[name.replace("ssm_ba", part)] = (WIDTH, shape[1] // 2)
        elif arch == "qwen35moe" or "ffn_" not in name:
            tensors[name] = shape
    if arch == "qwen35":
        keys = {key: value for key, value in keys.items() if not key.startswith("expert")}
        tensors |= {name: shape for name, shape in _each(_feed).items() if "ffn_norm" not in name}
    return Animal(arch=arch, keys=keys, tensors=tensors)


def _gemma4() -> Animal:
    small, shared = 32, 2
    pattern = [True, True, True, False, True, False]

    def layer_of(layer: int) -> Tensors:
        at, head = f"blk.{layer}.", HEAD if pattern[layer] else 64
        found = {
            **_attention(layer, head=head),
            **_norms(layer, "attn_q_norm", "attn_k_norm", size=head),
            **_gemma_norms(layer),
            **_feed(layer),
            f"{at}inp_gate.weight": (WIDTH, small),
            f"{at}proj.weight": (small, WIDTH),
            f"{at}post_norm.weight": (WIDTH,),
            f"{at}layer_output_scale.weight": (1,),
        }
        if layer >= LAYERS - shared:
            for name in ("attn_k.weight", "attn_v.weight", "attn_k_norm.weight"):
                del found[at + name]
        return found

    keys = _common(
        **_WIDE,
        **{
            "attention.key_length_swa": HEAD,
            "attention.value_length_swa": HEAD,
            "attention.sliding_window": 512,
            "attention.sliding_window_pattern": pattern,
            "attention.shared_kv_layers": shared,
            "embedding_length_per_layer_input": small,
            "rope.dimension_count": 64,
            "rope.dimension_count_swa": HEAD,
            "final_logit_softcapping": 30.0,
        },
    )
    tensors = _ends(output=False) | {
        "per_layer_token_embd.weight": (small * LAYERS, WORDS),
        "per_layer_model_proj.weight": (WIDTH, small * LAYERS),
        "per_layer_proj_norm.weight": (small,),
        "rope_freqs.weight": (32,),
    }
    return Animal(arch="gemma4", keys=keys, tensors=tensors | _each(layer_of))


def _with_draft(animal: Animal) -> Animal:
    """Add a layer that guesses tokens ahead, which a server neither loads nor computes unless told to."""
    at = f"blk.{LAYERS}."
    last = {name: shape for name, shape in animal.tensors.items() if name.startswith(f"blk.{LAYERS - 1}.")}
    layer = {at + name.split(".", 2)[2]: shape for name, shape in last.items()}
    layer |= {f"{at}nextn.eh_proj.weight": (2 * WIDTH, WIDTH)}
    layer |= _norms(LAYERS, "nextn.enorm", "nextn.hnorm", size=WIDTH)
    keys = {**animal.keys, "block_count": LAYERS + 1, "nextn_predict_layers": 1}
    return Animal(arch=animal.arch, keys=keys, tensors=animal.tensors | layer)


NEWER = {"qwen35-draft", "glm4-draft"}
"""No release before 0.30 loads these."""
TWICE = {"gemma4"}
"""Of these the server holds the token embedding twice on the CPU, where it would be once beside and once on a card."""

ZOO: dict[str, Callable[[], Animal]] = {
    "llama": _llama,
    "mixtral": _mixtral,
    "mistral3": lambda: _llama("mistral3"),
    "granite": lambda: _llama(
        "granite", logit_scale=2.0, residual_scale=0.5, embedding_scale=2.0, **{"attention.scale": 0.1}
    ),
    "gemma": _gemma,
    "glm4": _glm4,
    "gemma4": _gemma4,
    "qwen35": lambda: _qwen35("qwen35"),
    "qwen35-draft": lambda: _with_draft(_qwen35("qwen35")),
    "glm4-draft": lambda: _with_draft(_glm4()),
    "qwen35moe": lambda: _qwen35("qwen35moe"),
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3moe,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "gpt-oss": _gpt_oss,
    "deepseek2": _deepseek2,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "granitehybrid": _granite_hybrid,
    "jamba": _jamba,
    "lfm2": _lfm2,
    "qwen3next": _qwen3next,
    "bert": lambda: _bert("bert"),
    "nomic-bert": lambda: _bert("nomic-bert"),
}


def _tokenizer(file: Any, gguf: Any, kind: str) -> None:
    tokens, merges, _ = vocabulary()
    if kind == "bert":
        letters = [f"\u2581{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    tokens += [f"<|unused{number}|>" for number in range(len(tokens), WORDS)]
    kinds = [gguf.TokenType.CONTROL if token in CONTROL else gguf.TokenType.NORMAL for token in tokens]
    file.add_tokenizer_model(kind)
    file.add_tokenizer_pre("default")
    file.add_token_list(tokens)
    file.add_token_types(kinds)
    if kind == "bert":
        file.add_uint32("tokenizer.ggml.cls_token_id", 2)
        file.add_sep_token_id(3)
        file.add_unk_token_id(1)
        file.add_pad_token_id(0)
        file.add_bos_token_id(2)
        file.add_eos_token_id(3)
    else:
        file.add_token_merges(merges)
        file.add_bos_token_id(0)
        file.add_eos_token_id(1)


def _plain(shape: Shape, name: str) -> bool:
    """Whether ggml wants a tensor in 32 bits: norms, biases, and what a state-space layer has of its own."""
    return len(shape) == 1 or any(
        part in name for part in ("norm", "bias", "ssm_a", "ssm_d", "conv", "gate_inp", "types")
    )


def hoarder() -> Animal:
    """Return a model whose cache takes 64 KiB for each token: so small weights fill a memory with few of them."""
    wide = {"attention.head_count": 8, "attention.head_count_kv": 8, "block_count": 8, "context_length": 3072}
    wide |= {"attention.key_length": 256, "attention.value_length": 256}
    tensors = _ends()
    for layer in range(8):
        tensors |= _attention(layer, head=256, heads=8, kv=8) | _feed(layer)
    return Animal(arch="llama", keys=_common(**{"rope.dimension_count": 256, **wide}), tensors=tensors)


def write(folder: Path, name: str | Animal, *, seed: int = 1) -> Path:
    """Write weights.gguf and its Modelfile into a folder; return the path of the latter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are not ours
        import gguf
        import numpy

    animal = ZOO[name]() if isinstance(name, str) else name
    file = gguf.GGUFWriter(str(folder / "weights.gguf"), animal.arch)
    file.add_name("zoo")  # some names, phi3 among them, make a server look for tokens of theirs
    file.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    adders = {bool: file.add_bool, int: file.add_uint32, float: file.add_float32, list: file.add_array}
    for key, value in animal.keys.items():
        adders[type(value)](key if key.startswith("tokenizer.") else f"{animal.arch}.{key}", value)
    _tokenizer(file, gguf, animal.tokenizer)
    chance = numpy.random.default_rng(seed)
    for tensor, shape in animal.tensors.items():
        data = chance.standard_normal(shape[::-1], dtype=numpy.float32) * 0.08
        file.add_tensor(tensor, data if _plain(shape, tensor) else data.astype(numpy.float16))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    modelfile = folder / "Modelfile"
    modelfile.write_text("FROM ./weights.gguf\nTEMPLATE {{ .Prompt }}\n")
    return modelfile
