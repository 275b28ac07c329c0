"""The command line: what every command takes, what wrong use says, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import typer
import yaml

import model.export  # noqa: F401  (imported before a test gives up its right to read this folder)
from flows.cli import app
from model.nets.config import model_config
from model.nets.factory import build_mae
from model.weights import save_weights
from tests.support.clip_dataset import write_clip_dataset

ROOT = Path(__file__).resolve().parents[3]
ISSUED = {
    "samples", "ingest", "dataset show", "dataset verify", "dataset report", "dataset versions", "dataset diff",
    "dataset compact", "dataset vacuum", "dataset remove", "pretrain", "adapt", "extract",
    "reconstruct", "export", "demo", "tables", "predict",
    "lineage", "registry list", "registry live", "registry promote",
    "registry rollback", "deploy", "undeploy", "up", "down", "sensor",
}  # fmt: skip
"""The commands that people and flows were promised."""


def _commands(group: object, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        yield from _commands(command, f"{prefix}{name} ") if hasattr(command, "commands") else [prefix + name]


COMMANDS = sorted(_commands(typer.main.get_command(app)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_clip_dataset(tmp_path_factory.mktemp("data") / "set", [{"a": [40], "b": [36, 20]}, {"val": [33]}])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    config = model_config("marlin_vit_tiny", image_size=32, encoder_depth=1, decoder_depth=1)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, build_mae(config).state_dict(), config, {})
    return path


def test_the_promised_commands_are_there():
    assert set(COMMANDS) >= ISSUED


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_what_every_command_takes(marlin, name):
    said = marlin(*name.split(), "--help")
    assert said.code == 0
    text = " ".join(said.out.split())
    assert f"Usage: marlin {name} " in text
    for promised in ("[KEY=VALUE]…", "--config", "--print-config"):
        assert promised in text, f"{name} --help does not show {promised}"
    assert "list[str]" not in text  # Python's types are nobody's help
    assert "()" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_printed_settings_are_a_config_file_that_gives_the_same_settings(marlin, name, tmp_path):
    """Catches a command whose --config reads another class than --print-config shows, or that asks for arguments."""
    first = marlin(*name.split(), "--print-config")
    assert first.code == 0, first.err
    (tmp_path / "again.yaml").write_text(first.out)
    assert marlin(*name.split(), "--config", "again.yaml", "--print-config").out == first.out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_typo_in_a_key_and_an_absent_config_file_are_one_sentence(marlin, name):
    assert "unknown setting 'bogus'" in marlin(*name.split(), "bogus=1").sentence
    assert "absent.yaml cannot be read" in marlin(*name.split(), "--config", "absent.yaml").sentence


def test_overrides_win_over_options_and_arguments_and_these_over_the_file(marlin, tmp_path):
    (tmp_path / "a.yaml").write_text("{videos: [file.mp4], weights: file, out: file, crop: none, batch: 7}")
    arguments = ("extract", "--config", "a.yaml", "--print-config")
    cfg = yaml.safe_load(marlin(*arguments, "given.mp4", "--out", "given", "--crop", "auto", "crop=face").out)
    assert cfg["videos"] == ["given.mp4"]
    assert (cfg["weights"], cfg["out"], cfg["crop"], cfg["batch"]) == ("file", "given", "face", 7)
    assert yaml.safe_load(marlin(*arguments, "videos=[o.mp4]", "given.mp4").out)["videos"] == ["o.mp4"]


def test_options_reach_nested_settings(marlin):
    given = ("--mask", "tube", "--ratio", "0.75", "--seed", "3", "--print-config")
    cfg = yaml.safe_load(marlin("reconstruct", "v.mp4", *given).out)
    assert (cfg["video"], cfg["mask"], cfg["seed"]) == (
        "v.mp4",
        {"strategy": "tube", "ratio": 0.75, "decoder_ratio": 0.0},
        3,
    )
    cfg = yaml.safe_load(marlin("adapt", "deepfake", "--dataset", "d", "--print-config").out)
    assert (cfg["task"], cfg["data"]["dataset"]) == ("deepfake", "d")
    assert yaml.safe_load(marlin("pretrain", "d", "--print-config").out)["data"]["dataset"] == "d"


def test_names_of_files_are_taken_as_they_are(marlin, tmp_path):
    """Catches arguments that pass through YAML (2024 a number, an emoji two surrogates), and = in a file's name."""
    (tmp_path / "crf=23.mp4").touch()
    names = ["crf=23.mp4", "2024", "yes", "😀.mp4", "{a}: b.mp4", os.fsdecode(b"\xff.mp4")]
    said = marlin("extract", *names, "--out", "0123", "--print-config")
    cfg = yaml.safe_load(said.out)
    assert (cfg["videos"][:5], cfg["out"]) == (names[:5], "0123")


def test_a_name_that_is_no_utf8_is_one_sentence_too(marlin, weights):
    assert "is not there" in marlin("extract", os.fsdecode(b"\xff.mp4"), "--weights", weights).sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "`marlin --help`"),
        ("dataset", "`marlin dataset --help`"),
        ("ingset", "Did you mean 'ingest'?"),
        ("dataset shw", "Did you mean 'show'?"),
        ("extract --weightz x", "--weights"),
        ("extract --weights", "requires an argument"),
        ("samples", "DIR is missing"),
        ("ingest", "SOURCE… is missing"),
        ("dataset show", "DATASET is missing"),
        ("dataset verify", "DATASET is missing"),
        ("dataset report", "DATASET is missing"),
        ("adapt", "TASK is missing"),
        ("adapt deepfake --weights x", "--dataset is missing"),
        ("adapt deepfake --dataset x", "no weights are named"),
        ("adapt deepfake --dataset absent backbone=r3d", "holds no dataset version"),
        ("extract --weights x", "VIDEO… is missing"),
        ("extract v.mp4", "--weights is missing"),
        ("reconstruct --weights x", "VIDEO is missing"),
        ("reconstruct v.mp4", "--weights is missing"),
        ("export --weights x", "OUT is missing"),
        ("export o.pt", "--weights is missing"),
        ("ingest absent --out d", "source absent does not exist"),
        ("ingest . --retry boredom", "'boredom' is not one of 'empty', 'unreadable'"),
        ("ingest . track.margin=wide", "'track.margin': Input should be a valid number"),
        ("ingest . track.marginn=2", "did you mean 'margin'?"),
        ("ingest . faces.kind=facexlib faces.weightz=x", "unknown setting 'faces.weightz'; did you mean 'weights'?"),
        ("ingest . faces.kind=cascade", "'faces'"),
        ("pretrain d optim.base_lr=-1", "'optim.base_lr'"),
        ("pretrain d mask.strategy=holes", "'mask.strategy'"),
        ("dataset show one two", "one DATASET is taken and 2 are given"),
        ("dataset show absent", "holds no dataset version; make one with `marlin ingest"),
        ("dataset verify absent", "holds no dataset version"),
        ("dataset report absent", "holds no dataset version"),
        ("pretrain absent", "holds no dataset version"),
        ("dataset show d --version one", "'version': Input should be a valid integer"),
        ("dataset show d --version 0", "'version': Input should be greater than"),
        ("adapt faces --dataset d --weights w", "there is no task 'faces'"),
        ("export o --to onnx --weights w", "'to': Input should be"),
        ("export o.pt --weights absent", "weights absent do not exist"),
        ("reconstruct absent.mp4 --weights w", "absent.mp4 is not there"),
        ("reconstruct . --weights w", "is a folder"),
        ("sensor", "nothing to watch: set 'ingest.sources'"),
        ("demo fast", "'fast' is not of the form key=value"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(marlin, arguments, says):
    assert says in marlin(*arguments.split()).sentence


def test_an_unknown_task_is_one_sentence(marlin):
    said = marlin("adapt", "ages", "--dataset", "d", "--weights", "w")
    assert said.sentence.startswith("marlin: there is no task 'ages'; there are deepfake, appearance, action, emotion")


def test_a_version_that_is_not_there_is_one_sentence(marlin, dataset):
    assert "has no version 7 (there: 1)" in marlin("dataset", "show", dataset, "--version", "7").sentence


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "[" * 3000, "1: 2", "weights: &w [*w]"])
def test_a_config_file_that_is_none_is_one_sentence(marlin, tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    assert "c.yaml" in marlin("extract", "--config", "c.yaml").sentence


@pytest.mark.parametrize("command", ["extract", "reconstruct"])
def test_what_is_no_file_is_refused_before_weights_are_read(marlin, tmp_path, command):
    """A pipe would block for ever; a folder of videos is a likely mistake and gets a likely cure."""
    (tmp_path / "videos").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "videos is a folder" in marlin(command, "videos", "--weights", "w").sentence
    assert "pipe.mp4 is a pipe" in marlin(command, "pipe.mp4", "--weights", "w").sentence


@pytest.mark.parametrize("name", ["g.pt", "g.safetensors", "g.ckpt", "empty.pt", "empty.safetensors", "text.pth"])
def test_weights_that_are_garbage_are_one_sentence(marlin, tmp_path, name):
    content = {"g": os.urandom(1000), "empty": b"", "text": b"not weights\n" * 50}[name.partition(".")[0]]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "v.mp4").touch()
    for command in (("export", "o.pt"), ("extract", "v.mp4"), ("reconstruct", "v.mp4")):
        assert name in marlin(*command, "--weights", name).sentence


def test_a_place_that_cannot_be_written_is_refused_before_the_work(marlin, tmp_path, weights, dataset):
    """Catches hours of work that end at the write: each says where, and leaves what stood there alone."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "v.mp4").touch()
    assert "file is a file" in marlin("extract", "v.mp4", "--weights", weights, "--out", "file").sentence
    assert "file is a file" in marlin("export", "file", "--to", "huggingface", "--weights", weights).sentence
    assert "folder is a folder" in marlin("export", "folder", "--weights", weights).sentence
    assert "folder is a folder" in marlin("reconstruct", "v.mp4", "--weights", weights, "--out", "folder").sentence
    assert "file" in marlin("samples", "file").sentence
    assert "folder" in marlin("dataset", "report", dataset, "--out", "folder").sentence
    assert "file is a file" in marlin("export", "file/o.pt", "--weights", weights).sentence
    assert (tmp_path / "file").read_text() == "mine"


def test_a_refused_command_leaves_no_run_folder(marlin, tmp_path, weights, dataset):
    """Catches ``runs/`` filling with folders of what was mistyped, whichever step it is that refuses."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "notes.txt").write_text("no video")
    refused = [
        ("ingest", "absent", "--out", "d"),
        ("ingest", "videos", "--out", "d"),
        ("ingest", tmp_path / "videos", "--out", dataset),
        ("pretrain", "absent"),
        ("pretrain", dataset, "init_from=absent.pt", "--run", "runs/mine"),
        ("adapt", "deepfake", "--dataset", "absent", "--weights", weights),
        ("adapt", "deepfake", "--dataset", dataset, "--weights", "absent.pt", "--run", "runs/mine"),
        ("adapt", "emotion", "--dataset", dataset, "--weights", weights),
    ]
    for words in refused:
        sentence = marlin(*words).sentence
        assert not (tmp_path / "runs").exists(), (words, sentence)


def test_no_permission_to_write_is_one_sentence(marlin, weights):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        is_root = os.geteuid() == 0
        if is_root:  # root may write everywhere: be somebody else for a moment
            os.seteuid(65534)
        try:
            said = marlin("export", f"{folder}/o.pt", "--weights", weights)
        finally:
            if is_root:
                os.seteuid(0)
    assert "cannot be written" in said.sentence


def test_a_disk_that_refuses_is_one_sentence(marlin, weights):
    """Catches errors of the operating system that no caller foresaw."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    assert "No space left" in marlin("export", "/dev/full", "--weights", weights).sentence


def test_show_has_the_promised_keys_and_verify_finds_a_changed_byte(marlin, dataset):
    facts = json.loads(marlin("dataset", "show", dataset, "--json").out)
    assert list(facts) == ["version", "videos", "clips", "shards", "frames", "rejects", "filtered", "labels"]
    assert [facts[key] for key in ("version", "videos", "clips", "shards", "frames")] == [1, 3, 4, 2, 129]
    whole = marlin("dataset", "verify", dataset)
    assert (whole.code, "is whole" in whole.out) == (0, True)
    shard = next((dataset / "shards").iterdir())
    bytes_ = bytearray(shard.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    shard.write_bytes(bytes_)
    damaged = marlin("dataset", "verify", dataset)
    assert damaged.code == 1
    assert shard.stem in damaged.out


def test_rejected_videos_are_reported_and_no_failure(marlin, tmp_path, weights):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    said = marlin("extract", "empty.mp4", "text.mp4", "--weights", weights, "--out", "f", "device=cpu")
    assert said.code == 0
    assert [line.partition(":")[0] for line in said.out.splitlines()] == ["empty.mp4", "text.mp4"]
    assert said.out.count("rejected (") == 2
    said = marlin("reconstruct", "text.mp4", "--weights", weights)
    assert (said.code, "text.mp4: rejected (" in said.out) == (0, True)
    assert not (tmp_path / "reconstruction.png").exists()


@pytest.mark.parametrize("to", ["marlin-pytorch", "huggingface"])
def test_export_writes_what_others_may_read(marlin, tmp_path, weights, to):
    """Catches files that only their maker may read, as safetensors makes them."""
    said = marlin("export", "out", "--to", to, "--weights", weights)
    assert (said.code, said.out) == (0, "out\n")
    files = [path for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")] if path.is_file()]
    assert files
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~_umask() for path in files)
    if to == "marlin-pytorch":
        assert "encoder.norm.weight" in torch.load(files[0], weights_only=True)


def test_plain_commands_load_neither_prefect_nor_torch_nor_ray():
    """Catches an import at the head of a module that makes --help take seconds."""
    code = (
        "import sys; from flows.cli import main; code = main(['extract', '--print-config']); "
        "sys.exit(code or {'prefect', 'torch', 'ray', 'deepspeed', 'pyarrow', 'cv2'} & set(sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ["extract --print-config", "extract --help", "dataset show DATASET"])
def test_a_closed_pipe_ends_the_command_without_a_word(arguments, dataset):
    """``marlin … | head`` must not end in a traceback, nor in Python's complaint at exit about unwritten output."""
    process = _start(*arguments.replace("DATASET", str(dataset)).split(), stdout=subprocess.PIPE)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 1)


def test_ctrl_c_is_one_sentence_and_exit_code_130(tmp_path):
    """The command waits in the open call of its config file, a pipe, when the signal comes."""
    os.mkfifo(tmp_path / "config")
    process = _start("extract", "--config", str(tmp_path / "config"))
    with (tmp_path / "config").open("wb"):  # returns when the command has opened its end
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (err.decode().splitlines(), process.returncode) == (
        ["marlin: stopped; the same command goes on from here"],
        130,
    )


def _start(*arguments: str, **options: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    # a shell starts what runs in its background deaf to Ctrl-C, and children inherit that
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=ROOT, env=buffered, stderr=subprocess.PIPE, preexec_fn=hears, **options)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(marlin, tmp_path):
    """Catches options that the command does not pass on, an address's query taken for a setting, files left behind."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"x" * 1000)
    before = sorted(tmp_path.rglob("*"))
    said = marlin("ingest", "videos", "https://h.example/b.mp4?token=secret", "--out", "d", "--dry-run",
                  "--retry", "no_face", "--retry", "timeout")  # fmt: skip
    assert said.code == 0, said.err
    assert "2 videos listed: 0 known, 0 taken down, 2 to do (1 https, 1 local)" in said.out
    assert "secret" not in said.out + said.err
    assert sorted(tmp_path.rglob("*")) == before
