"""weitiao env: this machine and installation, for bug reports."""

from weitiao.commands.terminal import Json, print_json


def env(as_json: Json = False) -> None:
    """Describe this machine. Versions, CPU features, threads, GPU and caches, for bug reports."""
    from weitiao.system.environment import env as describe

    facts = describe()
    if as_json:
        print_json(facts)
    else:
        import yaml

        print(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True), end="")
