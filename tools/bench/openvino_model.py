"""OpenVINO on a checkpoint: its export, then speed of prompts and of batches, or the likeliest next tokens.

The export is optimum-intel's with its int8 weights. Everything else is OpenVINO's default for latency on the CPU. As its
GenAI library does, the head is given the last row of a prompt only.

    pip install optimum-intel openvino
    tools/bench/openvino_model.py /tmp/qwen3-moe-ov --export /tmp/qwen3-moe
    tools/bench/openvino_model.py /tmp/qwen3-moe-ov --prompts 512 --batch-sizes 1,8
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13

import peer_program


def export(checkpoint: Path, out: Path) -> None:
    subprocess.run([Path(sys.executable).parent / "optimum-cli", "export", "openvino", "--model", checkpoint,
                    "--task", "text-generation-with-past", "--weight-format", "int8", "--disable-convert-tokenizer", out],
                   check=True)


def head_on_last_row(model: openvino.Model) -> None:
    node = model.get_results()[0]
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    last = opset13.slice(node.input_value(0), [-1], [np.iinfo(np.int64).max], [1], [1])
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


class OpenVino:
    def __init__(self, directory: Path, threads: int):
        core = openvino.Core()
        model = core.read_model(directory / "openvino_model.xml")
        self.vocab_size = json.loads((directory / "config.json").read_text())["vocab_size"]
        head_on_last_row(model)
        self.inputs = {tensor.get_any_name() for tensor in model.inputs}
        compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
        self.request = compiled.create_infer_request()
        self.past = 0

    def clear(self) -> None:
        self.request.reset_state()
        self.past = 0

    def step(self, ids: np.ndarray) -> np.ndarray:
        """ids [sequences, rows] after what came before; logits [sequences, vocabulary] of the last row."""
        sequences, rows = ids.shape
        total = self.past + rows
        positions = np.broadcast_to(np.arange(self.past, total), ids.shape)
        values = {"input_ids": ids, "attention_mask": np.ones((sequences, total), np.int64),
                  "position_ids": np.ascontiguousarray(positions), "beam_idx": np.arange(sequences, dtype=np.int32)}
        self.request.infer({name: value for name, value in values.items() if name in self.inputs}, share_inputs=True)
        self.past = total
        return self.request.get_output_tensor(0).data[:, -1]

    def time(self, batch: int, prompt: int, output: int) -> dict:
        ids = np.random.default_rng(batch).integers(0, self.vocab_size, (batch, prompt + output))
        self.clear()
        begin = time.perf_counter()
        self.step(ids[:, :prompt])
        prefilled = time.perf_counter()
        for i in range(output - 1):
            self.step(ids[:, prompt + i:prompt + i + 1])
        end = time.perf_counter()
        return peer_program.rates(batch, prompt, output, prefilled - begin, end - prefilled)

    def next_tokens(self, ids: list[int]) -> list[int]:
        """What greedy decoding would take after each token."""
        self.clear()
        return [int(self.step(np.array([[token]])).argmax()) for token in ids]


def main() -> None:
    parser = peer_program.parser(__doc__)
    parser.add_argument("--export", type=Path, metavar="CHECKPOINT", help="only write MODEL")
    args = parser.parse_args()
    if args.export:
        export(args.export, args.model)
        return
    peer_program.answer(OpenVino(args.model, args.threads), args)


if __name__ == "__main__":
    main()
