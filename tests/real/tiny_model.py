"""Writes the models of these tests: llamas of a few hundred kilobytes with random weights, the same at every run.

Needs the PyPI package `gguf`, which is imported only when a model is written.
"""

from __future__ import annotations

import warnings
from pathlib import Path

LAYERS, WIDTH, HEADS, KV_HEADS, FEED_FORWARD, VOCABULARY = 2, 64, 2, 1, 160, 512
HEAD_SIZE = WIDTH // HEADS
"""32: a q8_0 cache needs a multiple of it."""
CONTEXT = 4096
CONTROL = ("<|bos|>", "<|eos|>", "<|start|>", "<|end|>")
WORDS = """
the of and to in is it you that he was for on are with as his they be at one have this from or had by hot word
but what some we can out other were all there when up use your how said an each she which do their time if will
way about many then them write would like so these her long make thing see him two has look more day could go
come did number sound no most people my over know water than call first who may down side been now find hello
world user assistant system message answer question model small red blue green light dark house tree river stone
"""

# The prompt stands between marks that the model never writes itself, so an answer ends where its length does.
# One thread: several wait for each other at every token, which on a busy machine takes ten times as long.
MODELFILE = '''FROM ./weights.gguf
TEMPLATE """{{- if .Messages }}{{- range .Messages }}<|start|>{{ .Role }}
{{ .Content }}<|end|>
{{ end }}<|start|>assistant
{{ else }}{{ if .Prompt }}<|start|>user
{{ .Prompt }}<|end|>
{{ end }}<|start|>assistant
{{ end }}{{ .Response }}"""
PARAMETER stop <|end|>
PARAMETER num_predict 32
PARAMETER num_thread 1
'''


def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte in a GPT-2 vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(plain))
    return letters


def vocabulary() -> tuple[list[str], list[str], list[int]]:
    """Return tokens, merges, and the numbers of the tokens that the model must never choose."""
    letters = byte_letters()
    tokens = [*CONTROL, *(letters[byte] for byte in range(256))]
    unwanted = [*range(len(CONTROL)), *(len(CONTROL) + byte for byte in range(256) if not 0x20 <= byte < 0x7F)]
    merges: list[str] = []
    for word in WORDS.split():
        known = letters[0x20]
        for letter in word:
            if known + letter not in tokens and len(tokens) < VOCABULARY:
                merges.append(f"{known} {letter}")
                tokens.append(known + letter)
            known += letter
    unwanted += range(len(tokens), VOCABULARY)
    tokens += [f"<|unused{number}|>" for number in range(VOCABULARY - len(tokens))]
    return tokens, merges, unwanted


def write(folder: Path, *, seed: int) -> Path:
    """Write weights.gguf and its Modelfile into a folder; return the path of the latter. Other seeds, other weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are not ours
        import gguf
        import numpy

    tokens, merges, unwanted = vocabulary()
    kinds = [gguf.TokenType.NORMAL] * VOCABULARY
    for number, token in enumerate(tokens):
        if token in CONTROL:
            kinds[number] = gguf.TokenType.CONTROL
        elif token.startswith("<|unused"):
            kinds[number] = gguf.TokenType.UNUSED
    file = gguf.GGUFWriter(str(folder / "weights.gguf"), "llama")
    file.add_name("tiny")
    file.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    file.add_context_length(CONTEXT)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(FEED_FORWARD)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KV_HEADS)
    file.add_rope_dimension_count(HEAD_SIZE)
    file.add_rope_freq_base(10000.0)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(VOCABULARY)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("default")
    file.add_token_list(tokens)
    file.add_token_types(kinds)
    file.add_token_merges(merges)
    file.add_bos_token_id(0)
    file.add_eos_token_id(1)
    file.add_add_bos_token(True)
    file.add_add_eos_token(False)

    chance = numpy.random.default_rng(seed)

    def weights(*shape: int) -> object:
        return (chance.standard_normal(shape) * 0.08).astype(numpy.float16)

    def ones() -> object:
        return numpy.ones(WIDTH, numpy.float32)

    file.add_tensor("token_embd.weight", weights(VOCABULARY, WIDTH))
    for layer in range(LAYERS):
        shapes = {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (HEAD_SIZE * KV_HEADS, WIDTH),
            "attn_v": (HEAD_SIZE * KV_HEADS, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (FEED_FORWARD, WIDTH),
            "ffn_up": (FEED_FORWARD, WIDTH),
            "ffn_down": (WIDTH, FEED_FORWARD),
        }
        file.add_tensor(f"blk.{layer}.attn_norm.weight", ones())
        file.add_tensor(f"blk.{layer}.ffn_norm.weight", ones())
        for name, shape in shapes.items():
            file.add_tensor(f"blk.{layer}.{name}.weight", weights(*shape))
    file.add_tensor("output_norm.weight", ones())
    output = weights(VOCABULARY, WIDTH)
    # A logit of 0 is never among the 40 best of some 350 random ones, and only those are drawn from.
    output[unwanted] = 0
    file.add_tensor("output.weight", output)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    modelfile = folder / "Modelfile"
    modelfile.write_text(MODELFILE)
    return modelfile
