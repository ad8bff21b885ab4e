"""The memory of a process that has imported torch, transformers and peft and holds no model. Prints one JSON line."""

import json

import peft  # noqa: F401
import torch
import transformers  # noqa: F401

from weitiao.measure.meters import peak_memory_bytes

torch.zeros(8, 8) @ torch.zeros(8, 8)  # the product's own libraries are loaded at the first one
print(json.dumps({"peak_memory_bytes": peak_memory_bytes()}))
