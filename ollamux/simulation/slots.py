"""The lines llama-server prints for each request, as recorded from ollama 0.32.15. Pure."""

from __future__ import annotations


def request_lines(number: int, tokens: int, context: int) -> list[str]:
    """Return what one request logs; `number` counts from one."""
    slot = f"slot launch_slot_: id  0 | task {number * 21 - 21}"
    work = f"slot   operator(): id  0 | task {number * 21 - 21}"
    choice = "selected slot by LRU, t_last = -1"
    if number > 1:
        choice = "selected slot by LCP similarity, f_sim_best = 1.000 (> 0.100 thold), f_keep = 0.457"
    return [
        "srv  server_strea: conv_id= (empty=1)",
        "slot get_availabl: id  0 | task -1 |  - skipping, slot is empty",
        f"slot get_availabl: id  0 | task -1 | {choice}",
        "srv  get_availabl: updating prompt cache",
        "srv          load:  - looking for better prompt, base f_keep = -1.000, f_sim = 0.000",
        f"srv        update:  - cache state: {number - 1} prompts, 0.000 MiB (limits: 8192.000 MiB, {context} tokens,"
        " 8589934592 est)",
        "srv  get_availabl: prompt cache update took 0.02 ms",
        "slot launch_slot_: id  0 | task -1 | sampler chain: logits -> ?penalties -> ?dry -> ?top-n-sigma -> top-k ->"
        " ?typical -> top-p -> ?min-p -> ?xtc -> temp-ext -> dist ",
        "slot launch_slot_: id  0 | task -1 | sampler params: ",
        "\trepeat_last_n = 64, repeat_penalty = 1.000, frequency_penalty = 0.000, presence_penalty = 0.000",
        "\tdry_multiplier = 0.000, dry_base = 1.750, dry_allowed_length = 2, dry_penalty_last_n = 64",
        "\ttop_k = 40, top_p = 0.900, min_p = 0.000, xtc_probability = 0.000, xtc_threshold = 0.100,"
        " typical_p = 1.000, top_n_sigma = -1.000, temp = 0.800",
        "\tmirostat = 0, mirostat_lr = 0.100, mirostat_ent = 5.000, adaptive_target = -1.000, adaptive_decay = 0.900",
        f"{slot} | processing task, is_child = 0",
        f"{work} | new prompt, n_ctx_slot = {context}, n_keep = 4, task.n_tokens = {tokens}",
        f"{work} | cached n_tokens = 0, memory_seq_rm [0, end)",
        f"slot init_sampler: id  0 | task {number * 21 - 21} | init sampler, took 0.01 ms, tokens: text = {tokens},"
        f" total = {tokens}",
    ]
