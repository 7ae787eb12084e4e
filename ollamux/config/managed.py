"""Environment variables that ollamux sets itself, each with the key to use instead. A table and its question."""

from __future__ import annotations

# What to use instead, as words that follow "managed by ollamux; ".
MANAGED = {
    "OLLAMA_HOST": "use the keys host and port",
    "OLLAMA_MODELS": "use the key store",
    "OLLAMA_CONTEXT_LENGTH": "use the key context_length",
    "OLLAMA_NUM_PARALLEL": "use the key num_parallel",
    "OLLAMA_MAX_LOADED_MODELS": "use the key max_loaded_models",
    "OLLAMA_KEEP_ALIVE": "use the key keep_alive",
    "OLLAMA_KV_CACHE_TYPE": "use the key kv_cache_type",
    "OLLAMA_FLASH_ATTENTION": "use the key flash_attention",
    "OLLAMA_GPU_OVERHEAD": "use the key headroom",
    "LLAMA_ARG_FIT_TARGET": "use the key headroom",
    "LLAMA_ARG_CACHE_RAM": "use the key cache_ram",
    "OLLAMA_NOPRUNE": "it is always on, because instances share the store",
    **dict.fromkeys(
        (
            "CUDA_VISIBLE_DEVICES",
            "CUDA_DEVICE_ORDER",
            "HIP_VISIBLE_DEVICES",
            "ROCR_VISIBLE_DEVICES",
            "GPU_DEVICE_ORDINAL",
            "GGML_VK_VISIBLE_DEVICES",
            "OLLAMA_VULKAN",
            "OLLAMA_LLM_LIBRARY",
        ),
        "use the key gpus",
    ),
    **dict.fromkeys(
        ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
        "it speaks to the service manager, and only ollamux may",
    ),
}
OWN_PREFIX = "OLLAMUX_"


def refusal(name: str) -> str | None:
    """Say what to use instead of setting this variable, or None where it is free."""
    if name.startswith(OWN_PREFIX):
        return "names with OLLAMUX_ are its own"
    return MANAGED.get(name)
