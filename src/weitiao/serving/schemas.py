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

    prompt_tokens: int = Field(description="Of all texts as the model reads them, special tokens included.")
    total_tokens: int = Field(description="The same: nothing is written.")


class Classified(BaseModel):
    """One text's label."""

    index: int = Field(description="Place of the text in the request, from 0.")
    label: str = Field(description="The likeliest one.")
    probs: list[float] = Field(
        description="[num_classes]: probability of each label, 0 to 1, in the order of the model's labels."
    )
    num_classes: int = Field(description="Labels that the model has.")


class Classification(BaseModel):
    """The answer of /classify."""

    id: str = Field(description="Unique: classify- and 32 hex digits.")
    object: Literal["list"] = Field("list", description="Always the same.")
    created: int = Field(description="When it was answered, in seconds since 1970.")
    model: str = Field(description="Name of the model that answered.")
    data: list[Classified] = Field(description="One for each text, in the order of the request.")
    usage: Usage = Field(description="Of the whole request.")


class Score(BaseModel):
    """A label and its probability (or logit); of a regression the label is "number"."""

    label: str = Field(description="As the model's labels have it.")
    score: float = Field(description="0 to 1; with raw_scores the logit, of a regression the number itself.")


class Entity(BaseModel):
    """A named entity: characters ``start`` up to ``end`` of the text."""

    entity_group: str = Field(description="Its type, such as PER.")
    score: float = Field(description="Mean probability of its words' tags, 0 to 1.")
    word: str = Field(description="Its text.")
    start: int = Field(description="Its first character, counted from 0.")
    end: int = Field(description="The character behind its last one.")


class Model(BaseModel):
    """One model of /v1/models; ``parent`` is its base."""

    id: str = Field(description="The name that requests use.")
    object: Literal["model"] = Field("model", description="Always the same.")
    created: int = Field(description="When the run finished, in seconds since 1970; of a base one of its runs.")
    owned_by: Literal["weitiao"] = Field("weitiao", description="Always the same.")
    root: str = Field(description="The run's folder; of a base its name in the runs' configurations.")
    parent: str | None = Field(
        description="The run's base as its configuration names it; null for full fine-tuning and a base."
    )
    task: str = Field(description="What the run learnt: classification, causal_lm, ...")
    method: str = Field(description="Type of the run's method; `base` of a base.")
    labels: list[str] = Field(description="In the order of /classify's probabilities; empty where the task has none.")


class Models(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"] = Field("list", description="Always the same.")
    data: list[Model] = Field(description="The runs, then the bases of those that write texts.")


class Health(BaseModel):
    """The answer of /health and /ready."""

    status: Literal["ok", "stopping"] = Field(description="`stopping`: no more requests are taken.")


class Problem(BaseModel):
    """What went wrong, as OpenAI's interface says it."""

    message: str = Field(description="What is wrong, and what was expected.")
    type: str = Field(description="The status in a word, such as NotFoundError.")
    param: str | None = Field(None, description="Key of the request that is wrong; null where it is none's.")
    code: int = Field(description="The HTTP status.")


class Error(BaseModel):
    """An error of every path but /predict."""

    error: Problem = Field(description="Its message, kind, key of the request and status.")


class PredictError(BaseModel):
    """An error of /predict."""

    error: str = Field(description="What is wrong, and what was expected.")
    error_type: str = Field(description="Validation, Unauthorized, Tokenizer, Backend, Overloaded or Unhealthy.")
