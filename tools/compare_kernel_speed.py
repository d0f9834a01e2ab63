#!/usr/bin/env python3
"""Times plait's kernels and PyTorch's operations of the same shapes in turns, on a CPU or a GPU, and prints both.

usage: tools/compare_kernel_speed.py PLAIT [--device CUDA] [--shapes NAME] [--tokens N] [--seconds 0.1] [--rounds 2]
                                     [--json FILE]

Shapes are those of `plait bench kernels`. Each is timed as there: the least time of a run, by the device's own clock on a
GPU, of all rounds. plait is what its table chooses first; its attention on a GPU is cuDNN's where that is there. What PyTorch
has no operation for is left out: mamba_ssm, causal_conv1d and torch's grouped product are taken where they can be had.
PyTorch runs operation by operation, its backwards by autograd, as a model without torch.compile has them.

Needs torch; nothing of plait's own does.
"""

import argparse
import json
import re
import subprocess
import time

import torch
import torch.nn.functional as F

BF16, F32 = torch.bfloat16, torch.float32


def optional(module, name):
    try:
        return getattr(__import__(module, fromlist=[name]), name)
    except (ImportError, AttributeError):
        return None


class Maker:
    """Operands, and what is timed of an operation: its forward, or its backward alone."""

    def __init__(self, device):
        self.device = device

    def __call__(self, *shape, dtype=BF16, grad=False):
        return (torch.rand(*shape, device=self.device) - 0.5).to(dtype).requires_grad_(grad)

    def integers(self, size, end):
        return torch.arange(size, device=self.device) * 48271 % end

    @staticmethod
    def timed(grad, run, inputs):
        """The forward `run`, or the backward of what it returns."""
        if not grad:
            return run
        out = run()
        dout = torch.rand_like(out)
        return lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True)


def matmul(make, operation, tokens, into, out):
    x, w, y = make(tokens, into), make(out, into), make(tokens, out)
    if operation == "matmul":
        return lambda: x @ w.T
    if operation == "matmul_dgrad":
        return lambda: y @ w
    dw = make(out, into, dtype=F32)
    return lambda: dw.add_(y.T @ x)


def grouped_matmul(make, operation, tokens, choices, experts, into, out):
    grouped = optional("torch.nn.functional", "grouped_mm") or optional("torch", "_grouped_mm")
    if grouped is None or operation != "grouped_matmul":
        return None
    rows = tokens * choices
    x, w = make(rows, into), make(experts, into, out)
    ends = torch.arange(1, experts + 1, device=make.device, dtype=torch.int32) * (rows // experts)
    return lambda: grouped(x, w, offs=ends)


def rms_norm(make, operation, tokens, width):
    grad = operation.endswith("backward")
    x, residual, weight = make(tokens, width, grad=grad), make(tokens, width), make(width, grad=grad)
    return make.timed(grad, lambda: F.rms_norm(x + residual, (width,), weight, 1e-6), [x, weight])


def gated_activation(make, operation, tokens, width):
    grad = operation.endswith("backward")
    gate, up = make(tokens, width, grad=grad), make(tokens, width, grad=grad)
    return make.timed(grad, lambda: F.silu(gate) * up, [gate, up])


def rotary_embedding(make, _operation, tokens, heads, dim):
    x, cos, sin = make(tokens, heads, dim), make(tokens, 1, dim), make(tokens, 1, dim)

    def run():
        half = dim // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    return run


def causal_convolution(make, operation, tokens, channels, width):
    fused = optional("causal_conv1d", "causal_conv1d_fn")
    grad = operation.endswith("backward")
    x, w, bias = make(1, channels, tokens, grad=grad), make(channels, width, grad=grad), make(channels, grad=grad)

    def run():
        if fused is not None and make.device == "cuda":
            return fused(x, w, bias, activation="silu")
        return F.silu(F.conv1d(x, w[:, None], bias, padding=width - 1, groups=channels)[..., :tokens])

    return make.timed(grad, run, [x, w, bias])


def selective_scan(make, operation, tokens, channels, states):
    scan = optional("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    if scan is None or make.device != "cuda":
        return None
    grad = operation.endswith("backward")
    x, dt, z = (make(1, channels, tokens, grad=grad) for _ in range(3))
    b, c = (make(1, 1, states, tokens, grad=grad) for _ in range(2))
    a = -torch.rand(channels, states, device="cuda")
    d, bias = make(channels, dtype=F32), make(channels, dtype=F32)
    return make.timed(grad, lambda: scan(x, dt, a, b, c, d, z, bias, delta_softplus=True), [x, dt, z, b, c])


def attention(make, operation, tokens, heads, dim, kv_heads, document):
    if tokens % document != 0:
        return None  # torch has no packed documents of any length
    grad = operation.endswith("backward")
    q = make(tokens // document, heads, document, dim, grad=grad)
    k, v = (make(tokens // document, kv_heads, document, dim, grad=grad) for _ in range(2))
    return make.timed(grad, lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), [q, k, v])


def embedding(make, operation, tokens, vocabulary, width):
    grad = operation.endswith("backward")
    table, ids = make(vocabulary, width, grad=grad), make.integers(tokens, vocabulary)
    return make.timed(grad, lambda: F.embedding(ids, table), [table])


def linear_cross_entropy(make, _operation, rows, width, vocabulary):
    x, w = make(rows, width, grad=True), make(vocabulary, width, grad=True)
    targets = make.integers(rows, vocabulary)
    return lambda: torch.autograd.grad(F.cross_entropy(F.linear(x, w).float(), targets), [x, w])


def cast(make, _operation, rows, columns):
    x = make(rows, columns, dtype=F32)
    return lambda: x.to(BF16)


def parts(make, elements, count, dtype):
    ends = [elements * i // count for i in range(count + 1)]
    return [make(end - begin, dtype=dtype) for begin, end in zip(ends, ends[1:]) if end > begin]


def squared_norm(make, _operation, elements, count):
    gradients = parts(make, elements, count, F32)
    return lambda: torch.nn.utils.get_total_norm(gradients, foreach=True)


def adamw_update(make, _operation, elements, count):
    parameters = [p.requires_grad_() for p in parts(make, elements, count, F32)]
    copies = [p.detach().to(BF16) for p in parameters]
    for p in parameters:
        p.grad = torch.rand_like(p)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def run():
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(copies, parameters)

    return run


# (operations, their shapes' text, the peer): the text's numbers are the peer's arguments.
PEERS = [
    (r"matmul|matmul_dgrad|matmul_weight_gradient", r"(\d+) tokens, (\d+) to (\d+), bf16", matmul),
    (r"grouped_matmul", r"(\d+) tokens, (\d+) of (\d+) experts, (\d+) to (\d+), bf16", grouped_matmul),
    (r"rms_norm_\w+", r"(\d+) tokens, (\d+) wide, residual, bf16", rms_norm),
    (r"gated_activation_\w+", r"(\d+) tokens, (\d+) wide, bf16", gated_activation),
    (r"rotary_embedding", r"(\d+) tokens, (\d+) heads of (\d+), bf16", rotary_embedding),
    (r"causal_convolution_\w+", r"(\d+) tokens, (\d+) channels, width (\d+), bf16", causal_convolution),
    (r"selective_scan_(forward|backward)", r"(\d+) tokens, (\d+) channels, (\d+) states, bf16", selective_scan),
    (r"attention_\w+", r"(\d+) tokens, (\d+) heads of (\d+), (\d+) key-value heads, documents of (\d+), bf16", attention),
    (r"embedding_\w+", r"(\d+) tokens, vocabulary (\d+), (\d+) wide, bf16", embedding),
    (r"linear_cross_entropy", r"(\d+) tokens, (\d+) to vocabulary (\d+), bf16", linear_cross_entropy),
    (r"cast", r"(\d+) x (\d+), f32 to bf16", cast),
    (r"squared_norm", r"(\d+) elements of (\d+) parameters?, f32", squared_norm),
    (r"adamw_update", r"(\d+) elements of (\d+) parameters?, f32 to bf16", adamw_update),
]


def peer_of(make, operation, shape):
    for operations, text, peer in PEERS:
        found = re.fullmatch(text, shape)
        if found and re.fullmatch(operations, operation):
            return peer(make, operation, *map(int, found.groups()))
    return None


def least_seconds(run, seconds, device):
    """As plait's: after one that is not counted, at least three, on a GPU as many behind one another as fill 2 ms."""

    def timed(runs):
        if device == "cpu":
            begin = time.perf_counter()
            run()
            return time.perf_counter() - begin
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(runs):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / runs

    run()
    runs = 1 if device == "cpu" else max(1, min(200, round(2e-3 / max(timed(1), 1e-9) + 0.5)))
    least, total, rounds = float("inf"), 0.0, 0
    while rounds < 3 or total < seconds:
        once = timed(runs)
        least, total, rounds = min(least, once), total + once * runs, rounds + 1
    return least


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plait")
    parser.add_argument("--device", choices=["CPU", "CUDA"], default="CPU")
    parser.add_argument("--shapes", choices=["DEMO", "JAMBA_LARGE", "TINY"])
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.device == "CUDA" and not torch.cuda.is_available():
        raise SystemExit("--device CUDA: torch finds no GPU")
    device = "cuda" if options.device == "CUDA" else "cpu"
    bench = [options.plait, "bench", "kernels", "--json", "--device", options.device, "--seconds", str(options.seconds)]
    bench += ["--shapes", options.shapes] if options.shapes else []
    bench += ["--tokens", str(options.tokens)] if options.tokens else []
    rows = {}
    for _ in range(options.rounds):
        answer = json.loads(subprocess.run(bench, check=True, stdout=subprocess.PIPE).stdout)
        torch.set_num_threads(answer["threads"])
        of_round = {}
        for kernel in answer["kernels"]:
            if not kernel["refusal"]:
                of_round.setdefault((kernel["operation"], kernel["shape"]), kernel)
        for key, kernel in of_round.items():
            run = peer_of(Maker(device), *key)
            if run is None:
                continue
            row = rows.setdefault(key, {"plait": float("inf"), "torch": float("inf")})
            row["implementation"] = kernel["implementation"]
            row["plait"] = min(row["plait"], kernel["seconds"])
            row["torch"] = min(row["torch"], least_seconds(run, options.seconds, device))
            del run
            if device == "cuda":
                torch.cuda.empty_cache()
    print(f"{answer['device']}, {answer['threads']} threads, torch {torch.__version__}; "
          f"least of {options.rounds} rounds in turns")
    print(f"{'operation':<30}{'plait':>12}{'torch':>12}  times as fast")
    for (operation, shape), row in rows.items():
        print(f"{operation:<30}{row['plait'] * 1e6:>9.1f} us{row['torch'] * 1e6:>9.1f} us{row['torch'] / row['plait']:>9.2f}"
              f"  ({shape}; {row['implementation']})")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"device": answer["device"], "threads": answer["threads"], "torch": torch.__version__,
                       "kernels": [{"operation": o, "shape": s, **row} for (o, s), row in rows.items()]}, file, indent=1)


if __name__ == "__main__":
    main()
