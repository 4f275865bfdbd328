"""The notebook's figures: `%load_ext`, and the first answer in a fresh kernel."""

from __future__ import annotations

import time
from typing import Any

from jupyter_client.manager import start_new_kernel

LOAD = """
import time
begun = time.perf_counter()
get_ipython().run_line_magic("load_ext", "fleet_rlm_jupyter")
print(time.perf_counter() - begun)
"""
TEXT = "text = ''.join(f\"level={'ERROR' if n % 7 == 0 else 'INFO'} service=s{n % 5}\\n\" for n in range(500))"
ASK = "%%fleet --var text --model offline/recipes\nWhich service has the most errors?"


def kernel_figures(repeats: int = 3) -> dict[str, list[float]]:
    """Seconds of `%load_ext` in the kernel, and from sending it to the first answer, each in a kernel of its own."""
    loads: list[float] = []
    answers: list[float] = []
    for _ in range(repeats):
        manager, client = start_new_kernel(kernel_name="python3")
        try:
            printed: list[str] = []
            hook: Any = lambda message, seen=printed: seen.append(message["content"].get("text", ""))  # noqa: E731
            begun = time.perf_counter()
            client.execute_interactive(LOAD, output_hook=hook, timeout=60)
            client.execute_interactive(f"{TEXT}", timeout=60)
            client.execute_interactive(ASK, output_hook=lambda message: None, timeout=60)
            answers.append(time.perf_counter() - begun)
            loads.append(float("".join(printed)))
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    return {"%load_ext": loads, "first answer in a fresh kernel": answers}
