"""Engines that a model is timed on, each by the same load: prompts alone, and sequences decoded together.

measure() returns tokens per second by what was measured: "prefill 512", "decode 8". Random prompts, no end of
sequence, no prompt cache, no speculation; what is decoded: `Row` in compare_peer.py.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "blackbox"))


@dataclass
class Load:
    prompts: list[int]  # lengths, each alone
    batches: list[int]  # sequences decoded together
    context: int        # prompt of each of them
    output: int         # tokens decoded

    def names(self) -> list[str]:
        return [f"prefill {n}" for n in self.prompts] + [f"decode {n}" for n in self.batches]


def lines_of(command: list) -> list:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@dataclass
class Sluice:
    name: str
    model: Path
    threads: int
    weights: str = "auto"
    binary: Path = ROOT / "build" / "release" / "sluice"
    extra: list[str] = field(default_factory=list)

    def rows(self, batches: list[int], prompt: int, output: int) -> list[dict]:
        # All prompts in one step, so that every sequence is there from the first decode step to the last.
        at_once = max(batches) * prompt if max(batches) > 1 else 0
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            subprocess.run(
                [self.binary, "bench", f"--model={self.model}", f"--weights={self.weights}", "--rounds=1",
                 f"--threads={self.threads}", f"--batch-sizes={','.join(map(str, batches))}",
                 f"--prompt-tokens={prompt}", f"--output-tokens={output}", f"--max-batch-tokens={at_once}",
                 "--max-step-ms=60000", f"--json-file={file.name}", *self.extra],
                check=True, stdout=subprocess.DEVNULL)
            return [row for row in json.load(open(file.name)) if not row["subject"].endswith(" forced dense")]

    def measure(self, load: Load) -> dict[str, float]:
        found = {}
        for prompt in load.prompts:
            found[f"prefill {prompt}"] = self.rows([1], prompt, 2)[0]["prefill_tokens_per_second"]
        if load.batches:
            for row in self.rows(load.batches, load.context, load.output):
                found[f"decode {row['batch']}"] = row["decode_tokens_per_second"]
        return found

    def next_tokens(self, ids: list[int]) -> list[int]:
        """What greedy decoding would take after each token but the last."""
        os.environ["SLUICE_BINARY"] = str(self.binary)
        import sluice_process
        sluice_process.START_LIMIT_S = 600  # big models, and machines that are not idle
        with sluice_process.Sluice(f"--weights={self.weights}", f"--threads={self.threads}", model=self.model) as server:
            answer = server.complete(prompt=ids, max_tokens=1, prompt_logprobs=1, temperature=0)
        found = []
        for row in answer["choices"][0]["prompt_logprobs"][1:]:
            found.append(next(int(token) for token, cell in row.items() if cell["rank"] == 1))
        return found


@dataclass
class Program:
    """An engine in a process of its own: a script beside this one that prints JSON, a line for each measure."""
    name: str
    command: list

    @classmethod
    def of(cls, name: str, script: str, *words, python: Path = Path(sys.executable)) -> "Program":
        return cls(name, [python, ROOT / "tools" / "bench" / script, *words])

    def measure(self, load: Load) -> dict[str, float]:
        def listed(numbers: list[int]) -> str:
            return ",".join(map(str, numbers))

        rows = lines_of([*self.command, f"--prompts={listed(load.prompts)}", f"--batch-sizes={listed(load.batches)}",
                         f"--context={load.context}", f"--output-tokens={load.output}"])
        found = {f"prefill {row['prompt']}": row["prefill"] for row in rows[:len(load.prompts)]}
        return found | {f"decode {row['batch']}": row["decode"] for row in rows[len(load.prompts):]}

    def next_tokens(self, ids: list[int]) -> list[int]:
        return lines_of([*self.command, f"--next-of={','.join(map(str, ids))}"])[0]


class Torch:
    """transformers, or our MoEUT (moeut_torch.py): eager, with a key-value cache."""

    def __init__(self, model: Path, threads: int, dtype: str = "bfloat16"):
        import torch
        torch.set_num_threads(threads)
        self.torch = torch
        config = json.loads((model / "config.json").read_text())
        self.vocab_size = config["vocab_size"]
        self.is_moeut = config["model_type"] == "moeut"
        self.name = "PyTorch" if self.is_moeut else "transformers"
        if self.is_moeut:
            import moeut_torch
            self.model = moeut_torch.load(model, getattr(torch, dtype))
        else:
            from transformers import AutoModelForCausalLM
            self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()

    def start(self, batch: int, positions: int):
        """A function from ids [batch, rows] to the last row's logits, which remembers what came before."""
        if self.is_moeut:
            cache = self.model.new_cache(batch, positions)
            return lambda ids: self.model(ids, cache)[:, -1]
        past = None

        def step(ids):
            nonlocal past
            out = self.model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
            past = out.past_key_values
            return out.logits[:, -1]

        return step

    def time(self, batch: int, prompt: int, output: int) -> tuple[float, float]:
        ids = self.torch.randint(0, self.vocab_size, (batch, prompt), generator=self.torch.Generator().manual_seed(batch))
        with self.torch.no_grad():
            warm = self.start(batch, prompt + output)
            warm(warm(ids[:, :16]).argmax(-1, keepdim=True))
            step = self.start(batch, prompt + output)
            begin = time.perf_counter()
            logits = step(ids)
            prefilled = time.perf_counter()
            for _ in range(output - 1):
                logits = step(logits.argmax(-1, keepdim=True))
            end = time.perf_counter()
        return batch * prompt / (prefilled - begin), batch * (output - 1) / (end - prefilled)

    def measure(self, load: Load) -> dict[str, float]:
        found = {f"prefill {prompt}": self.time(1, prompt, 2)[0] for prompt in load.prompts}
        return found | {f"decode {batch}": self.time(batch, load.context, load.output)[1] for batch in load.batches}

    def next_tokens(self, ids: list[int]) -> list[int]:
        step = self.start(1, len(ids))
        with self.torch.no_grad():
            return [int(step(self.torch.tensor([[token]])).argmax()) for token in ids]
