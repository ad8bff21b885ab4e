"""Where the time of a training step goes: torch's profiler over steps of one run. Prints one JSON line."""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

GROUPS = {
    "products with the weights": ("aten::addmm", "aten::mm", "aten::addmm_", "onednn::qlinear_pointwise"),
    "attention": ("aten::bmm", "aten::_softmax", "aten::_softmax_backward_data", "aten::_scaled_dot_product"),
    "layer norm": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "activation": ("aten::gelu", "aten::gelu_backward", "aten::silu", "aten::silu_backward"),
    "copies": ("aten::copy_", "aten::clone", "aten::contiguous", "aten::_to_copy"),
    "additions": ("aten::add", "aten::add_", "aten::sum"),
    "optimizer": ("aten::_fused_adamw_", "aten::_foreach_norm"),
}


def group_of(name: str) -> str:
    return next((group for group, names in GROUPS.items() if name.startswith(names)), "other")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="+", help="settings of weitiao train, key=value")
    parser.add_argument("--from-step", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    import transformers
    from torch.profiler import ProfilerActivity, profile

    import weitiao
    from weitiao.config.loading import load
    from weitiao.config.run import RunConfig

    transformers.logging.disable_progress_bar()
    profiler = profile(activities=[ProfilerActivity.CPU])
    last = options.from_step + options.steps

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["step"] == options.from_step:
            profiler.start()
        elif event["event"] == "log" and event["step"] == last:
            profiler.stop()

    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"train.max_steps={last}", "train.logging_steps=1", "train.eval_strategy=no"]
        config = load(RunConfig, None, [*options.words, *fixed, f"output.dir={Path(folder) / 'run'}"])
        weitiao.train(config, listener=listen)
    rows = [(e.key, e.self_cpu_time_total / 1e3 / options.steps, e.count) for e in profiler.key_averages()]
    rows.sort(key=lambda row: -row[1])
    total = sum(row[1] for row in rows)
    groups: dict[str, float] = {}
    for name, ms, _ in rows:
        groups[group_of(name)] = groups.get(group_of(name), 0.0) + ms
    operations = [{"name": n, "ms": ms, "calls": c / options.steps} for n, ms, c in rows[:25]]
    print(json.dumps({"step_ms": total, "groups_ms": groups, "operations": operations}))


if __name__ == "__main__":
    main()
