"""torch, transformers and peft, without what a command never uses of them: half of the seconds before its first step.

Their own imports load parts that serve other programs (CPU seconds on a slow core, of 15 in all):
- torch._dynamo and sympy, 3: decorators of what torch.compile would compile;
- torch.distributed.tensor, 2.5: tensors that are split over devices;
- bitsandbytes, 3.2: peft's own 4-bit layers. weitiao's are in kernels/nf4.py;
- scipy.optimize, 0.9: losses of object detection;
- the names that 1,600 files of transformers export, 1.5: import_structure.py.

A command's process is ours alone, so we may leave them out there. `import weitiao` in someone's own program leaves nothing out.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

from weitiao.catalogue import home
from weitiao.system.import_structure import remembered
from weitiao.system.stand_ins import PartsFinder, for_compiling, for_detection, for_sharding


def load_libraries(compiles: bool = False) -> None:
    """Import torch, transformers and peft, for a process that is ours alone. A second call does nothing.

    Args:
        compiles: torch.compile is used, and needs what is left out otherwise.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        return
    gc.disable()  # all that is made here stays
    with _light(compiles, distributed="WORLD_SIZE" in os.environ), remembered(home()):
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers.modeling_utils  # noqa: F401
        from peft.import_utils import is_bnb_available

        is_bnb_available()  # it remembers the answer
    gc.freeze()  # and need not be looked through again: a tenth of a short command's time
    gc.enable()


@contextlib.contextmanager
def _light(compiles: bool, distributed: bool) -> Iterator[None]:
    import torch.distributed

    for_good = ({} if compiles else for_compiling()) | ({} if distributed else for_sharding())
    only_now: dict[str, Any] = {"bitsandbytes": None, **for_detection()}  # None: as if it were not installed
    only_now = {name: module for name, module in only_now.items() if name not in sys.modules}
    sys.modules.update(for_good | only_now)
    if not any(isinstance(finder, PartsFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, PartsFinder())
    is_available = torch.distributed.is_available
    if not distributed:
        torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available
        for name, module in only_now.items():
            if sys.modules.get(name, ...) is module:
                del sys.modules[name]
