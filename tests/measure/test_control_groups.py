"""Memory that control groups allow, of version 1 and 2, nested and of a container."""

from pathlib import Path

from weitiao.measure.control_groups import free_bytes

GB = 1 << 30


def group(root: Path, path: str, **files: str) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / path / name.replace("__", ".")).write_text(f"{text}\n")


def member(root: Path, *lines: str) -> Path:
    (root / "cgroup").write_text("".join(f"{line}\n" for line in lines))
    return root / "cgroup"


def test_the_least_of_all_levels_counts(tmp_path: Path) -> None:
    group(tmp_path, "user", memory__max=str(8 * GB), memory__current=str(3 * GB))
    group(tmp_path, "user/scope", memory__max=str(4 * GB), memory__current=str(GB))
    assert free_bytes(tmp_path, member(tmp_path, "0::/user/scope")) == 3 * GB
    group(tmp_path, "user", memory__current=str(6 * GB))
    assert free_bytes(tmp_path, member(tmp_path, "0::/user/scope")) == 2 * GB
    assert free_bytes(tmp_path, member(tmp_path, "0::/elsewhere")) is None


def test_pages_of_files_are_free(tmp_path: Path) -> None:
    stat = f"anon {GB}\ninactive_file {2 * GB}\nactive_file {GB}"
    group(tmp_path, ".", memory__max=str(8 * GB), memory__current=str(7 * GB), memory__stat=stat)
    assert free_bytes(tmp_path, member(tmp_path, "0::/a/container/of/the/host")) == 3 * GB


def test_version_1(tmp_path: Path) -> None:
    stat = f"inactive_file 5\ntotal_inactive_file {GB}"
    used = {"memory__usage_in_bytes": str(3 * GB), "memory__stat": stat}
    group(tmp_path, "memory/job", memory__limit_in_bytes=str(4 * GB), **used)
    group(tmp_path, "memory", memory__limit_in_bytes="9223372036854771712", **used)
    assert free_bytes(tmp_path, member(tmp_path, "4:memory:/job", "3:cpu:/other")) == 2 * GB


def test_no_limit(tmp_path: Path) -> None:
    group(tmp_path, ".", memory__max="max", memory__current="5")
    assert free_bytes(tmp_path, member(tmp_path, "0::/")) is None
    assert free_bytes(tmp_path, tmp_path / "absent") is None
    group(tmp_path, ".", memory__max="nonsense")
    assert free_bytes(tmp_path, member(tmp_path, "0::/")) is None
