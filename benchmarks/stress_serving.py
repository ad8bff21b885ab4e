"""Very many small requests to one `weitiao serve`: every answer is compared, and memory, files and threads are counted on the way.

    python benchmarks/stress_serving.py '{"runs": FOLDER, "requests": 100000, "clients": 16, "resident": 4}' > benchmarks/results/stress.json

``runs``: finished runs that label texts; some may share a base. Fewer of them stay in memory than are asked, so that they come and go
all the time. Each answer must be the one of `weitiao predict` within 1e-5. The last line of the output is JSON.
"""

import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from weitiao.inference.predictor import Predictor
from weitiao.rundir.folder import RunDir
from weitiao.serving.registry import find_runs

WORDS = "很好看的书太差了服务下次再来吧物流慢酒店又脏质量非常喜欢孩子"
LOOKS = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)  # of all requests

Case = tuple[str, bytes, Any]  # path, body, expected answer


def cases(root: Path, chance: random.Random) -> list[Case]:
    """Requests of one to four short texts to every run, with what `weitiao predict` says."""
    found: list[Case] = []
    for one in find_runs([root], {}):
        assert one.run is not None
        predictor = Predictor(RunDir(one.run.path), device="cpu")
        for _ in range(20):
            texts = ["".join(chance.choices(WORDS, k=chance.randint(1, 30))) for _ in range(chance.randint(1, 4))]
            pairs = [text[::-1] for text in texts] if len(predictor.columns) > 1 else None
            asked: dict[str, Any] = {"model": one.name, "inputs": texts}
            if one.task == "token_classification":
                path, right = "/tokens", [answer["entities"] for answer in predictor.answers(texts)]
            else:
                path, asked["raw_scores"] = "/predict", True
                asked["inputs"] = texts if pairs is None else list(zip(texts, pairs, strict=True))
                names = predictor.names or ["number"]
                scores = predictor.scores(texts, pairs)[0].tolist()
                right = [dict(zip(names, row, strict=True)) for row in scores]
            found.append((path, json.dumps(asked).encode(), right))
    return found


def distance(path: str, found: Any, right: Any) -> float:
    """The largest difference of two numbers; infinite where anything else differs."""
    far = 0.0
    for one, expected in zip(found, right, strict=True):
        if path == "/tokens":
            told = [(e["entity_group"], e["word"], e["start"], e["end"]) for e in one]
            if told != [(e["type"], e["text"], e["start"], e["end"]) for e in expected]:
                return float("inf")
            both = [(a["score"], b["score"]) for a, b in zip(one, expected, strict=True)]
        else:
            both = [(score["score"], expected[score["label"]]) for score in one]
        far = max([far, *(abs(a - b) for a, b in both)])
    return far


def look(pid: int) -> dict[str, int]:
    """What the process holds now."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        "rss_mb": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024,  # type: ignore[index]
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),  # type: ignore[index]
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


async def ask(port: int, chosen: list[Case], clients: int, pid: int) -> dict[str, Any]:
    """All requests, each client one after the other."""
    numbers = iter(range(len(chosen)))
    result: dict[str, Any] = {"answered": 0, "wrong": 0, "largest_difference": 0.0, "at": {}}

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            path, body, right = chosen[number]
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            said = (await reader.readuntil(b"\r\n\r\n")).lower()
            answer = json.loads(await reader.readexactly(int(re.search(rb"content-length: (\d+)", said)[1])))  # type: ignore[index]
            far = distance(path, answer, right) if b" 200 " in said.split(b"\r\n")[0] else float("inf")
            result["answered"] += 1
            result["wrong"] += far > 1e-5
            result["largest_difference"] = max(result["largest_difference"], far)
            if (done := result["answered"]) in {int(part * len(chosen)) for part in LOOKS}:
                result["at"][str(done)] = look(pid)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return result


def main() -> None:
    given = json.loads(sys.argv[1])
    chance = random.Random(1)
    known = cases(Path(given["runs"]), chance)
    words = ["serve", given["runs"], "--port", "0", "--resident", str(given["resident"])]
    process = subprocess.Popen([sys.executable, "-m", "weitiao", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    port = next(int(found[1]) for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
    chosen, began = chance.choices(known, k=given["requests"]), time.perf_counter()
    found = asyncio.run(ask(port, chosen, given["clients"], process.pid))
    found["seconds"] = round(time.perf_counter() - began, 1)
    process.send_signal(signal.SIGTERM)
    runs = {"runs": len({json.loads(body)["model"] for _, body, _ in known})}
    print(json.dumps({**given, **runs, **found, "exit_code": process.wait(60)}, indent=1))


if __name__ == "__main__":
    main()
