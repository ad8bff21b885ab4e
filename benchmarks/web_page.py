"""The part of docs/performance.md on the pages."""

from pathlib import Path
from typing import Any

from figures import Suite, middle, spread, table


def results_of(suite: Suite, part: str) -> list[dict[str, Any]]:
    """What the rounds of a part measured."""
    return list(suite.rounds(part=part).values())


def figure(part: str, key: str, suite: Suite) -> list[float]:
    """One figure of every round, for goals."""
    return [float(result[key]) for result in results_of(suite, part)]


def web(suite: Suite, results: Path) -> list[str]:
    return [*_pages(suite), *_thousand(suite), *_curves(suite), *_restart(suite)]


def _pages(suite: Suite) -> list[str]:
    found = results_of(suite, "pages")
    if not found:
        return []
    names = dict.fromkeys(name for result in found for name in result["pages"])
    rows = []
    for name in names:
        own = [result["pages"][name] for result in found if name in result["pages"]]
        serious = sorted({one for result in own for one in result["serious"]})
        rows.append(
            [
                f"/{name}",
                middle([one["bytes"] for one in own], ",.0f", 1e-3),
                spread([one["paint_ms"] for one in own], 0),
                ", ".join(serious) or "none",
            ]
        )
    text = (
        "Every page in headless chromium with an empty cache, on the machine of the server. kB are what comes over the wire with "
        f"style and scripts. axe looks for serious and critical findings. Requests that would have left the machine: {sum(r['left'] for r in found)}."
    )
    return [text, table(["page", "kB", "first paint, ms", "axe"], rows)]


def _thousand(suite: Suite) -> list[str]:
    return [
        f"{results[0]['count']:,} runs listed, the whole answer of `/runs`: {spread([r['cold_ms'] for r in results], 0, ' ms')} as the "
        f"first of a server, {spread([r['warm_ms'] for r in results], 0, ' ms')} afterwards."
        for results in [results_of(suite, "thousand")]
        if results
    ]


def _curves(suite: Suite) -> list[str]:
    cells = [cell for cell in suite.cells if cell["settings"]["part"] == "curves"]
    if not cells:
        return []
    settings, found = cells[0]["settings"], [cell["result"] for cell in cells]
    return [
        f"The events of {settings['curves']} runs with {settings['points']:,} points each, over six connections: "
        f"{spread([r['together_ms'] for r in found], 0, ' ms')}. One such run, from the click to its drawn curve: "
        f"{spread([r['drawn_ms'] for r in found], 0, ' ms')}. Afterwards new bytes alone come over the wire."
    ]


def _restart(suite: Suite) -> list[str]:
    found = results_of(suite, "restart")
    seconds = spread([r["back_seconds"] for r in found], 1, " s")
    return (
        [f"`kill -9` of the server and a new one: an open page has the curve's new points after {seconds}."]
        if found
        else []
    )
