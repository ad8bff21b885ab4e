"""A plan as rows of text, for the command line and any other page."""

from typing import Any

from weitiao.planning.schema import MethodPlan, Plan

PARTS = {  # of a plan's memory: (English, Chinese)
    "process": ("process", "进程"),
    "weights": ("weights", "权重"),
    "masters": ("fp32 masters", "主权重"),
    "gradients": ("gradients", "梯度"),
    "optimizer": ("optimizer", "优化器"),
    "activations": ("activations", "激活"),
    "other": ("other", "其余"),
}
_AGAIN = {"no": "none", "selective": "of every second layer", "full": "of all layers"}
_FITS = {"yes": "yes", "tight": "yes, but it is tight", "no": "NO"}


def table_rows(planned: Plan) -> list[tuple[str, list[str]]]:
    """(name, one cell a method) pairs."""
    methods = planned["methods"]

    def row(name: str, cell: Any) -> tuple[str, list[str]]:
        return name, [cell(m) for m in methods]

    return [
        row("Parameters", lambda m: f"{m['num_params']:,}"),
        row("Trained", lambda m: f"{m['num_trainable_params']:,} ({m['trainable_percent']:.2f} %)"),
        row("Steps", lambda m: f"{m['steps']:,}"),
        row("Largest batch", lambda m: f"{m['largest_batch']['rows']} x {m['largest_batch']['tokens']} tokens"),
        row("Activations again", lambda m: _AGAIN[m.get("gradient_checkpointing") or "no"]),
        row("Peak memory", lambda m: size(m["memory_bytes"]["total"])),
        *(row(f"  {text}", lambda m, part=part: size(m["memory_bytes"][part])) for part, (text, _) in PARTS.items()),
        row("Fits", lambda m: f"{_FITS[m['fits']]} ({size(m['room_bytes'])} there)"),
        row("Training", lambda m: duration(m["seconds"]["training"])),
        row("With evaluation", lambda m: duration(m["seconds"]["total"])),
        row("Artifact", lambda m: size(m["artifact_bytes"])),
        row("A checkpoint", lambda m: size(m["checkpoint_bytes"])),
    ]


def caption(planned: Plan) -> str:
    """What the plan is based on, and the notes of its methods."""
    device, rows = planned["device"], planned["rows"]
    steps = " corrected by real steps" if planned["calibrated"] else ""
    lines = [
        f"{device['name']}, {device['dtype']}: {device['claim']}{steps}.",
        f"{rows['train']:,} training and {rows['eval']:,} evaluation rows, the longest of {rows['longest_tokens']:,} tokens.",
    ]
    notes = {note: None for method in planned["methods"] for note in method["notes"]}
    lines += [f"Note: {note}." for note in notes]
    names = {method["name"] for method in planned["methods"]}
    lines += [_what_to_do(method, names) for method in planned["methods"] if method["fits"] == "no"]
    return "\n".join(lines)


def _what_to_do(method: MethodPlan, names: set[str]) -> str:
    """How a run that does not fit could, by what takes most of its memory; ``names``: of the methods that the table shows."""
    parts = method["memory_bytes"]
    trains = parts["masters"] + parts["gradients"] + parts["optimizer"]
    largest = max(trains, parts["weights"], parts["activations"], parts["other"])
    again = "" if method.get("gradient_checkpointing") == "full" else "train.gradient_checkpointing=full, "
    if largest == trains:
        tip = "train fewer parameters, as method.type=lora does, "
    elif largest == parts["weights"] and "qlora" not in names:
        tip = "hold the frozen weights in 4 bits (method.type=qlora), "
    elif largest == parts["activations"]:
        tip = f"{again}lower train.tokens_per_batch or data.max_length, "
    else:  # the weights, dense while they are loaded
        tip = "use a smaller model, "
    return f"{method['name']} does not fit: {tip}or plan for a larger device with --device."


def size(value: float) -> str:
    """Bytes in decimal units."""
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
