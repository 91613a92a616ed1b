"""What the running server says about one model: losses, accuracies, routing, speed."""

import io
import json
import math
import random
import subprocess
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from served import ROOT, Sluice, logprobs

END_ID = 0
SEED = 1
# Small models write plainer at low temperature; then they repeat themselves, which the penalty keeps down.
PROMPTS = ["Once upon a time there was a little", "The old man looked at the sea and", '"Mother," said the boy,',
           "In the morning the children went", "It was very cold in the forest, and"]
PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'"})  # as data.py does with the training text


@dataclass
class Scores:
    """Of windows of validation text under one routing."""
    loss: float
    flops: float                 # executed, per token
    dense_flops: float           # the same rows without skipping
    executed: dict[str, float] = field(default_factory=dict)  # per routed layer: share of rows
    least_load: float | None = None  # of any expert, over its fair share


def score_windows(server: Sluice, windows: list[list[int]], **fields) -> Scores:
    before = server.metrics()
    values, flops, dense = [], 0.0, 0.0
    for start in range(0, len(windows), 4):
        part = windows[start:start + 4]
        answer = server.complete(prompt=part, max_tokens=0, logprobs=0, echo=True, temperature=0, **fields)
        compute = answer["usage"]["compute"]
        flops, dense = flops + compute["flops"], dense + compute["dense_flops"]
        for choice in answer["choices"]:
            values += choice["logprobs"]["token_logprobs"][1:]
    rows = sum(len(window) for window in windows)
    return Scores(-sum(values) / len(values), flops / rows, dense / rows, *routing(before, server.metrics()))


def routing(before, after) -> tuple[dict[str, float], float | None]:
    """Executed share of each routed layer and least expert load, of what ran between two looks."""
    layers = sorted({labels["layer"] for labels, _ in after.select("sluice_token_layers_total")})
    executed = {}
    for layer in layers:
        ran, skipped = (after.value("sluice_token_layers_total", layer=layer, outcome=outcome)
                        - before.value("sluice_token_layers_total", layer=layer, outcome=outcome)
                        for outcome in ("executed", "skipped"))
        if ran + skipped > 0:
            executed[layer] = ran / (ran + skipped)
    loads: dict[tuple[str, str], list[float]] = {}
    for labels, value in after.select("sluice_expert_tokens_total"):
        loads.setdefault((labels["layer"], labels["kind"]), []).append(
            value - before.value("sluice_expert_tokens_total", **labels))
    least = min((min(rows) * len(rows) / sum(rows) for rows in loads.values() if sum(rows)), default=None)
    return executed, least


def tokenize(server: Sluice, text: str) -> list[int]:
    return server.post("/tokenize", {"prompt": text}).json()["tokens"]


def blimp(server: Sluice, archive: Path, per_paradigm: int) -> tuple[int, int]:
    """(pairs whose good sentence is likelier, pairs): a seeded sample of each paradigm."""
    right = total = 0
    with zipfile.ZipFile(archive) as files:
        for name in sorted(n for n in files.namelist() if n.endswith(".jsonl") and not n.startswith("__MACOSX")):
            pairs = [json.loads(line) for line in io.TextIOWrapper(files.open(name), "utf-8") if line.strip()]
            chosen = random.Random(SEED).sample(pairs, min(per_paradigm, len(pairs)))
            sequences = [[END_ID] + tokenize(server, pair[key]) for pair in chosen for key in ("sentence_good", "sentence_bad")]
            sums = [sum(values) for values in logprobs(server, sequences)] if sequences else []
            right += sum(good > bad for good, bad in zip(sums[::2], sums[1::2]))
            total += len(chosen)
    return right, total


def lambada(server: Sluice, file: Path, count: int) -> tuple[int, int]:
    """(passages whose last word greedy decoding would have written, passages): a seeded sample."""
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    right = 0
    chosen = random.Random(SEED).sample(lines, min(count, len(lines)))
    for line in chosen:
        context, word = json.loads(line)["text"].translate(PLAIN).rsplit(" ", 1)
        prefix, target = tokenize(server, context)[-400:], tokenize(server, " " + word)
        answer = server.complete(prompt=[prefix + target], max_tokens=0, logprobs=1, echo=True, temperature=0)
        found = answer["choices"][0]["logprobs"]
        pairs = list(zip(found["token_logprobs"], found["top_logprobs"]))[-len(target):]
        right += all(value >= max(top.values()) for value, top in pairs)
    return right, len(chosen)


def samples(server: Sluice, tokens: int) -> list[str]:
    """What follows each of the prompts."""
    return [server.complete(prompt=prompt, max_tokens=tokens, seed=SEED)["choices"][0]["text"]
            for prompt in PROMPTS]


def bench(model: Path, baseline: Path, rounds: int) -> dict[int, tuple[float, float]]:
    """batch -> (decoded tokens/s, ratio to the baseline), interleaved in one run."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run([str(ROOT / "build/release/sluice"), "bench", "--model", str(model), "--baseline", str(baseline), "--rounds",
                        str(rounds), "--json-file", out.name], check=True, stdout=subprocess.DEVNULL)
        rows = json.loads(Path(out.name).read_text())
    found: dict[int, list[float]] = {}
    for row in rows:
        if not row["subject"].endswith("forced dense"):
            found.setdefault(row["batch"], []).append(row["decode_tokens_per_second"])
    return {batch: (speeds[0], speeds[0] / speeds[1]) for batch, speeds in found.items()}


def knob_speeds(server: Sluice, settings: list[dict], batch: int, rounds: int) -> list[float]:
    """Decoded tokens/s of each routing, medians of interleaved rounds."""
    tokens, prompts = 64, [[i + 1, i + 2, i + 3] for i in range(batch)]
    speeds: list[list[float]] = [[] for _ in settings]
    for turn in range(rounds + 1):
        order = range(len(settings)) if turn % 2 else reversed(range(len(settings)))
        for i in order:
            begin = time.monotonic()
            server.complete(prompt=prompts, max_tokens=tokens, temperature=0, repetition_penalty=1, ignore_eos=True,
                            routing=settings[i])
            if turn:  # the first round warms up
                speeds[i].append(batch * tokens / (time.monotonic() - begin))
    return [median(values) for values in speeds]


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    return loss / math.log(2) / bytes_per_token
