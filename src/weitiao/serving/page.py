"""/docs: the interface on one page that loads nothing from elsewhere."""

import json
from typing import Any

from jinja2 import Environment

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>weitiao</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
h2 { font-size: 1.1rem; margin-top: 2rem } code, pre { font: 14px/1.5 ui-monospace, monospace }
pre { background: #8881; padding: .75rem; overflow: auto } :root { color-scheme: light dark }
</style>
<h1>weitiao {{ version }}</h1>
<p>The whole interface is described in <a href="/openapi.json">/openapi.json</a>.</p>
{% for one in paths %}
<h2><code>{{ one.verb }} {{ one.path }}</code></h2>
<p>{{ one.text }}</p>
{% if one.example %}<pre>curl localhost:8000{{ one.path }} -H 'Content-Type: application/json' -d '{{ one.example }}'</pre>
{% else %}<pre>curl localhost:8000{{ one.path }}</pre>{% endif %}
{% endfor %}
</html>
"""
)
_EXAMPLES = {
    "/classify": {"model": "NAME", "input": ["很好看，推荐", "太差了"]},
    "/predict": {"model": "NAME", "inputs": "很好看，推荐"},
    "/tokens": {"model": "NAME", "inputs": "江泽民在北京会见了微软公司总裁"},
    "/v1/chat/completions": {"model": "NAME", "messages": [{"role": "user", "content": "你好"}]},
    "/v1/completions": {"model": "NAME", "prompt": "从前"},
    "/v1/load_lora_adapter": {"lora_name": "NAME", "lora_path": "RUN"},
    "/v1/unload_lora_adapter": {"lora_name": "NAME"},
}


def page(described: dict[str, Any]) -> str:
    """HTML of an OpenAPI description."""
    paths = [
        {
            "verb": verb.upper(),
            "path": path,
            "text": one.get("description", ""),
            "example": json.dumps(_EXAMPLES[path], ensure_ascii=False) if path in _EXAMPLES else "",
        }
        for path, verbs in described["paths"].items()
        for verb, one in verbs.items()
    ]
    return _PAGE.render(version=described["info"]["version"], paths=paths)
