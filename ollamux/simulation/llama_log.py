"""The lines llama.cpp prints while it loads and answers, as recorded from ollama 0.24.0 and 0.32.15 on the CPU.

No recording holds a line about a GPU. Those are written after what ollama's own parser expects (llm/llama_server.go at
v0.32.15) and llama.cpp's format strings, and are unverified on hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ollamux.gpu.model import Gpu
from ollamux.simulation.gguf import Gguf
from ollamux.simulation.golang import log_time, now_ns
from ollamux.simulation.memory import MIB, Plan, Share, Wish, free_bytes, usable_bytes

_HOST_MIB = 24105


def loader_lines(head: Gguf, path: str) -> list[str]:
    """Return the lines that tell what a model file holds."""
    pairs, tensors = len(head.metadata), len(head.tensors)
    lines = [
        f"llama_model_loader: loaded meta data with {pairs} key-value pairs and {tensors} tensors"
        f" from {path} (version GGUF V3 (latest))",
        "llama_model_loader: Dumping metadata keys/values. Note: KV overrides do not apply in this output.",
    ]
    for index, (key, value) in enumerate(head.metadata.items()):
        kind, text = _shown(value)
        lines.append(f"llama_model_loader: - kv {index:3d}: {key:>42} {kind:<16} = {text}")
    kinds = {tensor.type.lower(): 0 for tensor in sorted(head.tensors, key=lambda t: t.type != "F32")}
    for tensor in head.tensors:
        kinds[tensor.type.lower()] += 1
    return [*lines, *(f"llama_model_loader: - type {kind:>4}: {count:4d} tensors" for kind, count in kinds.items())]


def _shown(value: Any) -> tuple[str, str]:
    if isinstance(value, bool):
        return "bool", str(value).lower()
    if isinstance(value, int):
        return "u32", str(value)
    if isinstance(value, float):
        return "f32", f"{value:f}"
    if isinstance(value, str):
        return "str", value
    inner = "i32" if value and isinstance(value[0], int) else "str"
    text = "[" + ", ".join(str(v) if inner == "i32" else f'"{v}"' for v in value) + "]"
    return f"arr[{inner},{len(value)}]", text if len(text) <= 40 else text[:37] + "..."


def info_lines(head: Gguf, *, new: bool, vocab_only: bool) -> list[str]:
    """Return the block `print_info` of one era."""
    width = 21 if new else 16
    bits = head.weights_bytes * 8 / max(1, head.parameters)
    size = head.weights_bytes / MIB
    shown = f"{size:.2f} MiB" if size < 1024 else f"{size / 1024:.2f} GiB"
    lines = [
        "print_info: file format = GGUF V3 (latest)",
        f"print_info: file type   = {head.quantization}",
        f"print_info: file size   = {shown} ({bits:.2f} BPW) ",
        *(["load: 0 unused tokens"] if new else []),
        "load: printing all EOG tokens:",
        "load:   - 0 ('<|end|>')",
        "load:   - 3 ('<|im_end|>')",
        "load: special tokens cache size = 4",
        "load: token to piece cache size = 0.0016 MB",
    ]
    values: dict[str, object] = {"arch": head.architecture, "vocab_only": int(vocab_only), "no_alloc": 0}
    if not vocab_only:
        values |= _shape(head, new=new)
    values |= _vocabulary(head)
    eog = [("EOG token", "0 '<|end|>'"), ("EOG token", "3 '<|im_end|>'")]
    pairs = [*values.items(), *eog, ("max token length", "12")]
    return lines + [
        f"print_info: {name:<{width}} = {value}".replace("log_mul = 0", "log_mul= 0" if width < 18 else "log_mul = 0")
        for name, value in pairs
    ]


def _shape(head: Gguf, *, new: bool) -> dict[str, object]:
    embedding, heads = int(head.get("embedding_length")), int(head.get("attention.head_count", 1))
    kv = int(head.get("attention.head_count_kv", heads))
    size = int(head.get("attention.key_length", embedding // max(1, heads)))
    layers, context = int(head.get("block_count")), int(head.get("context_length"))
    values: dict[str, object] = {"n_ctx_train": context}
    if new:
        values |= {"n_embd_inp": embedding, "n_embd": embedding, "n_embd_out": embedding}
        values |= {"n_layer": layers, "n_layer_all": layers}
    else:
        values |= {"n_embd": embedding, "n_embd_inp": embedding, "n_layer": layers}
    values |= {"n_head": heads, "n_head_kv": kv, "n_rot": size, "n_swa": 0, "is_swa_any": 0}
    values |= {"non_causal_type": 0} if new else {}
    values |= {"n_embd_head_k": size, "n_embd_head_v": size, "n_gqa": heads // max(1, kv)}
    values |= {"n_embd_k_gqa": size * kv, "n_embd_v_gqa": size * kv, "f_norm_eps": "0.0e+00"}
    values |= {"f_norm_rms_eps": "1.0e-05", "f_clamp_kqv": "0.0e+00", "f_max_alibi_bias": "0.0e+00"}
    values |= {"f_logit_scale": "0.0e+00", "f_attn_scale": "0.0e+00"}
    values |= {"f_attn_value_scale": "0.0000"} if new else {}
    values |= {"n_ff": head.get("feed_forward_length"), "n_expert": head.get("expert_count", 0)}
    values |= {"n_expert_used": head.get("expert_used_count", 0), "n_expert_groups": 0, "n_group_used": 0}
    values |= {"causal attn": int("bert" not in head.architecture), "pooling type": -1 if new else 0}
    values |= {"rope type": 0, "rope scaling": "linear", "freq_base_train": "10000.0", "freq_scale_train": 1}
    values |= {"n_ctx_orig_yarn": context, "rope_yarn_log_mul": "0.0000", "rope_finetuned": "unknown"}
    return values


def _vocabulary(head: Gguf) -> dict[str, object]:
    count = head.parameters
    unit, factor = next(((u, f) for u, f in (("B", 1e9), ("M", 1e6)) if count >= f), ("K", 1e3))
    return {
        "model type": f"{count / 1e9:.0f}B" if count >= 5e8 else "?B",
        "model params": f"{count / factor:.2f} {unit}",
        "general.name": head.metadata.get("general.name", ""),
        "vocab type": "BPE",
        "n_vocab": head.get("vocab_size"),
        "n_merges": len(head.metadata.get("tokenizer.ggml.merges", [])),
        "BOS token": "1 '<|begin|>'",
        "EOS token": "0 '<|end|>'",
        "EOT token": "3 '<|im_end|>'",
        "LF token": "4 'Ċ'",
    }


def request_line(wish: Wish) -> str:
    """Return what a runner before 0.30 says that it is to load. Which layers go where is left out."""
    kind = "" if wish.kv_type == "f16" else wish.kv_type
    request = (
        f"{{Operation:commit LoraPath:[] Parallel:{wish.parallel} BatchSize:{wish.batch} FlashAttention:Auto"
        f" KvSize:{wish.context * wish.parallel} KvCacheType:{kind} NumThreads:2 GPULayers:[] MultiUserCache:false"
        " ProjectorPath: MainGPU:0 UseMmap:false}"
    )
    return f'time={log_time(now_ns())} level=INFO source=runner.go:895 msg=load request="{request}"'


def tensor_lines(plan: Plan, *, mapped: bool) -> list[str]:
    """Return where the weights went. Without a card there is no line about offloading at all."""
    lines = []
    if plan.devices:
        repeating = plan.offloaded - 1
        lines += ["load_tensors: offloading output layer to GPU"] if plan.offloaded else []
        lines.append(f"load_tensors: offloading {repeating} repeating layers to GPU")
        lines.append(f"load_tensors: offloaded {plan.offloaded}/{plan.layers} layers to GPU")
    host = "CPU_Mapped" if mapped and plan.devices else "CPU"
    if plan.host.model:
        lines.append(f"load_tensors: {host:>12} model buffer size = {plan.host.model / MIB:8.2f} MiB")
    for share in plan.devices:
        lines.append(f"load_tensors: {share.name:>12} model buffer size = {share.model / MIB:8.2f} MiB")
    return lines


def context_lines(wish: Wish, plan: Plan, *, new: bool, flash: str, kv_per_layer: int) -> list[str]:
    """Return what the context takes, up to the cache."""
    width = 21 if new else 13
    total = wish.context * wish.parallel
    values: dict[str, object] = {"n_seq_max": wish.parallel, "n_ctx": total, "n_ctx_seq": wish.context}
    values |= {"n_batch": wish.batch, "n_ubatch": wish.batch, "causal_attn": 1, "flash_attn": flash}
    values |= {"kv_unified": "false", "freq_base": "10000.0", "freq_scale": 1}
    values |= {"n_rs_seq": 0, "n_outputs_max": wish.parallel, "n_outputs_max_per_seq": 1} if new else {}
    lines = ["llama_context: constructing llama_context"]
    lines += [f"llama_context: {name:<{width}} = {value}" for name, value in values.items()]
    output = "CUDA_Host" if plan.devices else "CPU"
    lines.append(f"llama_context: {output:>10}  output buffer size = {plan.host.output / MIB:8.2f} MiB")
    layers = plan.layers - 1
    for share in (*plan.devices, plan.host):
        if share.kv:
            lines.append(f"llama_kv_cache: {share.name:>10} KV buffer size = {share.kv / MIB:8.2f} MiB")
    size = kv_per_layer * layers * total / MIB
    half = f"({wish.kv_type}): {size / 2:7.2f} MiB"
    if size:
        lines.append(
            f"llama_kv_cache: size = {size:7.2f} MiB ({wish.context:6d} cells, {layers:3d} layers, "
            f"{wish.parallel:2d}/{wish.parallel} seqs), K {half}, V {half}"
        )
    return lines


def compute_lines(plan: Plan, prefix: str) -> list[str]:
    """Return the compute buffers."""
    shares: Sequence[tuple[str, Share]] = [(share.name, share) for share in plan.devices]
    shares = [*shares, ("CUDA_Host" if plan.devices else "CPU", plan.host)]
    return [f"{prefix}: {name:>10} compute buffer size = {share.compute / MIB:8.2f} MiB" for name, share in shares]


def device_lines(cards: Sequence[tuple[str, Gpu]]) -> list[str]:
    """Return which cards are used, with the PCI address that ollama's parser looks for."""
    return [
        f"llama_model_load_from_file_impl: using device {name} ({card.name}) ({card.pci}) - "
        f"{free_bytes(card) // MIB} MiB free"
        for name, card in cards
    ]


def hello_lines(model: str, cards: Sequence[tuple[str, Gpu]], library: str) -> list[str]:
    """Return what llama-server says before it opens the model."""
    lines = ["srv  llama_server: initializing ..."]
    if cards:
        family = {"CUDA": "cuda_v13/libggml-cuda.so", "ROCm": "rocm_v7_2/libggml-hip.so"}
        backend = cards[0][0].rstrip("0123456789")
        lines.append(
            f"load_backend: loaded {backend} backend from {library}/{family.get(backend, 'vulkan/libggml-vulkan.so')}"
        )
    lines += [
        f"load_backend: loaded CPU backend from {library}/libggml-cpu.so",
        "cmn  common_param: common_params_print_info: build 1 (0c1e570) with GNU 12.2.0 for Linux x86_64 (debug)",
        "cmn  common_param: common_params_print_info: verbosity = 4 (adjust with the `-lv N` CLI arg)",
        "cmn  common_param: device_info:",
    ]
    for name, card in cards:
        total, free = usable_bytes(card) // MIB, free_bytes(card) // MIB
        lines.append(f"cmn  common_param:   - {name:<8}: {card.name} ({total} MiB, {free} MiB free)")
    return [
        *lines,
        f"cmn  common_param:   - CPU     : Example CPU ({_HOST_MIB} MiB, {_HOST_MIB} MiB free)",
        "cmn  common_param: system_info: n_threads = 2 (n_threads_batch = 2) / 2 | CPU : SSE3 = 1 | SSSE3 = 1 |"
        " AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | LLAMAFILE = 1 | REPACK = 1 | ",
        "srv  init_listene: The UI is disabled",
        "srv  init_listene: Use --ui/--no-ui (or deprecated --webui/--no-webui) to enable/disable",
        "srv          init: using 5 threads for HTTP server",
        "srv  llama_server: security: no API key is set and CORS allows all origins"
        " (see https://github.com/ggml-org/llama.cpp/pull/25655)",
        f"srv    load_model: loading model '{model}'",
        f"srv    load_model: local path '{model}'",
        "cmn  common_init_: fitting params to device memory ...",
        "cmn  common_init_: (for bugs during this step try to reproduce them with -fit off, or provide --verbose"
        " logs if the bug only occurs with -fit on)",
        "common_params_fit_impl: getting device memory data for initial parameters:",
    ]


def fit_lines(plan: Plan, margin_mib: int) -> list[str]:
    """Return the outcome of fitting a model into memory."""
    host = plan.host
    need = [round(part / MIB) for part in (host.model, host.kv + host.output, host.compute)]
    total = round(host.total / MIB)
    heads = "| total   free    self   model   context   compute    unaccounted |"
    lines = [f"common_memory_breakdown_print: | memory breakdown [MiB] {heads}"]
    if plan.devices:
        over = plan.layers - plan.offloaded
        lines += [
            f"common_params_fit_impl: - {share.name}: {share.layers} layers ({over} overflowing),"
            f" {share.total // MIB} MiB used, {max(0, share.free - share.total) // MIB} MiB free"
            for share in plan.devices
        ]
    else:
        lines += [
            f"common_memory_breakdown_print: |   - Host               |                 {total:4d} ="
            f" {need[0]:5d} + {need[1]:7d} + {need[2]:7d}                |",
            f"common_params_fit_impl: projected to use {total} MiB of host memory vs. {_HOST_MIB} MiB of total host"
            " memory",
            f"common_params_fit_impl: will leave {_HOST_MIB - total - 1} >= {margin_mib} MiB of system memory, no"
            " changes needed",
        ]
    return [
        *lines,
        "common_fit_params: successfully fit params to free device memory",
        "common_fit_params: fitting params to free memory took 0.00 seconds",
    ]


def ready_lines(wish: Wish, port: int, cache_mib: int) -> list[str]:
    """Return what llama-server says once the model is there."""
    cache = [
        f"srv    load_model: prompt cache is enabled, size limit: {cache_mib} MiB",
        "srv    load_model: use `--cache-ram 0` to disable the prompt cache",
    ]
    slots = [f"slot   load_model: id  {i} | task -1 | new slot, n_ctx = {wish.context}" for i in range(wish.parallel)]
    return [
        "cmn          init: llama threadpool init, n_threads = 2",
        "cmn  common_init_: warming up the model with an empty run - please wait ... (--no-warmup to disable)",
        f"srv    load_model: initializing, n_slots = {wish.parallel}, n_ctx_slot = {wish.context},"
        " kv_unified = 'false'",
        "spec common_specu: no implementations specified for speculative decoding",
        *slots,
        *(cache if cache_mib else ["srv    load_model: prompt cache is disabled - use `--cache-ram N` to enable it"]),
        "srv    load_model: for more info see https://github.com/ggml-org/llama.cpp/pull/16391",
        "srv    load_model: context checkpoints enabled, max = 32, min spacing = 8192",
        "srv          init: idle slots will be saved to prompt cache upon starting a new task",
        "srv          init: init: chat template, example_format: '<|im_start|>system",
        "You are a helpful assistant<|im_end|>",
        "<|im_start|>user",
        "Hello<|im_end|>",
        "<|im_start|>assistant",
        "Hi there<|im_end|>",
        "<|im_start|>user",
        "How are you?<|im_end|>",
        "<|im_start|>assistant",
        "'",
        "srv          init: init: chat template, thinking = 0",
        "srv          init: preserve_reasoning kwarg: not supported by template",
        "srv  llama_server: model loaded",
        f"srv  llama_server: listening on http://127.0.0.1:{port}",
        "srv  update_slots: all slots are idle",
    ]
