"""The running server as an evaluator: log-probabilities of token ids through /v1/completions."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "blackbox"))

from sluice_process import Sluice  # noqa: E402

__all__ = ["ROOT", "Sluice", "logprobs"]


def logprobs(server: Sluice, sequences: list[list[int]], **fields) -> list[list[float]]:
    """Per sequence the log-probability of each token but the first, given those before it."""
    answer = server.complete(prompt=sequences, max_tokens=0, logprobs=0, echo=True, temperature=0, **fields)
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    return [choice["logprobs"]["token_logprobs"][1:] for choice in choices]
