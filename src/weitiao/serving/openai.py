"""/v1/chat/completions and /v1/completions, whole and as a stream of server-sent events."""

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from weitiao.data.conversations import Conversation
from weitiao.errors import DataError, WeitiaoError
from weitiao.inference.said import HALF
from weitiao.serving import chat_schemas as schemas
from weitiao.serving.guard import STOPPING, problem
from weitiao.serving.served import Speaker
from weitiao.serving.state import FAILED, FULL, Refused, Server, is_unicode, listed, started
from weitiao.serving.worker import Full, Stopping

if TYPE_CHECKING:
    from weitiao.inference.sampling import Asked, Token
    from weitiao.serving.writer import Answer, Piece

log = logging.getLogger("weitiao")


@dataclass(frozen=True)
class Form:
    """How the two paths differ in what they answer.

    Args:
        delta: what a stream's chunk says of a piece of text.
        logprobs: of tokens whose text begins at a character.
    """

    prefix: str
    chunk: str
    delta: Callable[[str], dict[str, Any]]
    logprobs: "Callable[[Any, Sequence[Token], int], dict[str, Any]]"


def add_writing(app: FastAPI, server: Server, errors: dict[int | str, dict[str, Any]]) -> None:
    """Put the two paths into the application."""
    stream = {"text/event-stream": {"schema": {"description": "Chunks of stream=true."}}}
    answers: dict[int | str, dict[str, Any]] = {**errors, 200: {"content": stream}}

    @app.post("/v1/chat/completions", responses=answers, response_model=schemas.ChatCompleted)
    async def chat(asked: schemas.ChatCompletion, request: Request) -> Any:
        """The assistant's next turn of a conversation."""
        speaker = await _speaker(server, asked)
        ids = await asyncio.to_thread(_conversation, speaker, asked.messages)
        most = asked.max_completion_tokens or asked.max_tokens
        named = asked.top_logprobs if asked.logprobs else None
        if asked.top_logprobs and not asked.logprobs:
            raise Refused(400, "top_logprobs without logprobs. Set logprobs=true.", "top_logprobs")
        answer, events = _begun(server, speaker, ids, _asked(asked, server, speaker, ids, most=most, logprobs=named))
        if asked.stream:
            return _streamed(_CHAT, asked, answer, events)
        text, tokens, finish = await _whole(request, answer, events)
        logprobs = None if named is None else schemas.ChatLogprobs(**_chat_logprobs(speaker.tokenizer, tokens, 0))
        choice = schemas.ChatChoice(message=schemas.Reply(content=text), logprobs=logprobs, finish_reason=finish)
        return schemas.ChatCompleted(
            id=_id(_CHAT), created=int(time.time()), model=speaker.name, choices=[choice], usage=_usage(answer)
        )

    @app.post("/v1/completions", responses=answers, response_model=schemas.Completed)
    async def complete(asked: schemas.Completion, request: Request) -> Any:
        """How a text goes on."""
        speaker = await _speaker(server, asked)
        prompt = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[0]
        ids = await asyncio.to_thread(_prompt, speaker, prompt)
        answer, events = _begun(
            server,
            speaker,
            ids,
            _asked(asked, server, speaker, ids, most=asked.max_tokens or 16, logprobs=asked.logprobs),
        )
        if asked.stream:
            return _streamed(_TEXT, asked, answer, events, begin=len(prompt))
        text, tokens, finish = await _whole(request, answer, events)
        logprobs = (
            None
            if asked.logprobs is None
            else schemas.CompletionLogprobs(**_text_logprobs(speaker.tokenizer, tokens, len(prompt)))
        )
        choice = schemas.CompletionChoice(text=text, logprobs=logprobs, finish_reason=finish)
        return schemas.Completed(
            id=_id(_TEXT), created=int(time.time()), model=speaker.name, choices=[choice], usage=_usage(answer)
        )


async def _speaker(server: Server, asked: schemas.Write) -> Speaker:
    one = listed(server, asked.model)
    if not one.writes:
        raise Refused(
            400,
            f"{one.name} is a model of task={one.task}, which labels texts. Expected one that writes them.",
            "model",
        )
    _, writer = await asyncio.to_thread(started, server)
    if writer.is_full:  # before any work is done for it
        raise Refused(429, FULL)
    try:
        return await asyncio.to_thread(server.registry.open_writer, one.name)
    except KeyError:  # it was removed meanwhile
        raise Refused(404, f"The model '{one.name}' does not exist any more.", "model") from None


def _conversation(speaker: Speaker, messages: Sequence[schemas.Message]) -> list[int]:
    """The prompt's tokens. Raises Refused for turns that the model's template cannot show."""
    if speaker.chat is None:
        raise Refused(400, f"{speaker.name} has no chat template. Use /v1/completions.", "model")
    turns = [{"role": "system" if one.role == "developer" else one.role, "content": one.text} for one in messages]
    if not all(is_unicode(turn["content"]) for turn in turns):
        raise Refused(422, "A message has characters that are no UTF-8. Expected texts.", "messages")
    try:
        speaker.chat.refuse_unshown(Conversation(turns))
        return speaker.chat.question(turns)
    except DataError as error:
        raise Refused(400, f"messages: {str(error).partition(chr(10))[0]}", "messages") from None


def _prompt(speaker: Speaker, prompt: str) -> list[int]:
    if not is_unicode(prompt):
        raise Refused(422, "prompt has characters that are no UTF-8. Expected a text.", "prompt")
    ids: list[int] = speaker.tokenizer(prompt)["input_ids"]
    if not ids:
        raise Refused(422, "prompt has no token. Expected a text.", "prompt")
    return ids


def _asked(
    asked: schemas.Write,
    server: Server,
    speaker: Speaker,
    ids: Sequence[int],
    *,
    most: int | None,
    logprobs: int | None,
) -> "Asked":
    """What is asked of the answer. Raises Refused where prompt and answer are longer than the model reads."""
    from weitiao.inference.sampling import Asked

    if asked.stream_options is not None and not asked.stream:
        raise Refused(400, "stream_options without stream. Set stream=true.", "stream_options")
    room = speaker.context - len(ids)
    if room < (most or 1):
        raise Refused(
            400,
            f"{speaker.name} reads {speaker.context:,} tokens. Found {len(ids):,} of the prompt and {most or 1:,} of the answer. "
            "Send a shorter prompt, or ask for less.",
            "max_tokens" if room > 0 else None,
        )
    return Asked(
        max_new_tokens=most or min(room, server.limits.new_tokens), temperature=asked.temperature, top_p=asked.top_p,
        stop=asked.stops, seed=asked.seed, logprobs=logprobs,
    )  # fmt: skip


def _begun(
    server: Server, speaker: Speaker, ids: Sequence[int], asked: "Asked"
) -> "tuple[Answer, AsyncIterator[Piece]]":
    """An answer that is being written, and its pieces as they come."""
    from weitiao.serving.writer import Answer

    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[Piece] = asyncio.Queue()

    def hear(piece: "Piece") -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    async def events() -> "AsyncIterator[Piece]":
        while True:
            piece = await pieces.get()
            if isinstance(piece.error, Stopping):
                raise Refused(503, STOPPING)
            if piece.error is not None:
                raise piece.error
            yield piece
            if piece.finish is not None:
                return

    answer = Answer(speaker, ids, asked, hear)
    try:
        server.writer.submit(answer)
    except Full:
        raise Refused(429, FULL) from None
    except Stopping:
        raise Refused(503, STOPPING) from None
    return answer, events()


async def _whole(request: Request, answer: "Answer", events: "AsyncIterator[Piece]") -> "tuple[str, list[Token], Any]":
    """Text, tokens and the reason of the end; the work ends where the client goes."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        from weitiao.serving.writer import Piece

        answer.hear(Piece(error=Refused(499, "The client has gone.")))

    watcher = asyncio.create_task(watch())
    text, tokens, finish = "", [], None
    try:
        async for piece in events:
            text += piece.text
            tokens += [piece.token] if piece.token else []
            finish = piece.finish
    finally:
        watcher.cancel()
        answer.cancelled = True
    return text, tokens, finish


class _Stream(StreamingResponse):
    """A stream whose answer ends with it, even where the client has gone before the first line."""

    answer: "Answer"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answer.cancelled = True


def _streamed(
    form: Form, asked: schemas.Write, answer: "Answer", events: "AsyncIterator[Piece]", begin: int = 0
) -> StreamingResponse:
    named, created = _id(form), int(time.time())
    counts = asked.stream_options is not None and asked.stream_options.include_usage

    def line(choices: list[dict[str, Any]], **more: Any) -> str:
        usage = {"usage": None} if counts else {}
        body = {"id": named, "object": form.chunk, "created": created, "model": answer.speaker.name, "choices": choices}
        return f"data: {json.dumps(body | usage | more, ensure_ascii=False)}\n\n"

    def choice(text: str, token: "Token | None", finish: str | None, at: int) -> list[dict[str, Any]]:
        logprobs = None
        if token is not None and answer.asked.logprobs is not None:
            logprobs = form.logprobs(answer.speaker.tokenizer, [token], at)
        return [{"index": 0, **form.delta(text), "logprobs": logprobs, "finish_reason": finish}]

    async def lines() -> AsyncIterator[str]:
        at = begin
        try:
            if form is _CHAT:
                yield line(
                    [
                        {
                            "index": 0,
                            "delta": {"role": "assistant", "content": ""},
                            "logprobs": None,
                            "finish_reason": None,
                        }
                    ]
                )
            async for piece in events:
                if piece.text or piece.finish or answer.asked.logprobs is not None:
                    yield line(choice(piece.text, piece.token, piece.finish, at))
                if piece.token is not None and answer.asked.logprobs is not None:
                    at += len(answer.speaker.tokenizer.decode([piece.token.id]))
            if counts:
                yield line([], usage=_usage(answer).model_dump())
            yield "data: [DONE]\n\n"
        except (Refused, WeitiaoError) as error:
            status = error.status if isinstance(error, Refused) else 424
            yield f"data: {json.dumps(problem('', status, str(error)), ensure_ascii=False)}\n\n"
        except Exception:
            log.exception("a stream has failed")
            yield f"data: {json.dumps(problem('', 500, FAILED))}\n\n"

    response = _Stream(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    response.answer = answer
    return response


def _usage(answer: "Answer") -> schemas.WriteUsage:
    prompt, written = len(answer.ids), len(answer.tokens)
    return schemas.WriteUsage(
        prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written,
        prompt_tokens_details=schemas.PromptDetails(cached_tokens=answer.known),
    )  # fmt: skip


def _id(form: Form) -> str:
    return f"{form.prefix}-{uuid.uuid4().hex}"


def _worded(tokenizer: Any, token: int, logprob: float) -> dict[str, Any]:
    text = str(tokenizer.decode([token]))
    # a part of a character has bytes that its text does not show
    return {"token": text, "logprob": logprob, "bytes": None if HALF in text else list(text.encode())}


def _chat_logprobs(tokenizer: Any, tokens: "Sequence[Token]", _: int) -> dict[str, Any]:
    return {
        "content": [
            {
                **_worded(tokenizer, one.id, one.logprob or 0.0),
                "top_logprobs": [_worded(tokenizer, token, value) for token, value in one.likely],
            }
            for one in tokens
        ],
        "refusal": None,
    }


def _text_logprobs(tokenizer: Any, tokens: "Sequence[Token]", at: int) -> dict[str, Any]:
    words = [str(tokenizer.decode([one.id])) for one in tokens]
    starts = [at + sum(map(len, words[:i])) for i in range(len(words))]
    return {
        "tokens": words,
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": [{str(tokenizer.decode([token])): value for token, value in one.likely} for one in tokens],
        "text_offset": starts,
    }


_CHAT = Form("chatcmpl", "chat.completion.chunk", lambda text: {"delta": {"content": text}}, _chat_logprobs)
_TEXT = Form("cmpl", "text_completion", lambda text: {"text": text}, _text_logprobs)
