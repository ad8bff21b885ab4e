"""Requests and answers of OpenAI's interface for texts: /v1/chat/completions and /v1/completions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from weitiao.serving.schemas import Text

Stop = str | Annotated[list[str], Field(max_length=16)] | None


class Asking(BaseModel):
    """A part of a request. A key with null is one that is left out, as in OpenAI's interface; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class TextPart(Asking):
    """A part of a message; others than texts are refused."""

    type: Literal["text"]
    text: str


class Message(Asking):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: None = Field(None, description="Not read: it must be left out.")

    @property
    def text(self) -> str:
        """Its content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Asking):
    """What a stream says beside texts."""

    include_usage: bool = False


class ResponseFormat(Asking):
    """Only plain texts are written."""

    type: Literal["text"]


class Write(Asking):
    """What both requests may say. Options that the server cannot honour are refused by name."""

    model: str | None = Field(None, description="A name of /v1/models; may be left out where one model is served.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer.")
    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the likeliest token.")
    top_p: float = Field(1.0, gt=0, le=1)
    stop: Stop = Field(None, description="Texts that end the answer.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="Equal seeds give equal answers.")
    n: Literal[1] = Field(1, description="Answers a request.")
    stream: bool = Field(False, description="Pieces of the answer as server-sent events.")
    stream_options: StreamOptions | None = None
    presence_penalty: Literal[0] = Field(0, description="Not honoured: it must be 0.")
    frequency_penalty: Literal[0] = Field(0, description="Not honoured: it must be 0.")
    user: str | None = Field(None, description="Has no effect.")
    metadata: dict[str, str] | None = Field(None, description="Has no effect.")
    store: Literal[False] | None = Field(None, description="Nothing is stored.")

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        return [] if self.stop is None else [self.stop] if isinstance(self.stop, str) else self.stop


class ChatCompletion(Write):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of max_tokens.")
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    response_format: ResponseFormat | None = None


class Completion(Write):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Literal[False] = Field(False, description="Not honoured.")
    best_of: Literal[1] = Field(1, description="Not honoured.")


class PromptDetails(BaseModel):
    """Tokens of a prompt that an earlier answer had read already."""

    cached_tokens: int


class WriteUsage(BaseModel):
    """Tokens that were read and written; the token that ends an answer counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class LikelyToken(BaseModel):
    """A token that could have come."""

    token: str
    logprob: float
    bytes: list[int] | None  # None of a part of a character


class TokenLogprob(LikelyToken):
    """A token of the answer, its natural log-probability, and the likeliest ones at its place."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(BaseModel):
    """Of each token of an answer."""

    content: list[TokenLogprob]
    refusal: None = None


class Reply(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The answer."""

    index: int = 0
    message: Reply
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompleted(BaseModel):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: WriteUsage


class CompletionLogprobs(BaseModel):
    """Of each token of an answer, in parallel lists."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """The text."""

    index: int = 0
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class Completed(BaseModel):
    """The answer of /v1/completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: WriteUsage
