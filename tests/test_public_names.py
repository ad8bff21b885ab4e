"""The public names, and that each command is a function of the same name."""

import weitiao
import weitiao.data
import weitiao.methods.family
import weitiao.web
from weitiao.commands.app import app

PUBLIC = {
    "CompareConfig",
    "RunConfig",
    "RunDir",
    "WeitiaoError",
    "advise",
    "compare",
    "convert",
    "env",
    "eval",
    "export",
    "merge",
    "models",
    "plan",
    "predict",
    "serve",
    "train",
}


def test_public_names() -> None:
    assert set(weitiao.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(weitiao, name) is not None


def test_every_command_is_a_function() -> None:
    commands = {c.name or c.callback.__name__ for c in app.registered_commands} | {
        g.name for g in app.registered_groups
    }
    assert commands == {
        "adapters",
        "advise",
        "compare",
        "convert",
        "data",
        "env",
        "eval",
        "export",
        "merge",
        "methods",
        "models",
        "plan",
        "predict",
        "serve",
        "train",
        "web",
    }
    assert all(callable(getattr(weitiao, name)) for name in commands - {"adapters", "data", "methods", "web"})
    assert callable(weitiao.data.check)
    assert callable(weitiao.web.serve_pages)
    assert callable(weitiao.methods.family.methods)


def test_version_is_declared_once() -> None:
    from importlib.metadata import version

    assert version("weitiao") == weitiao.__version__
