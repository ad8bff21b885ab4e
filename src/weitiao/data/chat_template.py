"""Chat templates: the text that data.chat_template names, and the one that comes with weitiao."""

from pathlib import Path

from weitiao.data.text_encoding import read_utf8
from weitiao.errors import DataError

# Turns as <|im_start|>role ... <|im_end|>, with tools, calls, their results and thoughts as Hermes and Qwen write them.
CHATML = """{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}# Tools

<tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools>

Each call is one JSON object within <tool_call></tool_call>: {"name": ..., "arguments": ...}<|im_end|>
{% endif %}{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif not (tools and loop.first and message.role == 'system') %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}
{%- for call in message.tool_calls or [] %}{% if message.content or not loop.first %}{{ '\n' }}{% endif %}<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
_NAMED = {"chatml": CHATML}


def template_text(template: str | None) -> str | None:
    """``template``: Jinja, the name of a file with it, or ``chatml``.

    Raises:
        DataError: no such file, or one that is not in UTF-8.
    """
    if template is None or "{" in template:
        return template
    if template in _NAMED:
        return _NAMED[template]
    if not Path(template).is_file():
        raise DataError(
            f"No file '{template}'.\nExpected a Jinja chat template, or a file with one.\n"
            "Correct data.chat_template, or leave it out to use the tokenizer's own."
        )
    return read_utf8(Path(template), "data.chat_template")
