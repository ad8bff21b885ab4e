"""A process that asks llama.cpp: JSON from standard input, JSON to standard output. It ends alone where llama.cpp aborts.

{"model": FILE, "adapters": [FILE], "texts": [...], "chats": [[message]], "prompts": [[id]], "new_tokens": N, "vocabulary": V,
 "plain": id of a token that is a whole character, "context": tokens, "threads": N}
-> {"texts": [[id]], "chats": [text], "answers": [[id]], "first": [[log probability]]}
"""

import http.client
import json
import os
import sys
from typing import Any


def main() -> None:
    """Answer one question."""
    asked = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # llama.cpp logs to both
    json.dump(_answers(asked), answer)
    answer.flush()
    os._exit(0)  # its threads need not be waited for


def _answers(asked: dict[str, Any]) -> dict[str, Any]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(file, 1.0) for file in asked["adapters"]]
    params.n_ctx = asked["context"]
    params.n_parallel = 1
    params.warmup = False
    params.fit_params = False  # the model is opened once, not first for its size
    params.port = 0
    params.hostnames = ["127.0.0.1"]
    params.cpuparams.n_threads = asked["threads"]
    params.use_jinja = True
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    # as exact as it can be: what is compared is the file
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    llama = _Http(server.listening_address)
    post = llama.post
    found = [
        _complete(llama, ids, asked["new_tokens"], asked["vocabulary"], asked["plain"]) for ids in asked["prompts"]
    ]
    return {
        "texts": [
            post("/tokenize", {"content": t, "add_special": False, "parse_special": True})["tokens"]
            for t in asked["texts"]
        ],
        "chats": [post("/apply-template", {"messages": chat})["prompt"] for chat in asked["chats"]],
        "answers": [tokens for tokens, _ in found],
        "first": [first for _, first in found],
    }


class _Http:
    """The server in this process."""

    def __init__(self, address: str) -> None:
        self.address = address.removeprefix("http://")

    def post(self, path: str, body: Any) -> Any:
        """JSON for JSON."""
        connection = http.client.HTTPConnection(self.address)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        value = json.load(answer)
        if answer.status != 200:
            raise RuntimeError(f"Error of llama.cpp at {path}: {value}")
        return value


def _complete(
    llama: _Http, ids: list[int], new_tokens: int, vocabulary: int, plain: int
) -> tuple[list[int], list[float]]:
    """The greedy answer to a prompt, and the log probability of every token as its first one."""
    asked = {"prompt": ids, "temperature": 0, "return_tokens": True, "cache_prompt": False, "stream": False}
    answer = llama.post("/completion", {**asked, "n_predict": new_tokens})
    # Half a character or an end would be told without probabilities: another token is drawn, and they are from before that.
    first = llama.post("/completion", {**asked, "n_predict": 1, "n_probs": vocabulary, "logit_bias": [[plain, 1000.0]]})
    logs = [float("-inf")] * vocabulary
    for one in first["completion_probabilities"][0]["top_logprobs"]:
        logs[one["id"]] = one["logprob"]
    return list(answer["tokens"]), logs


if __name__ == "__main__":
    main()
