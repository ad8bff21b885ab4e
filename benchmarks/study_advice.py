"""The advisor against the study: what `weitiao advise` says of a data set from plan and probe alone, and what was found."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import RESULTS
from study_cells import DATA, FULL, LORA, RATE_SEEDS, RATES, compare_config
from study_results import Pair, pairs, stored_files
from study_statistics import pooled
from weitiao.rundir.files import to_json, write_atomic

KEPT = ("probe", "majority", "unknown_share", "train_rows", "num_classes", "full", "lora")


@dataclass(frozen=True)
class Judged:
    """One case: the advice, what the study keeps, and what the other data sets would have predicted (None: too few)."""

    pair: Pair
    method: str | None
    sure: str
    points: dict[str, int]
    others: str | None

    @property
    def outcome(self) -> str:
        return judged(self.method, self.pair.keep)

    @property
    def outcome_of_others(self) -> str:
        return "not enough data sets" if self.others is None else judged(self.others, self.pair.keep)


@dataclass(frozen=True)
class Regret:
    """What a default learning rate costs against the best that was tried, in the unit of the metric; 0: the default is the best.

    ``rates`` are the tried ones with their mean metric over the seeds that all of them have; ``by_seed`` the regrets; ``reached``
    the metric of every seed at the rate that is the best of all.
    """

    data: str
    rows: int
    method: str
    metric: str
    rates: dict[float, float]
    default: float
    best: float
    by_seed: tuple[float, ...]
    reached: dict[int, float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.by_seed)

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the lowest or the highest that was tried."""
        return self.best in (min(self.rates), max(self.rates))


def judged(said: str | None, keep: str) -> str:
    return "undecided" if keep == "undecided" else "right" if said == keep else "wrong"


def path_of(results: Path) -> Path:
    return results / "study" / "advice.json"


def answers(results: Path) -> dict[str, Any]:
    """{"<data>-<rows>": what was answered}; empty where nothing was asked."""
    path = path_of(results)
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def ask(names: Iterable[str], sizes: Sequence[int], folder: Path | None) -> None:
    """Ask about every data set and size that has no answer yet; each answer is kept at once."""
    from weitiao.system.imports import load_libraries

    load_libraries()
    found = answers(RESULTS)
    for data in (DATA[name] for name in names):
        for rows in (size for size in sizes if size in data.sizes):
            if f"{data.name}-{rows}" in found or (data.outside and folder is None):
                continue
            found[f"{data.name}-{rows}"] = _answer(data.name, rows, folder)
            path_of(RESULTS).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path_of(RESULTS), to_json(found))
            print(f"asked about {data.name}, {rows:,} rows", flush=True)


def _answer(name: str, rows: int, folder: Path | None) -> dict[str, Any]:
    """What `weitiao advise` says of the recipe, without its paths."""
    from weitiao.advice.advise import advise

    said = advise(compare_config(DATA[name], rows, folder))
    facts = {key: said["facts"][key] for key in KEPT}
    held = [rule["name"] for rule in said["rules"] if rule["holds"]]
    return {"method": said["method"], "sure": said["sure"], "points": said["points"], "rules": held, "facts": facts}


def judgements(results: Path) -> list[Judged]:
    """Every case that has an answer and a pair of full and LoRA."""
    said = answers(results)
    own = [pair for pair in pairs(results) if pair.arm == LORA and pair.at_defaults]
    found = []
    for pair in own:
        answer = said.get(f"{pair.data}-{pair.rows}")
        if answer is not None:
            found.append(Judged(pair, answer["method"], answer["sure"], answer["points"], _by_others(pair, own)))
    return found


def _by_others(left_out: Pair, all_of_them: Sequence[Pair]) -> str | None:
    """What the pooled lead of the other data sets of this size says: full only where it is ahead beyond chance."""
    others = [p for p in all_of_them if p.rows == left_out.rows and p.data != left_out.data and p.is_share and p.error]
    found = pooled([p.lead for p in others], [p.error or 0.0 for p in others])
    return None if found is None else FULL if found.lower > 0 else LORA


def skill(answer: dict[str, Any]) -> float | None:
    """How much of what a majority guess gets wrong the probe of the frozen model gets right: 0 nothing, 1 all."""
    probe, majority = answer["facts"]["probe"], answer["facts"]["majority"]
    return None if probe is None or majority is None else (probe - majority) / (1 - majority)


def regrets(results: Path) -> list[Regret]:
    """For each data set, size and method with tried rates. The best rate of a seed is chosen at the other seeds."""
    found = []
    for stored in stored_files(results):
        sign = 1 if stored["higher_is_better"] else -1
        for method in (FULL, LORA):
            arms = [method, *(name for name, (of, _) in RATES.items() if of == method)]
            cells = {
                arm: {c["seed"]: c for c in stored["cells"] if c["arm"] == arm and "failure" not in c} for arm in arms
            }
            cells = {arm: by_seed for arm, by_seed in cells.items() if len(by_seed) >= len(RATE_SEEDS)}
            if method not in cells:
                continue
            rate = {arm: next(iter(by_seed.values()))["learning_rate"] for arm, by_seed in cells.items()}
            cells = {arm: own for arm, own in cells.items() if arm == method or rate[arm] != rate[method]}
            if len(cells) == 1:
                continue
            seeds = sorted(set.intersection(*(set(by_seed) for by_seed in cells.values())))
            if len(seeds) > 1:
                found.append(_regret(stored, method, cells, seeds, sign))
    return found


def at_best_rates(found: Sequence[Regret]) -> list[tuple[Regret, Regret, dict[int, float]]]:
    """(full, LoRA, full's lead by seed), each method at its best rate."""
    by_place = {(one.data, one.rows, one.method): one for one in found}
    leads = []
    for (data, rows, method), full in by_place.items():
        lora = by_place.get((data, rows, LORA))
        if method == FULL and lora is not None and (seeds := full.reached.keys() & lora.reached.keys()):
            sign = -1 if full.metric == "log_loss" else 1
            leads.append((full, lora, {s: sign * (full.reached[s] - lora.reached[s]) for s in sorted(seeds)}))
    return leads


def _regret(stored: dict[str, Any], method: str, cells: dict[str, Any], seeds: list[int], sign: int) -> Regret:
    metric = stored["metric"]
    value = {arm: {s: by_seed[s]["metrics"][metric] for s in seeds} for arm, by_seed in cells.items()}

    def best(chosen: Sequence[int]) -> str:
        return max(value, key=lambda arm: sign * statistics.mean(value[arm][s] for s in chosen))

    lost = tuple(sign * (value[best([t for t in seeds if t != s])][s] - value[method][s]) for s in seeds)
    rate = {arm: by_seed[seeds[0]]["learning_rate"] for arm, by_seed in cells.items()}
    means = {rate[arm]: statistics.mean(value[arm].values()) for arm in sorted(value, key=lambda a: rate[a])}
    reached = {seed: cell["metrics"][metric] for seed, cell in cells[best(seeds)].items()}
    return Regret(stored["data"], stored["rows"], method, metric, means, rate[method], rate[best(seeds)], lost, reached)
