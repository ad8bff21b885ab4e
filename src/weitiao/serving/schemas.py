"""Requests and answers of the HTTP interface, in the shapes that clients of other servers know."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]


class Request(BaseModel):
    """What every request may say. Unknown keys are refused, so that no option is ignored in silence."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="A name of /v1/models; may be left out where one model is served.")
    truncate: bool = Field(False, description="Cut texts that are too long for the model; without it they are refused.")


class Classify(Request):
    """POST /classify, as vLLM has it."""

    input: Text | Annotated[list[Text], Field(min_length=1)] = Field(description="A text or several.")


class Predict(Request):
    """POST /predict, as text-embeddings-inference has it: one text, several, or pairs as lists of two."""

    inputs: Text | Annotated[list[Text | tuple[Text, Text]], Field(min_length=1)] = Field(
        description="A text, several, or pairs: [[first, second]]."
    )
    raw_scores: bool = Field(False, description="Logits instead of probabilities.")


class Tokens(Request):
    """POST /tokens: entities, in the shape of transformers' pipelines."""

    inputs: Text | Annotated[list[Text], Field(min_length=1)] = Field(description="A text or several.")


class Usage(BaseModel):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class Classified(BaseModel):
    """One text's label."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Classification(BaseModel):
    """The answer of /classify."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Classified]
    usage: Usage


class Score(BaseModel):
    """A label and its probability (or logit); of a regression the label is "number"."""

    label: str
    score: float


class Entity(BaseModel):
    """A named entity: characters ``start`` up to ``end`` of the text."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


class Model(BaseModel):
    """One model of /v1/models; ``parent`` is its base."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["weitiao"] = "weitiao"
    root: str
    parent: str | None
    task: str
    method: str
    labels: list[str]


class Models(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """The answer of /health and /ready."""

    status: Literal["ok", "stopping"]


class Problem(BaseModel):
    """What went wrong, as OpenAI's interface says it."""

    message: str
    type: str
    param: str | None = None
    code: int


class Error(BaseModel):
    """An error of every path but /predict."""

    error: Problem


class PredictError(BaseModel):
    """An error of /predict."""

    error: str
    error_type: str
