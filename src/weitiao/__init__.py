"""weitiao (微调): full fine-tuning and LoRA on the same work, measured.

Commands that are functions too: ``train``, ``eval``, ``predict``, ``merge``, ``export``, ``serve``, ``compare``, ``plan``, ``advise``, ``convert``, ``models``, ``env``.
Importing this package loads no torch; each function loads what it needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

from weitiao.version import __version__ as __version__

if TYPE_CHECKING:
    from weitiao.adapters.merge import merge
    from weitiao.advice.advise import advise
    from weitiao.catalogue import models
    from weitiao.comparison.runner import compare
    from weitiao.config.comparison import CompareConfig
    from weitiao.config.run import RunConfig
    from weitiao.converting.convert import convert
    from weitiao.errors import WeitiaoError
    from weitiao.exporting.export import export
    from weitiao.inference.predict import predict
    from weitiao.inference.score import eval
    from weitiao.planning.plan import plan
    from weitiao.run import train
    from weitiao.rundir.folder import RunDir
    from weitiao.serving.server import serve
    from weitiao.system.environment import env


_HOMES = {
    "CompareConfig": "weitiao.config.comparison",
    "RunConfig": "weitiao.config.run",
    "RunDir": "weitiao.rundir.folder",
    "WeitiaoError": "weitiao.errors",
    "advise": "weitiao.advice.advise",
    "compare": "weitiao.comparison.runner",
    "convert": "weitiao.converting.convert",
    "env": "weitiao.system.environment",
    "eval": "weitiao.inference.score",
    "export": "weitiao.exporting.export",
    "merge": "weitiao.adapters.merge",
    "models": "weitiao.catalogue",
    "plan": "weitiao.planning.plan",
    "predict": "weitiao.inference.predict",
    "serve": "weitiao.serving.server",
    "train": "weitiao.run",
}

__all__ = [
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
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'weitiao' has no attribute '{name}'")
