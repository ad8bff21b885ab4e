"""A finished run's model, loaded once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from safetensors import SafetensorError

from weitiao.config.run import RunConfig
from weitiao.data.encode import Encoded
from weitiao.inference.context import room_of
from weitiao.inference.sharing import turn_of
from weitiao.pretrained.architecture import context_of
from weitiao.pretrained.locate import NO_FOREIGN_CODE, cannot_load, locate, refuse_pickled
from weitiao.pretrained.padding import pad_as
from weitiao.pretrained.resolve import resolve
from weitiao.rundir.folder import RunDir
from weitiao.tasks.task import Task

Scored = tuple[Any, Encoded]


class Reader:
    """How a run reads texts and words its answers, without its model.

    Args:
        tokenizer: one with the same files as the run's, so that it need not be read again.
    """

    def __init__(self, run: RunDir, tokenizer: Any = None) -> None:
        from transformers import AutoTokenizer

        from weitiao.tasks import TASKS

        self.config: RunConfig = run.config
        self.task: Task = TASKS[self.config.task]
        summary = run.summary
        self.names: list[str] = summary["label_names"]
        self.max_length: int = summary["max_length"]
        self.columns: list[str] = summary["text_columns"]
        refuse_pickled(run.model)
        self.tokenizer = tokenizer
        if tokenizer is None:
            self.tokenizer = AutoTokenizer.from_pretrained(run.model, **NO_FOREIGN_CODE)

    def encode(
        self,
        texts: Sequence[Any],
        pairs: Sequence[str] | None = None,
        labels: Sequence[str] = (),
        ids: Sequence[str] = (),
    ) -> Encoded:
        """Rows of token ids. Longer texts are cut, or become windows; ``cut`` of the rows says which texts lost tokens."""
        # the saved tokenizer has the chat template that the run was given
        over_length = "window" if self.makes_windows else "truncate"
        changed = {"max_length": self.max_length, "over_length": over_length, "chat_template": None}
        data = self.config.data.model_copy(update=changed)
        return self.task.encode(
            texts, labels, names=self.names, tokenizer=self.tokenizer, data=data, pairs=pairs, ids=ids
        )

    @property
    def makes_windows(self) -> bool:
        """Whether longer texts become several rows; else they are cut."""
        wanted = self.config.data.over_length
        by_default = self.task.OPTIONS.windows_by_default and wanted != "truncate"  # no word goes without an answer
        return wanted == "window" or by_default


class Predictor(Reader):
    """A run's model, loaded once the way plain transformers or peft load it; on a CPU in fp32.

    Args:
        device: "cpu" and the like; None for a GPU where there is one.
    """

    def __init__(self, run: RunDir, *, device: str | None = None) -> None:
        import torch

        from weitiao.methods import METHODS
        from weitiao.system import threads

        threads.settle()
        super().__init__(run)
        wanted = device or resolve("float32", "auto").device
        method = self.config.method.type
        base = locate(self.config.model) if self.config.method.saves_adapter else ""
        try:
            # beside a base in 16 bits peft would round the trained head
            dtype = torch.float32 if wanted == "cpu" else "auto"
            model: Any = METHODS[method].load(run.model, self.task.AUTO_MODEL, self.names, base, dtype)
        except (OSError, ValueError, SafetensorError) as error:
            raise cannot_load(f"{run.model} (base {base or 'inside'})", error) from None
        pad_as(model, self.tokenizer.pad_token_id)
        # a checkpoint in 16 bits is exact in fp32, and CPUs compute fp32 best
        self.model = model.float() if wanted == "cpu" else model.to(wanted)
        self.turn = turn_of(self.model)  # of threads that share it

    def scores(
        self,
        texts: Sequence[Any],
        pairs: Sequence[str] | None = None,
        labels: Sequence[str] = (),
        ids: Sequence[str] = (),
    ) -> Scored:
        """Logits [N, C] in the order of ``texts`` (of all their words), and the encoded rows.

        Longer texts are cut, or averaged by window.
        """
        from weitiao.training.evaluate import score

        encoded = self.encode(texts, pairs, labels, ids)
        budget = self.config.train.eval_tokens_per_batch
        pad_id = self.tokenizer.pad_token_id
        return score(self.model, self.task, encoded, pad_id=pad_id, tokens_per_batch=budget), encoded

    def answers(self, texts: Sequence[Any], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """{"label", "score", "probabilities"} a text; see :func:`predict` for the other tasks.

        With token_classification a text may be a list of words; others are cut into words, Chinese into characters. Where
        tokens of a text were not read, "tokens_cut" counts them.
        """
        if not texts:
            return []
        cuts: list[tuple[int, int]] = []

        def score(inputs: Sequence[Any], seconds: Sequence[str] | None) -> Any:
            scores, encoded = self.scores(inputs, seconds)
            cuts.extend(cuts_of(encoded))
            return scores

        answers = self.task.answer(texts, pairs, score, self.names)
        for i, count in cuts:
            answers[i]["tokens_cut"] = count
        return answers

    def replies(
        self, conversations: Sequence[Any], max_new_tokens: int | None, told: Callable[[str], None] | None = None
    ) -> Iterator[dict[str, Any]]:
        """{"answer"} a conversation, from a run of causal_lm. Raises DataError for one that is longer than the context."""
        from weitiao.data.chat import Chat
        from weitiao.tasks.generation import generate

        chat, context = Chat.of(self.tokenizer, None), context_of(self.model.config.get_text_config())
        context -= self.config.method.tokens_in_front
        for one in conversations:
            most = room_of(len(chat.question(one)), context, max_new_tokens, self.config.train.max_new_tokens)
            yield from ({"answer": answer} for answer in generate(self.model, chat, [one], most, told))


def cuts_of(encoded: Encoded) -> list[tuple[int, int]]:
    """(text, tokens that were not read) of the texts that are too long."""
    return [] if encoded.cut is None else [(i, count) for i, count in encoded.cut.tolist()]
