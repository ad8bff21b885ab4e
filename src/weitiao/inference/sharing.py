"""Which runs may lie beside others on one body. Imports no torch: a list of runs is read by processes that load no model."""

from weitiao.config.run import RunConfig


def shares_base(config: RunConfig) -> bool:
    """Whether a run's adapter can lie beside others on one body, as far as its configuration says. Reads no weights."""
    method = config.method
    plain = method.type == "lora" and not getattr(method, "use_dora", False) and getattr(method, "bias", "") == "none"
    # these starts change the base
    start = getattr(method, "init_lora_weights", True)
    return plain and start not in ("pissa", "olora")
