"""Methods. A method only decides which parameters exist, which train, and how they are saved and loaded."""

from types import ModuleType

from weitiao.methods import full, lora

METHODS: dict[str, ModuleType] = {"full": full, "lora": lora}
DEFAULT_LEARNING_RATE = {"full": full.LEARNING_RATE, "lora": lora.LEARNING_RATE}
