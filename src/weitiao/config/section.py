"""The base of every group of options."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of options; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
