"""The process that a calibration runs in: python -m weitiao.planning.calibration_process, its configuration on stdin."""

import json
import sys

from weitiao.system.imports import load_libraries


def main() -> None:
    """Libraries come first, as light as a run's. All of them would weigh 120 MB more, and the plan with them."""
    given = sys.stdin.read()
    load_libraries(compiles=json.loads(given)["train"]["compile"])
    from weitiao.config.run import RunConfig
    from weitiao.planning.calibrate import measure
    from weitiao.system.allocator import large_blocks_mapped

    config = RunConfig.model_validate_json(given)
    with large_blocks_mapped(config.train.checkpointed_layers is not None):
        print(json.dumps(measure(config)))


if __name__ == "__main__":
    main()
