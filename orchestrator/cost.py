"""Pure: which devices can hold a model, and how long it takes there: loading, and every shard.

The model is a roofline: a pass takes as long as its floating point operations at the assumed or measured share of the
device's peak, or as long as reading the weights once, whichever is longer; tensor parallel groups add the bytes that
they exchange. What is assumed stands here, with its source; what was measured comes in as `Rates`. docs/cost.md
explains both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.architecture import Architecture
from orchestrator.rates import Rates
from orchestrator.work import Work
from workers.flops import PEAKS
from workers.protocol import Kind

GB = 10**9


@dataclass(frozen=True)
class Gpu:
    """A kind of device: bytes of memory, FLOP/s in bfloat16, bytes a second of it, dollars an hour, Ray's label.

    `link` are bytes a second between two of them in a node, `words` those of the name that its driver gives it.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    dollars: float
    ray: str
    link: float = 32 * GB
    words: tuple[str, ...] = ()


CPU = "cpu"
"""The kind of a node without GPUs, and of a placement that needs none."""

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("B200-180G", 180 * GB, PEAKS["B200"] * 1e12, 7.7e12, 14.24, "B200", 900 * GB, ("B200",)),
        Gpu("H200-141G", 141 * GB, PEAKS["H200"] * 1e12, 4.8e12, 7.91, "H200", 450 * GB, ("H200",)),
        Gpu("H100-80G", 80 * GB, PEAKS["H100"] * 1e12, 3.35e12, 6.88, "H100", 450 * GB, ("H100",)),
        Gpu("A100-80G", 80 * GB, PEAKS["A100"] * 1e12, 2.04e12, 3.43, "A100", 300 * GB, ("A100", "80GB")),
        Gpu("A100-40G", 40 * GB, PEAKS["A100"] * 1e12, 1.56e12, 2.74, "A100", 300 * GB, ("A100",)),
        Gpu("L40S-48G", 48 * GB, PEAKS["L40S"] * 1e12, 0.86e12, 1.86, "L40S", words=("L40S",)),
        Gpu("A10G-24G", 24 * GB, PEAKS["A10G"] * 1e12, 0.6e12, 1.01, "A10G", words=("A10G",)),
        Gpu("L4-24G", 24 * GB, PEAKS["L4"] * 1e12, 0.3e12, 0.80, "L4", words=("L4",)),
        Gpu(CPU, 64 * GB, 64e9, 10e9, 0.05, "", 10 * GB),
    )
}
"""Memory, bandwidth and links (NVLink one way; PCIe 4.0 x16 where there is none) from NVIDIA's data sheets. Dollars:
the on-demand list price of AWS in us-east-1 after the cut of June 2025, an instance's divided by its GPUs. The CPU is
one core with AVX2 (32 float32 FLOPs a cycle at 2 GHz) and its share of a machine."""

RESERVED = 3 * GB // 2
"""Bytes of a GPU that its context and the libraries take."""
USABLE = 0.92
"""Of the memory: the rest is lost to fragments."""
PASS_TOKENS = 8192
"""Tokens of a packed pass that must fit, as the engine starts with."""
LOGITS_BYTES = (4 + 2) * 2**25
"""Of one tile of logits in float32 and in the dtype of the weights (`workers.vocabulary`)."""
SEQUENCES, SEQUENCE_TOKENS = 8, 2048
"""Conversations whose keys and values must fit at the same time where vLLM serves, and their tokens."""
SMALL = 10**9
"""Parameters up to which several models share one GPU, which each of them alone would not fill."""
FRACTIONS = 4
"""Models on one GPU at most."""

FLOAT32_SHARE = 1 / 16
"""Of the bfloat16 peak: what a GPU reaches in float32 (A100: 19.5 of 312 teraFLOP/s)."""
WRITTEN_TOKENS = 300
"""Of a judge's answer, where nothing else is known."""
CONCURRENT = {"vllm": 64}
"""Answers that an engine writes at a time; one if not named."""
READ_SHARE = 0.6
"""Of the memory's bandwidth, what writing answers reaches."""
NETWORK = 25 * GB
"""Bytes a second between two nodes."""


@dataclass(frozen=True)
class Placement:
    """One way to run a stream: what one worker of it takes, and how long it needs.

    `gpus`: 0 for one CPU slot, below 1 for a fraction of one GPU, else whole GPUs, spread evenly over `nodes`.
    `shard_seconds` holds one prediction for each shard of the plan, in its order. An empty `kind` is any.
    """

    kind: str
    gpus: float
    nodes: int
    load_seconds: float
    shard_seconds: tuple[float, ...]

    @property
    def width(self) -> float:
        """Devices that a worker keeps busy: a CPU slot counts as one."""
        return self.gpus or 1

    @property
    def seconds(self) -> float:
        """Of one worker that does everything."""
        return self.load_seconds + sum(self.shard_seconds)

    def __str__(self) -> str:
        if not self.gpus:
            return self.kind
        if self.gpus < 1:
            return f"1/{round(1 / self.gpus)} {self.kind}"
        return f"{self.gpus:g} {self.kind}" + (f" on {self.nodes} nodes" if self.nodes > 1 else "")


@dataclass(frozen=True)
class Offer:
    """Devices of one kind: how many, and how many of them a node has (1 for CPU slots)."""

    kind: str
    count: int
    node: int = 8


@dataclass(frozen=True)
class Job:
    """What a stream asks of a device, whichever it is. `source`: `disk`, `hub` or `store`, where its weights lie."""

    architecture: Architecture
    kind: Kind
    engine: str
    dtype: str
    source: str
    shards: tuple[Work, ...]
    shares: bool = True

    @property
    def spreads(self) -> bool:
        """Whether its engine spreads a model over GPUs; only vLLM does, for families without a head of their own."""
        return self.engine == "vllm"


def gpu_of(device: str) -> Gpu | None:
    """The kind behind the name that a driver or a footer gives, None for one that is not known."""
    if device == CPU:
        return GPUS[CPU]
    words = set(device.replace("-", " ").split())
    return next((gpu for gpu in GPUS.values() if gpu.words and set(gpu.words) <= words), None)


def needed_bytes(job: Job, gpus: int) -> int:
    """Memory on each of `gpus` devices: a share of weights, keys and values, and the activations of one pass."""
    architecture = job.architecture
    shared = architecture.weight_bytes(job.dtype)
    if job.spreads:
        shared += SEQUENCES * SEQUENCE_TOKENS * architecture.kv_bytes(job.dtype)
    logits = LOGITS_BYTES if job.kind == "logprob" else 0
    each = PASS_TOKENS * architecture.activation_bytes(job.dtype) + logits
    return math.ceil(shared / gpus) + each + RESERVED


def placement(job: Job, gpu: Gpu, node: int, rates: Rates) -> Placement | str:
    """The smallest way to hold the model on one kind of device in nodes of `node` of them, or why there is none."""
    if gpu.name == CPU:
        need = needed_bytes(job, 1)
        return _on(job, gpu, 0, 1, rates) if need <= USABLE * gpu.memory else _too_large(need, gpu)
    for gpus in _counts(node) if job.spreads else (1,):
        need = needed_bytes(job, gpus)
        if need <= USABLE * gpu.memory and job.architecture.heads % gpus == 0:
            fraction = 1 if gpus > 1 else _fraction(job, need / (USABLE * gpu.memory))
            return _on(job, gpu, fraction if fraction < 1 else gpus, 1, rates)
    if job.spreads:
        nodes = next((n for n in range(2, 65) if needed_bytes(job, n * node) <= USABLE * gpu.memory), None)
        if nodes is not None:
            return _on(job, gpu, nodes * node, nodes, rates)
    return _too_large(needed_bytes(job, 1), gpu)


def _counts(node: int) -> list[int]:
    """Sizes of a tensor parallel group inside one node."""
    return [2**power for power in range(node.bit_length()) if 2**power <= node]


def _too_large(need: int, gpu: Gpu) -> str:
    return f"needs {need / GB:,.0f} GB of memory, {gpu.name} has {gpu.memory / GB:,.0f}"


def _fraction(job: Job, share: float) -> float:
    """The part of a GPU that a small model takes."""
    if job.architecture.parameters > SMALL or job.spreads:
        return 1
    return 1 / max(1, min(FRACTIONS, int(1 / share)))


def _on(job: Job, gpu: Gpu, gpus: float, nodes: int, rates: Rates) -> Placement:
    seconds = tuple(shard_seconds(job, work, gpu, gpus or 1, nodes, rates) for work in job.shards)
    return Placement(gpu.name, gpus, nodes, load_seconds(job, gpu, rates), seconds)


def load_seconds(job: Job, gpu: Gpu, rates: Rates) -> float:
    """From the start of a worker until its weights are in memory."""
    return rates.load_seconds(gpu.name, job.source, job.engine, job.architecture, job.dtype).value


def shard_seconds(job: Job, work: Work, gpu: Gpu, gpus: float, nodes: int, rates: Rates) -> float:
    """Of one worker. A fraction of a GPU has that fraction of its speed."""
    tokens, pairs = (work.new_tokens, work.new_pairs) if job.shares else (work.tokens, work.pairs)
    operations = job.architecture.cost.of(tokens, pairs, work.logits if job.kind == "logprob" else 0)
    compute = operations / (_speed(job, gpu, rates) * gpus)
    reading = math.ceil(tokens / PASS_TOKENS) * job.architecture.weight_bytes(job.dtype) / (gpu.bandwidth * gpus)
    return max(compute, reading) + _exchange(job, tokens, gpu, gpus, nodes) + _writing(job, work, gpu, gpus)


def _speed(job: Job, gpu: Gpu, rates: Rates) -> float:
    """FLOP/s that one device reaches for this model."""
    float32 = job.dtype == "float32" and gpu.name != CPU
    return gpu.flops * rates.mfu(gpu.name, job.architecture).value * (FLOAT32_SHARE if float32 else 1)


def _exchange(job: Job, tokens: int, gpu: Gpu, gpus: float, nodes: int) -> float:
    """Two all-reduces a layer over the hidden states of all tokens (Shoeybi et al. 2019), over the slowest link."""
    if gpus <= 1:
        return 0.0
    states = tokens * job.architecture.hidden * 2 * 2 * job.architecture.layers
    return states * 2 * (gpus - 1) / gpus / (gpu.link if nodes == 1 else min(gpu.link, NETWORK))


def _writing(job: Job, work: Work, gpu: Gpu, gpus: float) -> float:
    """A token of each answer that is written at a time needs the weights once, and its own keys and values."""
    if job.kind != "generate":
        return 0.0
    at_a_time = min(CONCURRENT.get(job.engine, 1), max(1, work.rows))
    steps = WRITTEN_TOKENS * work.rows / at_a_time
    context = work.tokens / max(1, work.rows) + WRITTEN_TOKENS / 2
    read = job.architecture.weight_bytes(job.dtype) + at_a_time * context * job.architecture.kv_bytes(job.dtype)
    return steps * read / (gpu.bandwidth * gpus * READ_SHARE)
