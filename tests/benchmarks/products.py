"""The rate of one large matrix product on a device: the peak that shares refer to. Needs torch alone."""

from __future__ import annotations

import time

import torch

PRECISIONS = ("bf16", "tf32", "fp32")
SIDES = {"cuda": 8192, "cpu": 1024}  # rows of the product
TIMES = 5  # products that are timed together


def product_rate(device: torch.device, precision: str = "fp32") -> float:
    """Operations a second of one product of random square matrices, the fastest of four; CPU seconds on a CPU."""
    side, dtype = SIDES[device.type], torch.bfloat16 if precision == "bf16" else torch.float32
    a, matmul = torch.randn(side, side, device=device, dtype=dtype), torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = precision == "tf32"
    try:
        took = min(_seconds(a, device) for _ in range(4))
    finally:
        matmul.allow_tf32 = before
    return 2 * side**3 / took


def _seconds(a: torch.Tensor, device: torch.device) -> float:
    """Seconds of a product."""
    times, clock = (TIMES, time.perf_counter) if device.type == "cuda" else (1, time.process_time)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = clock()
    for _ in range(times):
        a @ a
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock() - started) / times
