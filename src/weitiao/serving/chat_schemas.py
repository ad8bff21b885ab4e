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

    type: Literal["text"] = Field(description="Images and others are refused.")
    text: str = Field(description="As it stands; nothing is put between parts.")


class Message(Asking):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="Who speaks; developer is read as system."
    )
    content: str | list[TextPart] = Field(description="A text, or parts that are joined.")
    name: None = Field(None, description="Not read: it must be left out.")

    @property
    def text(self) -> str:
        """Its content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Asking):
    """What a stream says beside texts."""

    include_usage: bool = Field(False, description="A last chunk with the numbers of tokens.")


class ResponseFormat(Asking):
    """Only plain texts are written."""

    type: Literal["text"] = Field(description="JSON and others are refused.")


class Write(Asking):
    """What both requests may say. Options that the server cannot honour are refused by name."""

    model: str | None = Field(None, description="A name of /v1/models; may be left out where one model is served.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer.")
    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the likeliest token.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Tokens are drawn from the fewest likeliest ones whose probabilities reach it."
    )
    stop: Stop = Field(None, description="Texts that end the answer.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="Equal seeds give equal answers.")
    n: Literal[1] = Field(1, description="Answers a request.")
    stream: bool = Field(False, description="Pieces of the answer as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="With stream=true alone.")
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

    messages: Annotated[list[Message], Field(min_length=1)] = Field(
        description="The conversation so far, the oldest turn first."
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of max_tokens.")
    logprobs: bool = Field(False, description="Log-probabilities of the answer's tokens.")
    top_logprobs: int = Field(
        0, ge=0, le=20, description="How many likely tokens to name at each place; needs logprobs=true."
    )
    response_format: ResponseFormat | None = Field(None, description="A text is written with or without it.")


class Completion(Write):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)] = Field(
        description="The text that goes on; a list holds one."
    )
    logprobs: int | None = Field(
        None, ge=0, le=5, description="How many likely tokens to name at each place; null: no log-probabilities."
    )
    echo: Literal[False] = Field(False, description="Not honoured.")
    best_of: Literal[1] = Field(1, description="Not honoured.")


class PromptDetails(BaseModel):
    """Tokens of a prompt that an earlier answer had read already."""

    cached_tokens: int = Field(description="How many; they are not computed again.")


class WriteUsage(BaseModel):
    """Tokens that were read and written; the token that ends an answer counts."""

    prompt_tokens: int = Field(description="Read; of a conversation with the template's own.")
    completion_tokens: int = Field(description="Written.")
    total_tokens: int = Field(description="Both together.")
    prompt_tokens_details: PromptDetails = Field(description="What of the prompt was known.")


class LikelyToken(BaseModel):
    """A token that could have come."""

    token: str = Field(description="Its text.")
    logprob: float = Field(
        description="Natural logarithm of its probability by the model, whatever temperature and top_p are."
    )
    bytes: list[int] | None = Field(description="Of its text in UTF-8; null of a part of a character.")


class TokenLogprob(LikelyToken):
    """A token of the answer, its natural log-probability, and the likeliest ones at its place."""

    top_logprobs: list[LikelyToken] = Field(description="As many as the request's top_logprobs, the likeliest first.")


class ChatLogprobs(BaseModel):
    """Of each token of an answer."""

    content: list[TokenLogprob] = Field(description="One for each token, in order.")
    refusal: None = Field(None, description="Always null.")


class Reply(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"] = Field("assistant", description="Always the same.")
    content: str = Field(description="The text of the answer.")
    refusal: None = Field(None, description="Always null.")


class ChatChoice(BaseModel):
    """The answer."""

    index: int = Field(0, description="Always 0: there is one.")
    message: Reply = Field(description="What was written.")
    logprobs: ChatLogprobs | None = Field(None, description="Null unless the request asks for them.")
    finish_reason: Literal["stop", "length"] = Field(
        description="stop: it ended by itself or at a text of stop; length: it has all tokens that it may."
    )


class ChatCompleted(BaseModel):
    """The answer of /v1/chat/completions."""

    id: str = Field(description="Unique: chatcmpl- and 32 hex digits.")
    object: Literal["chat.completion"] = Field("chat.completion", description="Always the same.")
    created: int = Field(description="When it was answered, in seconds since 1970.")
    model: str = Field(description="Name of the model that answered.")
    choices: list[ChatChoice] = Field(description="A single one.")
    usage: WriteUsage = Field(description="Numbers of tokens.")


class CompletionLogprobs(BaseModel):
    """Of each token of an answer, in parallel lists."""

    tokens: list[str] = Field(description="[T]: text of each token.")
    token_logprobs: list[float] = Field(description="[T]: natural logarithm of its probability.")
    top_logprobs: list[dict[str, float]] = Field(
        description="[T]: text of a likely token at its place -> natural logarithm of the probability."
    )
    text_offset: list[int] = Field(description="[T]: character at which it begins; those of the prompt count.")


class CompletionChoice(BaseModel):
    """The text."""

    index: int = Field(0, description="Always 0: there is one.")
    text: str = Field(description="What follows the prompt, without it.")
    logprobs: CompletionLogprobs | None = Field(None, description="Null unless the request asks for them.")
    finish_reason: Literal["stop", "length"] = Field(
        description="stop: it ended by itself or at a text of stop; length: it has all tokens that it may."
    )


class Completed(BaseModel):
    """The answer of /v1/completions."""

    id: str = Field(description="Unique: cmpl- and 32 hex digits.")
    object: Literal["text_completion"] = Field("text_completion", description="Always the same.")
    created: int = Field(description="When it was answered, in seconds since 1970.")
    model: str = Field(description="Name of the model that answered.")
    choices: list[CompletionChoice] = Field(description="A single one.")
    usage: WriteUsage = Field(description="Numbers of tokens.")
