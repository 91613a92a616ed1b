"""The measured part of a model card: what report.py found, and what the server writes after five prompts."""

from measure import PROMPTS, SEED


def measured(row: dict, tokens: int, length: int) -> str:
    scores = row["scores"]
    lines = ["## As served", "",
             f"`make models-report`: {tokens:,} validation tokens in windows of {length} through `/v1/completions`, weights in bf16.", "",
             "| routing | nats per token | bits per byte | MFLOP per token |", "|---|---|---|---|"]
    for name, found in {"as it generates": scores, **row["other_rules"]}.items():
        lines.append(f"| {name} | {found.loss:.4f} | {row['bits'] * found.loss / scores.loss:.4f} | {found.flops / 1e6:.2f} |")
    if scores.executed:
        lines += ["", "Executed share of the rows, by routed layer or repeat: "
                  + ", ".join(f"{layer}: {share:.1%}" for layer, share in scores.executed.items()) + "."]
    if scores.least_load is not None:
        lines += ["", f"The least used expert has {scores.least_load:.2f} of its fair share of the rows."]
    lines += ["", "## Samples", "", f"{row['sample_tokens']} tokens through `/v1/completions`, sampled as its `generation_config.json` says, seed {SEED}."]
    for prompt, text in zip(PROMPTS, row["samples"]):
        lines += ["", f"After `{prompt}`:", "", "```text", prompt + text.rstrip(), "```"]
    return "\n".join(lines)
