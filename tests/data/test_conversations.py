"""Conversations as other tools write them: every turn, tool and mark reaches the template, or the row is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.test_chat import learnt

import weitiao
from conftest import write_jsonl
from weitiao.config.data import DataConfig
from weitiao.data.chat import Chat, question_of
from weitiao.data.conversations import Conversation, conversation_of
from weitiao.data.detect import detect
from weitiao.data.table import build
from weitiao.errors import DataError
from weitiao.pretrained.load import load_tokenizer

USER, ANSWER = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}
SYSTEM = {"role": "system", "content": "简短"}
EARLIER = [{"role": "user", "content": "早"}, {"role": "assistant", "content": "好"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": "string"}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}
CALLED = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "晴"}, ANSWER]

# name, a row as a tool writes it, the conversation that it is
FORMATS: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("alpaca", {"instruction": "问", "input": "", "output": "答"}, [USER, ANSWER]),
    ("belle", {"instruction": "问", "input": "", "output": "答", "id": 3}, [USER, ANSWER]),
    ("belle turns", {"id": "1", "conversations": [{"from": "human", "value": "问"}, {"from": "assistant", "value": "答"}]}, [USER, ANSWER]),
    ("firefly", {"kind": "NLI", "input": "问", "target": "答"}, [USER, ANSWER]),
    ("firefly turns", {"conversation_id": 1, "conversation": [{"human": "早", "assistant": "好"}, {"human": "问", "assistant": "答"}]}, [*EARLIER, USER, ANSWER]),
    ("coig", {"instruction": "简短", "conversations": [{"question": "问", "answer": "答"}]}, [SYSTEM, USER, ANSWER]),
    ("coig exam", {"textbox_q_instruction": "选", "textbox_q_context": "", "textbox_question": "问", "textbox_answer": "答"}, [{"role": "user", "content": "选\n问"}, ANSWER]),
    ("moss 003", {"meta_instruction": "简短", "chat": {
        "turn_2": {"Human": "<|Human|>: 问<eoh>\n", "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n", "MOSS": "<|MOSS|>: 答<eom>\n"},
        "turn_1": {"Human": "<|Human|>: 早<eoh>\n", "Commands": "<|Commands|>: None<eoc>\n", "MOSS": "<|MOSS|>: 好<eom>\n"},
    }}, [SYSTEM, *EARLIER, USER, ANSWER]),
    ("moss 002", {"prefix": "x", "plain_text": "[Human]: 早<eoh> [MOSS]: 好<eoa> [Human]: 问<eoh> [MOSS]: 答<eoa>", "num_turns": 2}, [*EARLIER, USER, ANSWER]),
    ("swift", {"system": "简短", "query": "问", "response": "答", "history": [["早", "好"]]}, [SYSTEM, *EARLIER, USER, ANSWER]),
    ("sharegpt with system", {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}], "system": "简短"}, [SYSTEM, USER, ANSWER]),
    ("sharegpt items", {"id": "a", "items": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}, [USER, ANSWER]),
    ("messages with system", {"messages": [USER, ANSWER], "system": "简短"}, [SYSTEM, USER, ANSWER]),
    ("developer", {"messages": [{"role": "developer", "content": "简短"}, USER, ANSWER]}, [SYSTEM, USER, ANSWER]),
    ("parts", {"messages": [{"role": "user", "content": [{"type": "text", "text": "问"}]}, {"role": "assistant", "content": [{"type": "text", "value": "答"}]}]}, [USER, ANSWER]),
    ("loss weights", {"messages": [{**USER, "loss_weight": 0.0}, {**ANSWER, "loss_weight": 1.0}]}, [{**USER, "learn": False}, ANSWER]),
    ("alpaca whose question is the input", {"instruction": None, "input": "问", "output": "答"}, [USER, ANSWER]),
    ("an empty question", {"prompt": "", "completion": "答"}, [{"role": "user", "content": ""}, ANSWER]),
    ("trl", {"prompt": [SYSTEM, USER], "completion": [ANSWER]}, [SYSTEM, USER, ANSWER]),
    ("openai calls", {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"北京\"}"}}]}, {"role": "tool", "content": "晴"}, ANSWER], "tools": [TOOL]}, CALLED),
    ("openai functions", {"messages": [USER, {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{\"city\": \"北京\"}"}}, {"role": "function", "content": "晴"}, ANSWER], "functions": [TOOL["function"]]}, CALLED),
    ("llama-factory calls", {"conversations": [{"from": "human", "value": "问"}, {"from": "function_call", "value": "{\"name\": \"weather\", \"arguments\": {\"city\": \"北京\"}}"}, {"from": "observation", "value": "晴"}, {"from": "gpt", "value": "答"}], "tools": json.dumps([TOOL["function"]])}, CALLED),
    ("reasoning", {"messages": [USER, {**ANSWER, "reasoning_content": "想"}]}, [USER, {**ANSWER, "reasoning_content": "想"}]),
    ("chatgpt export", {"title": "t", "current_node": "c", "mapping": {
        "a": {"message": None, "parent": None}, "b": {"message": {"author": {"role": "user"}, "content": {"parts": ["问"]}}, "parent": "a"},
        "c": {"message": {"author": {"role": "assistant"}, "content": {"parts": ["答"]}}, "parent": "b"},
        "other": {"message": {"author": {"role": "assistant"}, "content": {"parts": ["另"]}}, "parent": "b"},
    }}, [USER, ANSWER]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), [f[1:] for f in FORMATS], ids=[f[0] for f in FORMATS])
def test_each_format_is_read_at_once(row: dict[str, Any], expected: list[dict[str, Any]], tmp_path: Path) -> None:
    table = build(str(write_jsonl(tmp_path / "r.jsonl", [row])), DataConfig(train="-"))
    kept = Conversation.of(json.loads(table.column("messages")[0]))
    assert kept.messages == expected
    if "tools" in row or "functions" in row:
        assert kept.tools == [TOOL]


# what is refused, and by which words
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("images", {"messages": [USER, ANSWER], "images": ["a.png"]}, "images holds"),
    ("an image part", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER]}, "type 'image_url'"),
    ("a fraction", {"messages": [USER, {**ANSWER, "weight": 0.5}]}, "weight 0.5"),
    ("a user's turn to be learnt", {"messages": [{**USER, "train": True}, ANSWER]}, "turn of user has train True"),
    ("an unknown role", {"messages": [{"role": "narrator", "content": "x"}, ANSWER]}, "role 'narrator'"),
    ("nothing said", {"messages": [USER, {"role": "assistant", "content": None}]}, "without content and without tool_calls"),
    ("nothing asked", {"messages": [{"role": "user", "content": None}, ANSWER]}, "a turn of user without content"),
    ("no prompt", {"prompt": None, "completion": "a"}, "no text in prompt"),
    ("no instruction", {"instruction": None, "output": "a"}, "no text in instruction"),
    ("a pair without an answer", {"items": [{"question": "q", "answer": None}, {"question": "q", "answer": "a"}]}, "no text in answer"),
    ("a turn of moss without a question", {"chat": {"turn_1": {"Human": None, "MOSS": "a"}}}, "no text in Human"),
    ("a call that is no JSON", {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "weather(x)"}, {"from": "gpt", "value": "a"}]}, "Expected JSON"),
    ("a call without a name", {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}, {"from": "gpt", "value": "a"}]}, "name and arguments"),
    ("tools that are no JSON", {"messages": [USER, ANSWER], "tools": "weather"}, "tools is 'weather'"),
    ("two system texts", {"messages": [{"role": "system", "content": "b"}, USER, ANSWER], "system": "a"}, "two different system texts"),
    ("all answers marked", {"messages": [USER, {**ANSWER, "train": False}]}, "nothing to learn"),
    ("a turn of moss without its end", {"plain_text": "[Human]: q<eoh> [MOSS]: a<eoa> [Human]: q2"}, "text outside its turns"),
    ("thoughts that differ", {"messages": [USER, {**ANSWER, "reasoning": "x", "reasoning_content": "y"}]}, "different thoughts"),
    ("a call without arguments", {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "f", "inputs": {"x": 1}}]}]}, "has inputs and no arguments"),
    ("a part without text", {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "txt": "LOST"}]}]}, "Expected its text"),
    ("history that is a number", {"messages": [USER, ANSWER], "history": 5}, "history is 5"),
    ("an export with other nodes", {"current_node": "a", "mapping": {"a": 5}}, "of another kind"),
    ("a plugin of moss", {"chat": {"turn_1": {"Human": "q", "Commands": "<|Commands|>: Search(\"x\")<eoc>", "MOSS": "a"}}}, "Commands"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "said"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_cannot_be_read_is_refused_by_name(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "r.jsonl", [row])
    with pytest.raises(DataError, match=said):
        build(str(file), DataConfig(train="-"))


@pytest.fixture(scope="module")
def tokenizer(smollm: Path) -> Any:
    return load_tokenizer(str(smollm))


def test_marked_turns_are_read_and_not_learnt(tokenizer: Any) -> None:
    for mark in ({"weight": 0}, {"train": False}, {"loss": False}, {"loss_weight": 0.0}):
        row = {
            "messages": [
                USER,
                {"role": "assistant", "content": "错", **mark},
                USER,
                {"role": "assistant", "content": "对"},
            ]
        }
        conversation = conversation_of(row, detect(row))
        assert learnt(Chat(tokenizer), conversation) == ["对<|im_end|>"]


def test_every_token_and_a_turn_that_is_not_learnt_contradict_each_other(tokenizer: Any) -> None:
    marked = {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]}
    with pytest.raises(DataError, match=r"marked as not to be learnt, and data.train_on_prompt=true"):
        Chat(tokenizer, train_on_prompt=True).tokens([conversation_of(marked, detect(marked))])
    asked = {
        "prompt": [USER, ANSWER, USER],
        "completion": [ANSWER],
    }  # the question's answers are learnt with every token
    ((ids, learnt_ids),) = Chat(tokenizer, train_on_prompt=True).tokens([conversation_of(asked, detect(asked))])
    assert learnt_ids == [False] + [True] * (len(ids) - 1)
    assert learnt(Chat(tokenizer), conversation_of(asked, detect(asked))) == ["答<|im_end|>"]


def test_calls_are_learnt_and_what_tools_say_is_not(tokenizer: Any) -> None:
    chat = Chat.of(tokenizer, "chatml")
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call><|im_end|>'
    conversation = Conversation(CALLED, [TOOL])
    assert learnt(chat, conversation) == [call, "答<|im_end|>"]
    text = chat.render(conversation)
    assert '"weather"' in text.split("<|im_start|>user")[0], "the tools stand before the first question"
    assert "<tool_response>\n晴" in text
    spoken = [USER, {**CALLED[1], "content": "我查一下"}, *CALLED[2:]]
    assert learnt(chat, Conversation(spoken, [TOOL]))[0] == "我查一下\n" + call


CUTS_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_an_answer_that_stands_in_its_own_thought_keeps_its_end(tokenizer: Any) -> None:
    """The template hides earlier thoughts; the answer is found behind the thought, not in it."""
    turns = [
        USER,
        {"role": "assistant", "content": "4", "reasoning_content": "2+2 is 4, so 4"},
        USER,
        {"role": "assistant", "content": "6", "reasoning_content": "6"},
    ]
    assert learnt(Chat.of(tokenizer, CUTS_THOUGHTS), turns) == ["4<|im_end|>", "<think>6</think>6<|im_end|>"]


def test_thoughts_are_learnt_where_the_template_shows_them(tokenizer: Any) -> None:
    turns = [USER, {**ANSWER, "reasoning_content": "想"}]
    assert learnt(Chat.of(tokenizer, "chatml"), turns) == ["<think>\n想\n</think>\n\n答<|im_end|>"]


PLAIN = "{% for m in messages %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
NO_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"


@pytest.mark.parametrize(
    ("conversation", "template", "said"),
    [
        (Conversation([USER, ANSWER], [TOOL]), PLAIN, "does not show tools"),
        (Conversation(CALLED), PLAIN, "does not show tool_calls"),
        (Conversation([USER, {**ANSWER, "reasoning_content": "想"}]), PLAIN, "does not show reasoning_content"),
        (Conversation([SYSTEM, USER, ANSWER]), NO_SYSTEM, "does not show turns of system"),
    ],
    ids=["tools", "calls", "thoughts", "system"],
)
def test_what_the_template_leaves_out_refuses_the_row(
    conversation: Conversation, template: str, said: str, tokenizer: Any
) -> None:
    with pytest.raises(DataError, match=said):
        Chat.of(tokenizer, template).turns(conversation)


def test_turns_and_columns_that_are_not_used_are_counted(tmp_path: Path) -> None:
    rows = [{"messages": [{**USER, "lang": "zh"}, ANSWER], "source": f"s{i}"} for i in range(3)]
    report = weitiao.data.check(write_jsonl(tmp_path / "r.jsonl", rows))
    counts = {f.message.split("'")[1]: f.count for f in report.findings if f.code == "unused_columns"}
    assert counts == {"source": 3, "messages[].lang": 3}


def test_the_question_keeps_system_and_tools() -> None:
    asked = question_of({"messages": [USER, ANSWER], "system": "简短", "tools": json.dumps([TOOL])})
    assert (asked.messages, asked.tools) == ([SYSTEM, USER], [TOOL])


def test_columns_that_begin_after_row_one_are_read(tmp_path: Path) -> None:
    """A second text that the first row lacks makes pairs; a system text in one row of many is that row's own."""
    pairs = [{"text": f"一{i}", "label": "a", **({"text_pair": f"二{i}"} if i else {})} for i in range(6)]
    table = build(str(write_jsonl(tmp_path / "pairs.jsonl", pairs)), DataConfig(train="-"))
    assert (table.facts["name"], len(table)) == ("text pair and label", 5)
    assert "no column 'text_pair'" in next(iter(table.rejected()))["reason"]
    late = [
        {"messages": [{**USER, "content": f"问{i}"}, ANSWER], **({"system": "简短"} if i == 1500 else {})}
        for i in range(1600)
    ]
    table = build(str(write_jsonl(tmp_path / "late.jsonl", late)), DataConfig(train="-"))
    assert json.loads(table.column("messages")[1500])["messages"][0] == SYSTEM
    once = [{"text": f"一{i}", "label": "a", **({"text_pair": "二"} if i == 3 else {})} for i in range(6)]
    table = build(str(write_jsonl(tmp_path / "once.jsonl", once)), DataConfig(train="-"))
    assert (table.facts["name"], table.facts["unused"]) == ("text and label", {"text_pair": 1})
