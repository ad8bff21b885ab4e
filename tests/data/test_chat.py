"""Conversations -> tokens: which are learnt, against expectations written by hand; what is refused, and by which name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken

from conftest import write_jsonl
from weitiao.config.data import DataConfig
from weitiao.data.chat import Chat, chat_of, question_of
from weitiao.data.chat_rows import REFUSED, chat_lengths, encode_chats
from weitiao.data.prepare import prepare
from weitiao.errors import DataError
from weitiao.pretrained.load import load_tokenizer

TURNS = [
    {"role": "system", "content": "答得简短。"},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！"},
    {"role": "user", "content": "什么是ai\n"},
    {"role": "assistant", "content": " 人工智能。\n是的"},
]
# Qwen3's way: the last answer is rendered with an empty thought, and without it once a turn follows.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}### assistant:\n{% endif %}"


@pytest.fixture(scope="module")
def tokenizer(smollm: Path) -> Any:
    return load_tokenizer(str(smollm))


def learnt(chat: Chat, messages: list[dict[str, str]]) -> list[str]:
    """The learnt stretches of a conversation as text."""
    ((ids, mask),) = chat.tokens([messages])
    stretches: list[list[int]] = []
    for i, (token, is_learnt) in enumerate(zip(ids, mask, strict=True)):
        if is_learnt:
            if i == 0 or not mask[i - 1]:
                stretches.append([])
            stretches[-1].append(token)
    return [chat.tokenizer.decode(stretch) for stretch in stretches]


def test_answers_and_their_end_are_learnt_in_every_turn(tokenizer: Any) -> None:
    assert learnt(Chat(tokenizer), TURNS) == ["你好！<|im_end|>", " 人工智能。\n是的<|im_end|>"]


def test_tokens_are_those_of_the_template(tokenizer: Any) -> None:
    """A few characters can make one token across a border: nothing is cut apart there."""
    ((ids, _),) = Chat(tokenizer).tokens([TURNS])
    assert ids == tokenizer.apply_chat_template(TURNS, return_dict=False)
    assert ids[: len(Chat(tokenizer).question(TURNS[:4]))] == Chat(tokenizer).question(TURNS[:4])


def test_the_mask_by_hand(tokenizer: Any) -> None:
    """Token by token, with the template's own system turn in front."""
    pieces = [
        ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n", False),
        ("<|im_start|>user\n你是谁<|im_end|>\n<|im_start|>assistant\n", False),
        ("小明<|im_end|>", True),
        ("\n", False),
    ]
    ids = [i for text, _ in pieces for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    mask = [k for text, k in pieces for _ in tokenizer(text, add_special_tokens=False)["input_ids"]]
    messages = [{"role": "user", "content": "你是谁"}, {"role": "assistant", "content": "小明"}]
    assert Chat(tokenizer).tokens([messages]) == [(ids, mask)]


def test_train_on_prompt_learns_all_but_the_first_token(tokenizer: Any) -> None:
    ((ids, mask),) = Chat(tokenizer, train_on_prompt=True).tokens([TURNS])
    assert mask == [False] + [True] * (len(ids) - 1)


def test_a_template_that_renders_the_last_turn_apart(tokenizer: Any) -> None:
    assert learnt(Chat(tokenizer, THINKING), TURNS) == [
        "你好！<|im_end|>",
        "<think>\n\n</think>\n\n 人工智能。\n是的<|im_end|>",
    ]


def test_a_thought_that_the_template_cuts_does_not_lengthen_its_turn(tokenizer: Any) -> None:
    """Qwen3's way: earlier turns lose what they thought, and longer thoughts than the rest of the text do no harm."""
    cutting = THINKING.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}").replace(
        "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}", ""
    )
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "<think>" + "long " * 3 + "</think>ok"},
        {"role": "user", "content": "what is your name please tell me"},
        {"role": "assistant", "content": "Bob"},
    ]
    assert learnt(Chat(tokenizer, cutting), messages) == ["ok<|im_end|>", "Bob<|im_end|>"]
    apart = cutting.replace(
        "{{ m.content.split", "{% if loop.last %}{{ m.content }}{% else %}{{ m.content.split"
    ).replace("[-1] }}", "[-1] }}{% endif %}")
    assert learnt(Chat(tokenizer, apart), messages) == ["ok<|im_end|>", "Bob<|im_end|>"]


def test_end_tokens_inside_an_answer_do_not_end_it(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x<|im_end|>y"}]
    assert learnt(Chat(tokenizer), messages) == ["x<|im_end|>y<|im_end|>"]


def test_a_template_that_changes_earlier_turns_is_refused(tokenizer: Any) -> None:
    counting = "{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(DataError, match="renders turn 3 otherwise"):
        Chat(tokenizer, counting).turns(TURNS)


def test_a_template_comes_from_a_file_too_and_a_missing_one_is_named(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(PLAIN, encoding="utf-8")
    assert learnt(Chat.of(tokenizer, str(file)), TURNS)[0] == "你好！\n"
    with pytest.raises(DataError, match=r"No file 'none\.jinja'"):
        Chat.of(tokenizer, "none.jinja")
    with pytest.raises(DataError, match=r"cannot render turns of user, assistant: .*only system"):
        Chat(tokenizer, "{{ raise_exception('only system') }}").turns(TURNS[1:3])


def test_a_tokenizer_without_template_is_refused(tiny_model: Path) -> None:
    with pytest.raises(DataError, match="no chat template"):
        Chat.of(load_tokenizer(str(tiny_model)), None)


def test_rows_that_keep_nothing_to_learn_are_named(tokenizer: Any) -> None:
    long = [{"role": "user", "content": "长" * 200}, {"role": "assistant", "content": "好"}]
    with pytest.raises(
        DataError, match=r"(?s)1 rows have no token to learn within data.max_length=64: b:2\."
    ) as caught:
        encode_chats([TURNS[1:3], long], Chat(tokenizer), 64, ids=["a:1", "b:2"])
    assert "data.check=warn" in str(caught.value)
    kept = encode_chats([TURNS[1:3], long], Chat(tokenizer), 64, nothing_learnt="drop")
    assert kept.kept.tolist() == [0]
    (whole,) = encode_chats([long], Chat(tokenizer), 1000).lengths
    assert (kept.num_over_length, kept.tokens_lost) == (1, whole)
    with pytest.raises(DataError, match="1 rows have no token to learn"):
        encode_chats([long], Chat(tokenizer), 64, nothing_learnt="drop")


@pytest.mark.parametrize(("policy", "rows"), [("truncate", [0, 1]), ("drop", [0])])
def test_longer_conversations_lose_their_end_or_go(policy: Any, rows: list[int], tokenizer: Any) -> None:
    long = [{"role": "user", "content": "好"}, {"role": "assistant", "content": "长" * 200}]
    encoded = encode_chats([TURNS[1:3], long], Chat(tokenizer), 64, policy)
    assert encoded.kept.tolist() == rows
    assert max(encoded.lengths) <= 64
    (whole,) = encode_chats([long], Chat(tokenizer), 1000).lengths
    assert encoded.tokens_lost == (whole if policy == "drop" else whole - 64)
    assert encoded.supervised is not None
    assert len(encoded.supervised) == len(encoded.flat)
    with pytest.raises(DataError, match="conversation 2 has"):
        encode_chats([TURNS[1:3], long], Chat(tokenizer), 64, "fail")


FORMS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "问", "input": "甲", "output": "答"},
    "sharegpt": {"conversations": [{"from": "human", "value": "问\n甲"}, {"from": "gpt", "value": "答"}]},
    "messages": {"messages": [{"role": "user", "content": "问\n甲"}, {"role": "assistant", "content": "答"}]},
    "prompt and completion": {"prompt": "问\n甲", "completion": "答"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_rows_becomes_the_same_conversation(form: str, tmp_path: Path) -> None:
    row = json.dumps(FORMS[form], ensure_ascii=False)
    rows = [json.loads(row.replace("答", f"答{i}").replace("甲", f"甲{i}")) for i in range(4)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    prepared = prepare(DataConfig(train=str(file), test_size=1, near_duplicates="off"), "sft")
    assert prepared.report["format"]["name"] == form
    found = sorted(
        json.dumps(c.messages, ensure_ascii=False) for s in (prepared.train, prepared.eval) for c in s.conversations
    )
    assert found == [
        json.dumps(
            [{"role": "user", "content": f"问\n甲{i}"}, {"role": "assistant", "content": f"答{i}"}], ensure_ascii=False
        )
        for i in range(4)
    ]


def test_a_column_like_a_label_beside_question_and_answer_is_no_label_for_this_task(tmp_path: Path) -> None:
    rows = [{"prompt": f"问{i}", "completion": f"答{i}", "category": "chat", "rating": 5} for i in range(4)]
    data = DataConfig(train=str(write_jsonl(tmp_path / "rows.jsonl", rows)), test_size=1, near_duplicates="off")
    prepared = prepare(data, "sft")
    assert prepared.report["format"]["name"] == "prompt and completion"
    assert {len(c.messages) for c in prepared.train.conversations} == {2}
    with pytest.raises(DataError, match="no column that holds texts"):
        prepare(data)  # where nothing says that answers are learnt, a label is a label
    assert question_of(rows[0]).messages == [{"role": "user", "content": "问0"}]


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_conversations_that_the_template_refuses_stop_the_run_or_are_left_out(
    policy: str, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = TURNS[1:3], [{"role": "assistant", "content": "a"}]
    asked = "{% if messages[0].role == 'assistant' %}{{ raise_exception('a question first') }}{% endif %}" + PLAIN
    data = DataConfig(train="rows.jsonl", bad_rows=policy, chat_template=asked)
    chat = chat_of(data, tokenizer)
    if policy == "fail":
        with pytest.raises(DataError, match=r"(?s)^b: .*data\.bad_rows=skip"):
            encode_chats([good, bad], chat, 512, ids=["a", "b"])
        return
    with caplog.at_level("WARNING"):
        encoded = encode_chats([bad, good, bad, good], chat, 512, ids=["a", "b", "c", "d"])
    assert encoded.kept.tolist() == [1, 3]
    assert encoded.lengths == [len(chat.tokens([good])[0][0])] * 2
    assert "left out: 2 conversations that the chat template refuses. a: " in caplog.text
    counts, first, last = chat_lengths([bad, good], chat, ["a", "b"])
    assert (counts[0], first[0], last[0]) == (REFUSED, 0, 0)
    assert counts[1] == encoded.lengths[0]
    with pytest.raises(DataError, match="refuses 2 of 2 conversations"):
        encode_chats([bad, bad], chat, 512)


def test_where_a_template_ends_no_answer_the_end_token_is_put_and_learnt(tokenizer: Any) -> None:
    """Or the model would never stop. By hand: the last answer alone, blanks in front of the end token gone."""
    chat, end = Chat(tokenizer, PLAIN), tokenizer.eos_token
    assert learnt(chat, TURNS) == ["你好！\n", f" 人工智能。\n是的{end}"]
    assert chat.end_ids() == [tokenizer.eos_token_id]
    ((ids, _),) = chat.tokens([TURNS])
    assert ids == tokenizer(chat.render(TURNS).rstrip(), add_special_tokens=False)["input_ids"] + [ids[-1]]
    # nothing is put behind a question, nor where the template ends its answers
    assert chat.tokens([TURNS[:4]])[0][0][-1] != tokenizer.eos_token_id
    ended = Chat(tokenizer).tokens([[*TURNS[:4], {"role": "assistant", "content": ""}]])[0][0]
    assert ended == tokenizer(Chat(tokenizer).render([*TURNS[:4], {"role": "assistant", "content": ""}]))["input_ids"]
    assert learnt(Chat(tokenizer), [TURNS[1], {"role": "assistant", "content": ">"}]) == ["><|im_end|>"]
    assert learnt(chat, [TURNS[1], {"role": "assistant", "content": f"x{end}"}]) == [f"x{end}"]
    cutting = PLAIN.replace("m.content", "m.content.split('</think>')[-1].strip()")
    thought = [TURNS[1], {"role": "assistant", "content": "<think>\nhm</think>\nyes"}]
    assert learnt(Chat(tokenizer, cutting), thought) == [f"yes{end}"]
    skipping = Chat(tokenizer, PLAIN, train_on_prompt=True)
    assert skipping.tokens([TURNS])[0][1] == [False] + [True] * (len(ids) - 1)


def test_a_token_that_begins_in_the_header_is_the_answer_s(tokenizer: Any) -> None:
    """Byte-pair encoding joins the header's blank and the answer's first word."""
    blank = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    turns = [{"role": "user", "content": "is 2 even"}, {"role": "assistant", "content": "yes"}]
    assert learnt(Chat(tokenizer, blank), turns) == [f" yes{tokenizer.eos_token}"]


def test_an_end_token_of_the_whole_conversation_does_not_stretch_an_earlier_answer(smollm: Path) -> None:
    """Phi-3's way: <|end|>, special but in no role, behind every turn, and the tokenizer's end token behind them all."""
    own = load_tokenizer(str(smollm))
    own.add_tokens([AddedToken(f"<|{name}|>", special=True) for name in ("end", "user", "assistant", "system")])
    phi = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
    )
    last = f" 人工智能。\n是的<|end|>\n{own.eos_token}"
    assert learnt(Chat(own, phi), TURNS) == ["你好！<|end|>", last]
    cutting = phi.replace("m.content", "m.content.split('</think>')[-1]")
    thought = [*TURNS[:2], {"role": "assistant", "content": "<think>hm</think>你好！"}, *TURNS[3:]]
    assert learnt(Chat(own, cutting), thought) == ["你好！<|end|>", last]
    assert Chat(own, phi.replace("{% else %}{{ eos_token }}", "")).end_ids() == [own.convert_tokens_to_ids("<|end|>")]
    # and where nothing ends an earlier answer, nothing behind it is learnt
    plain = PLAIN.replace("{% if add", "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}{% if add")
    assert learnt(Chat(own, plain), TURNS) == ["你好！", f" 人工智能。\n是的\n{own.eos_token}"]
    cutting = plain.replace("m.content", "m.content.split('</think>')[-1]")
    assert "什么是ai" not in "".join(learnt(Chat(own, cutting), thought))


def test_a_conversation_may_begin_with_an_answer(tokenizer: Any) -> None:
    first = [{"role": "assistant", "content": "你好！"}, *TURNS[3:]]
    assert learnt(Chat(tokenizer), first) == ["你好！<|im_end|>", " 人工智能。\n是的<|im_end|>"]
    named = [{"role": "assistant", "content": "SmolLM"}, *TURNS[3:]]  # which the template's own system turn says too
    assert learnt(Chat(tokenizer), named) == ["SmolLM<|im_end|>", " 人工智能。\n是的<|im_end|>"]
    assert (
        learnt(Chat(tokenizer), [{"role": "assistant", "content": ""}, *TURNS[3:]])[-1] == " 人工智能。\n是的<|im_end|>"
    )


def test_a_thought_begun_in_the_generation_prompt_alone_is_told(tokenizer: Any) -> None:
    begun = PLAIN.replace("### assistant:\n{% endif %}", "### assistant:\n<think>\n{% endif %}")
    with pytest.raises(DataError, match="renders turn 2 otherwise than it begins an answer when asked"):
        Chat(tokenizer, begun).turns(TURNS[1:3])


def test_a_template_that_wants_a_system_turn_has_no_known_end(tokenizer: Any) -> None:
    wants = "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}" + PLAIN
    assert learnt(Chat(tokenizer, wants), TURNS)[-1].endswith(tokenizer.eos_token)
    for skip in (False, True):
        assert Chat(tokenizer, wants, skip_refused=skip).end_ids() == []


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"tokens": ["a"], "ner_tags": ["O"]}, "token_classification"),
        ({"text": "a", "label": ["x"]}, "multi_label"),
        ({"text": "a", "label": 0.5}, "regression"),
    ],
)
def test_rows_of_another_task_name_it(row: dict[str, Any], task: str, tmp_path: Path) -> None:
    # read anew every time: tables are kept by content
    file = write_jsonl(tmp_path / "rows.jsonl", [row | {"note": str(tmp_path)}] * 4)
    with pytest.raises(DataError, match=f"task={task}"):
        prepare(DataConfig(train=str(file)), "sft")


def test_no_question_is_on_both_sides(tmp_path: Path) -> None:
    rows = [{"prompt": f"问题{i % 10}", "completion": f"答{i}"} for i in range(40)]
    rows += rows[:3]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    prepared = prepare(DataConfig(train=str(file), test_size=3, near_duplicates="off"), "sft")
    assert not np.isin(prepared.train.identity, prepared.eval.identity).any()
    assert (len(prepared.train), len(prepared.eval)) == (28, 12)
    assert prepared.report["train"]["duplicates_dropped"] == 3


def test_classification_of_conversations_points_to_the_task(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [FORMS["alpaca"]] * 4)
    with pytest.raises(DataError, match="task=causal_lm"):
        prepare(DataConfig(train=str(file)))
