"""`sluice bench`: its table, its JSON and its plot say the same, and what they say can be true."""

import functools
import json
import math
import pathlib
import re
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

import sluice_process
from sluice_process import BINARY, MODELS

SVG = "{http://www.w3.org/2000/svg}"
SHORT = ("--prompt-tokens=16", "--output-tokens=4", "--rounds=1")


def bench(*flags):
    return subprocess.run([BINARY, "bench", *flags], capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL)


class Measured:
    """One short run: .text, .rows of the JSON, .plot as an element tree."""

    def __init__(self, model, *flags):
        with tempfile.TemporaryDirectory() as folder:
            json_file, plot_file = pathlib.Path(folder, "bench.json"), pathlib.Path(folder, "bench.svg")
            done = bench("--model", str(model), "--json-file", str(json_file), "--plot", str(plot_file), *SHORT, *flags)
            if done.returncode != 0:
                raise AssertionError(f"exit code {done.returncode}: {done.stderr}")
            self.text = done.stdout
            self.rows = json.loads(json_file.read_text())
            self.plot = ElementTree.fromstring(plot_file.read_bytes())
            self.files = sorted(path.name for path in pathlib.Path(folder).iterdir())

    def row(self, subject, batch):
        (row,) = [row for row in self.rows if (row["subject"], row["batch"]) == (subject, batch)]
        return row

    def shapes(self, kind, class_name):
        return [shape for shape in self.plot.iter(SVG + kind) if class_name in shape.get("class", "").split()]


@functools.cache
def experts():
    return Measured(MODELS / "tiny-moe", "--baseline", str(MODELS / "tiny-dense"), "--batch-sizes=1,4")


@functools.cache
def depth():
    return Measured(MODELS / "tiny-mod", "--batch-sizes=1")


class NumbersTest(unittest.TestCase):

    def test_every_contender_has_a_row_for_every_batch(self):
        self.assertEqual([(row["subject"], row["batch"]) for row in experts().rows],
                         [("tiny-moe", 1), ("tiny-dense", 1), ("tiny-moe", 4), ("tiny-dense", 4)])
        self.assertEqual([row["subject"] for row in depth().rows], ["tiny-mod", "tiny-mod forced dense"])

    def test_everything_is_a_finite_number(self):
        for row in experts().rows + depth().rows:
            for name, value in row.items():
                if name == "subject":
                    continue
                self.assertIsInstance(value, (int, float), name)
                self.assertTrue(math.isfinite(value), name)
                if name not in ("least_expert_load", "most_expert_load", "skipped_ratio_all_layers"):
                    self.assertGreater(value, 0, name)
            self.assertEqual((row["prompt_tokens"], row["output_tokens"]), (16, 4))

    def test_shares_are_of_the_machine_measured_beside(self):
        for row in experts().rows + depth().rows:
            memory, peak = row["memory_bytes_per_second"], row["operations_per_second"]
            decode = row["flops_per_token"] * row["decode_tokens_per_second"]
            prefill = row["prefill_flops_per_token"] * row["prefill_tokens_per_second"]
            for name, expected in (("decode_share_of_memory_rate", row["weight_bytes_per_second"] / memory),
                                   ("decode_share_of_peak", decode / peak),
                                   ("prefill_share_of_peak", prefill / peak)):
                self.assertAlmostEqual(row[name] / expected, 1, 6, name)
            self.assert_every_step_is_full(row)

    def assert_every_step_is_full(self, row):
        steps_per_second = row["weight_bytes_per_second"] / row["weight_bytes_per_step"]
        self.assertAlmostEqual(steps_per_second * row["batch"] / row["decode_tokens_per_second"], 1, 6)

    def test_decode_is_of_the_steps_that_all_sequences_take(self):
        flags = ("--batch-sizes=8", "--max-batch-tokens=24")  # a prompt a step, or two
        (row,) = Measured(MODELS / "tiny-dense", *flags, "--output-tokens=32").rows
        self.assert_every_step_is_full(row)
        done = bench(f"--model={MODELS / 'tiny-dense'}", *SHORT, *flags)
        self.assertEqual(done.returncode, 64, done.stderr)
        self.assertIn("batch 8: a sequence ended before the last one began", done.stderr)

    def test_peak_memory_is_that_of_the_models_not_of_the_measuring(self):
        (text,) = re.findall(r"most memory while loading: (\d+) MB", experts().text)
        for row in experts().rows:
            self.assertEqual(round(row["load_peak_resident_bytes"] / 1e6), int(text))
        size = sum(path.stat().st_size for model in ("tiny-moe", "tiny-dense")
                   for path in (MODELS / model).glob("*.safetensors"))
        self.assertGreater(int(text) * 1e6, size)
        if not sluice_process.SANITIZED:
            self.assertLess(int(text) * 1e6, size + 150e6)

    def test_load_times_are_those_of_the_table(self):
        for subject in ("tiny-moe", "tiny-dense"):
            (text,) = re.findall(rf"^{subject} loaded in ([\d.]+) s", experts().text, re.M)
            self.assertAlmostEqual(experts().row(subject, 1)["load_seconds"], float(text), delta=0.0051)

    def test_experts_are_used_around_their_fair_share(self):
        config = json.loads((MODELS / "tiny-moe/config.json").read_text())
        largest = config["n_routed_experts"] / config["num_experts_per_tok"]  # every row goes there
        for batch in (1, 4):
            row = experts().row("tiny-moe", batch)
            least, most = row["least_expert_load"], row["most_expert_load"]
            self.assertGreaterEqual(least, 0)
            self.assertLess(least, 1)
            self.assertGreater(most, 1)
            self.assertLessEqual(most, largest)
            self.assertIn(f"tiny-moe: experts have {least:.2f} to {most:.2f} times their fair share", experts().text)
            dense = experts().row("tiny-dense", batch)
            self.assertEqual((dense["least_expert_load"], dense["most_expert_load"]), (0, 0))
        self.assertNotIn("tiny-dense: experts", experts().text)
        self.assertNotIn("experts have", depth().text)

    def test_skipped_layers_cost_less_than_the_same_weights_forced_dense(self):
        sparse, dense = depth().row("tiny-mod", 1), depth().row("tiny-mod forced dense", 1)
        self.assertEqual(dense["skipped_ratio_all_layers"], 0)
        self.assertGreater(sparse["skipped_ratio_all_layers"], 0)
        self.assertLessEqual(sparse["skipped_ratio_all_layers"], 0.5)  # 4 layers of 8 are routed
        for name in ("flops_per_token", "prefill_flops_per_token", "weight_bytes_per_step"):
            self.assertLess(sparse[name], dense[name], name)

    def test_the_ratios_of_the_table_are_those_of_the_rows(self):
        number = r"(\d+\.\d+)x"
        for measured, other in ((experts(), "tiny-dense"), (depth(), "tiny-mod forced dense")):
            lines = re.findall(rf"^  ([\w-]+) / {other}: decode {number} \(ideal by FLOPs {number}, by weight bytes "
                               rf"{number}\), prefill {number} \(ideal by FLOPs {number}\)$", measured.text, re.M)
            batches = sorted({row["batch"] for row in measured.rows})
            self.assertEqual(len(lines), len(batches))
            for batch, (subject, *ratios) in zip(batches, lines):
                ours, theirs = measured.row(subject, batch), measured.row(other, batch)
                expected = [ours["decode_tokens_per_second"] / theirs["decode_tokens_per_second"],
                            theirs["flops_per_token"] / ours["flops_per_token"],
                            theirs["weight_bytes_per_step"] / ours["weight_bytes_per_step"],
                            ours["prefill_tokens_per_second"] / theirs["prefill_tokens_per_second"],
                            theirs["prefill_flops_per_token"] / ours["prefill_flops_per_token"]]
                for text, value in zip(ratios, expected):
                    self.assertAlmostEqual(float(text), value, delta=0.0051)

    def test_the_same_model_in_other_weights_reads_fewer_bytes(self):
        measured = Measured(MODELS / "tiny-dense", "--weights=int8", "--baseline-weights=bf16", "--batch-sizes=1")
        eight, sixteen = measured.row("tiny-dense int8", 1), measured.row("tiny-dense bf16", 1)
        self.assertEqual(eight["flops_per_token"], sixteen["flops_per_token"])
        self.assertLess(eight["weight_bytes_per_step"], 0.7 * sixteen["weight_bytes_per_step"])
        self.assertGreater(eight["weight_bytes_per_step"], 0.4 * sixteen["weight_bytes_per_step"])


class PlotTest(unittest.TestCase):

    def test_bars_are_as_high_as_the_speeds_of_the_json(self):
        rows = experts().rows
        heights = [float(bar.get("height")) for bar in experts().shapes("rect", "bar")]
        speeds = [row[name] for name in ("prefill_tokens_per_second", "decode_tokens_per_second") for row in rows]
        self.assertEqual(len(heights), len(speeds))
        for panel in (slice(0, 4), slice(4, 8)):
            scale = max(heights[panel]) / max(speeds[panel])
            for height, speed in zip(heights[panel], speeds[panel]):
                self.assertAlmostEqual(height, speed * scale, delta=0.02)

    def test_it_says_what_the_table_says(self):
        texts = [text.text for text in experts().plot.iter(SVG + "text")]
        machine = re.search(r"^\d+ threads; measured just now: .*$", experts().text, re.M).group()
        self.assertIn(machine, experts().plot.find(SVG + "desc").text)
        self.assertEqual(experts().plot.find(SVG + "title").text, "tiny-moe against tiny-dense")
        for decode, flops, read, prefill, prefill_flops in re.findall(
                r"decode ([\d.]+)x .*FLOPs ([\d.]+)x, .*bytes ([\d.]+)x\), prefill ([\d.]+)x .*FLOPs ([\d.]+)x",
                experts().text):
            low, high = sorted((float(flops), float(read)))
            self.assertIn(f"{decode}× ({low:.2f}–{high:.2f})", texts)
            self.assertIn(f"{prefill}× ({prefill_flops})", texts)
        for least, most in re.findall(r"experts have ([\d.]+) to ([\d.]+) times", experts().text):
            self.assertIn(f"{least}–{most}×", texts)
        self.assertEqual(len(experts().shapes("rect", "balance")), 2)
        self.assertEqual(depth().shapes("rect", "balance"), [])

    def test_no_other_file_is_left(self):
        self.assertEqual(experts().files, ["bench.json", "bench.svg"])

    def test_a_model_called_anything(self):
        name = "a<b>&\"c' \x01"
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder, name)
            model.symlink_to((MODELS / "tiny-dense").resolve())
            measured = Measured(model, "--batch-sizes=1", "--threads=1")
        self.assertEqual(measured.plot.find(SVG + "title").text, "a<b>&\"c'  ")
        self.assertEqual(len(measured.shapes("rect", "bar")), 2)

    def test_a_path_that_cannot_be_written_is_refused_before_anything_is_loaded(self):
        with tempfile.TemporaryDirectory() as folder:
            for path in (f"{folder}/missing/a.svg", folder):
                done = bench("--model=/nonexistent", "--plot", path)
                self.assertEqual(done.returncode, 64, done.stderr)
                self.assertIn(f"sluice bench: --plot: {path}: ", done.stderr)
                self.assertEqual(done.stdout, "")

    def test_two_files_of_one_name_are_refused(self):
        done = bench("--model=/nonexistent", "--plot=a", "--json-file=a")
        self.assertEqual((done.returncode, done.stderr), (64, "sluice bench: --plot and --json-file name the same file\n"))


class BadFlagTest(unittest.TestCase):

    def test_wrong_flags_are_refused_by_name(self):
        model = f"--model={MODELS / 'tiny-dense'}"
        for flags, expected in (((), "--model is required"),
                                ((model, "--batch-sizes=1,0"), "--batch-sizes: expected numbers from 1"),
                                ((model, "--batch-sizes="), "--batch-sizes: expected numbers from 1"),
                                ((model, "--output-tokens=1"), "from 2"),
                                ((model, "--rounds=0"), "from 1"),
                                ((model, "--prompt-tokens=100000"), "exceed the context of 1024 tokens"),
                                ((model, "--baseline-weights=auto"), "nothing to compare with"),
                                ((model, "--plots=a.svg"), "did you mean --plot?"),
                                ((model, "--rate=1"), "unknown flag --rate")):
            done = bench(*flags)
            self.assertEqual(done.returncode, 64, f"{flags}: {done.stderr}")
            self.assertIn(expected, done.stderr)

    def test_a_baseline_that_is_not_there(self):
        done = bench(f"--model={MODELS / 'tiny-dense'}", "--baseline=/nonexistent")
        self.assertEqual(done.returncode, 65, done.stderr)


class ProfileTest(unittest.TestCase):
    FLAGS = ("--batch=4", "--context=32", "--prompt-tokens=32", "--rounds=3")

    def profile(self, model, *flags):
        done = bench("profile", "--model", str(model), *self.FLAGS, *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_the_rows_add_up_to_the_step_and_every_op_has_its_bytes(self):
        for model in ("tiny-moe", "tiny-mod"):
            accounts = json.loads(self.profile(MODELS / model, "--json"))["accounts"]
            self.assertEqual(len(accounts), 2)
            for account in accounts:
                with self.subTest(model=model, step=account["name"]):
                    parts = sum(op["seconds"] for op in account["ops"]) + account["sampling_seconds"]
                    rest = account["between_ops_seconds"] + account["engine_seconds"]
                    self.assertAlmostEqual((parts + rest) / account["seconds"], 1, places=6)
                    for op in account["ops"]:
                        self.assertGreater(op["bytes"], 0, op["op"])
                        moves = op["op"] in ("append_kv", "gather", "fill")
                        self.assertEqual(op["operations"] == 0, moves, op["op"])
                    self.assertGreater(account["sampling_bytes"], 0)

    def test_the_table_has_a_line_with_bytes_and_operations_for_every_op(self):
        table = self.profile(MODELS / "tiny-moe")
        for op in ("moe_ffn", "attention", "linear o_proj", "norm", "route", "sampling"):
            lines = re.findall(rf"^  {op}.*%.*$", table, re.MULTILINE)
            self.assertEqual(len(lines), 2, op)  # a decode step, a prefill chunk
            for line in lines:
                self.assertRegex(line, r"\d+\.\d% +\d+\.\d\d +\d+\.\d\d +\d+% +\d+\.\d +\d+\.\d +\d+%$")
        shares = [float(share) for share in re.findall(r"by op, with sampling: ([\d.]+) % of the step", table)]
        self.assertEqual(len(shares), 2)
        self.assertTrue(all(0 < share <= 100 for share in shares), shares)


if __name__ == "__main__":
    sluice_process.main()
