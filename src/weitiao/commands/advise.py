"""weitiao advise: print what advice/advise.py answers."""

from typing import Annotated, Any, Literal

import typer

from weitiao.commands.terminal import Config, Json, Overrides, print_json, split_words

_SURE = {
    "clear": ("clear", "明确"),
    "likely": ("likely, not sure", "倾向于此，但不确定"),
    "toss-up": ("a toss-up: measure it", "难分高下：请实测"),
}


def advise(
    config: Config = None,
    overrides: Overrides = None,
    comparison: Annotated[str | None, typer.Option(help="A finished comparison of the same case.")] = None,
    goal: Annotated[Literal["balance", "quality", "iteration"], typer.Option(help="What matters most.")] = "balance",
    tasks: Annotated[int, typer.Option(min=1, help="Models to keep for this base.")] = 1,
    shared_base: Annotated[
        bool, typer.Option("--shared-base", help="Other work uses the same base, unchanged.")
    ] = False,
    hours: Annotated[float, typer.Option(min=0, help="Longest run you accept, in hours.")] = 8.0,
    device: Annotated[str | None, typer.Option(help="Plan for this device, such as T4-16GB.")] = None,
    probe: Annotated[bool, typer.Option(help="Probe the frozen model on up to 1,000 training rows.")] = True,
    explain: Annotated[bool, typer.Option("--explain", help="Show every rule with its facts.")] = False,
    language: Annotated[Literal["en", "zh"], typer.Option(help="Language of the answer.")] = "en",
    as_json: Json = False,
) -> None:
    """Full or LoRA? Get advice. It comes with reasons, its confidence, what would change it, and the next command."""
    from weitiao.commands.progress import Progress
    from weitiao.config.loading import load_case
    from weitiao.system.imports import load_libraries

    source, words = split_words(config, overrides)
    if config is not None and comparison is None and (config / "comparison.json").is_file():
        comparison = str(config)
    case = load_case(source, words)
    with Progress() as progress:
        progress.say("loading torch and transformers")
        load_libraries()
        from weitiao.advice.advise import advise as ask

        progress.say("planning and probing")
        found = ask(
            case, comparison=comparison, goal=goal, tasks=tasks, shared_base=shared_base, hours=hours, device=device,
            probe=probe,
        )  # fmt: skip
    if as_json:
        print_json(found)
        return
    print("\n".join(lines(found, explain, language)))


def lines(found: dict[str, Any], explain: bool, language: str) -> list[str]:
    """The answer as text."""
    chinese = language == "zh"
    tongue = "chinese" if chinese else "english"

    def say(english: str, text: str) -> str:
        return text if chinese else english

    name = {"full": say("full fine-tuning", "全量微调"), "lora": "LoRA", None: say("neither fits", "两者都放不下")}
    settings = ", ".join(f"{key}={value}" for key, value in found["settings"].items() if key != "type")
    said = [
        f"{say('Advice', '建议')}: {name[found['method']]}{f' ({settings})' if settings else ''}",
        f"{say('How sure', '把握')}: {_SURE[found['sure']][chinese]} "
        f"(full {found['points']['full']} : {found['points']['lora']} LoRA)",
        "",
        say("Why:", "理由："),
    ]
    for reason in found["reasons"]:
        side = {"full": say("for full", "支持全量"), "lora": say("for LoRA", "支持 LoRA")}[reason["speaks_for"]]
        said.append(f"  [{side} +{reason['weight']}] {reason[tongue]}")
    said += ["", say("What would flip it:", "什么会改变结论：")]
    for flip in found["flips"]:
        said.append(f"  {flip[tongue]} -> {name[flip['method']]}")
    if not found["flips"]:
        said.append(say("  no single change", "  没有任何单一变化能改变它"))
    if explain:
        said += ["", say("Every rule:", "全部规则：")]
        for rule in found["rules"]:
            state = {
                True: say("holds", "成立"), False: say("does not hold", "不成立"), None: say("not known", "未知"),
            }[rule["holds"]]  # fmt: skip
            facts = ", ".join(f"{key}={_short(value)}" for key, value in rule["facts"].items())
            said.append(f"  {rule['condition'][tongue]} ({rule['speaks_for']} +{rule['weight']}): {state}; {facts}")
            said.append(f"    {rule['source']}")
    return [*said, "", f"{say('Next', '下一步')}: {found['next']}"]


def _short(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
