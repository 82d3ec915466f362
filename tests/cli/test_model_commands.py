"""compress and evaluate."""

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import flyweight
from flyweight.training import trainer

TINY = ("--architecture", "networks:tiny")
TASK = ("--task", "networks:task", "--device", "cpu")
COMPRESS = ("compress", "tiny.safetensors", *TINY, *TASK, "-o", "out.fly")
TRAINED = """\
[pruning]
sparsity = 0.5
[retraining]
epochs = 2
learning_rate = 0.01
[quantization]
[fine_tuning]
epochs = 2
learning_rate = 0.01
"""


def test_compress_prints_one_json_object_that_describes_the_file(folder, cli):
    report = cli(*COMPRESS, "--recipe", "tiny.toml", "--seed", "7", "--json").json()
    size = (folder / "out.fly").stat().st_size
    dense = 4 * (8 * 27 + 16 + 8 * 72 + 16 + 80 + 10)
    assert report["file_bytes"] == size
    assert report["dense_bytes"] == dense
    assert report["compression_ratio"] == dense / size
    assert report["course_ratio"] > report["compression_ratio"]
    assert report["outputs_identical"] is True
    assert report["seed"] == 7
    assert report["sparsity"] == 0.5
    assert 0 <= report["score_after"] <= 1
    assert not (folder / "out.fly.partial").exists()


def test_compress_prints_a_table_without_progress_when_quiet(folder, cli):
    result = cli(*COMPRESS, "--recipe", "tiny.toml", "--quiet")
    assert (result.code, result.err) == (0, "")
    assert f"{(folder / 'out.fly').stat().st_size:,}" in result.out
    assert "course ratio" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_compress_names_phases_and_epochs_off_a_terminal(folder, cli):
    (folder / "trained.toml").write_text(TRAINED)
    lines = cli(*COMPRESS, "--recipe", "trained.toml").err.splitlines()
    assert "flyweight: prune and retrain, epoch 1 of 2" in lines
    assert "flyweight: quantize and fine-tune, epoch 2 of 2" in lines
    assert len(lines) == len(set(lines))


@pytest.mark.filterwarnings("always:the file is larger")
def test_compress_warns_of_a_file_larger_than_the_network(folder, cli):
    (folder / "small.py").write_text(
        "import torch\n"
        "def net():\n    return torch.nn.Linear(2, 2)\n"
        "def task():\n    return {'data': [(torch.randn(8, 2), torch.arange(8) % 2)]}\n"
    )
    command = ("compress", "small:net", "--task", "small:task", "-o", "out.fly", "--quiet")
    result = cli(*command, "--recipe", "tiny.toml", "--device", "cpu")
    assert result.code == 0
    assert result.err.startswith("flyweight: the file is larger than the dense network, ")
    assert "against 24 bytes; raise loss_per_bit" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("command", [("evaluate",), ("compress", "-o", "out.fly")])
def test_a_network_that_does_not_fit_advises_no_argument_in_python(folder, refused, command):
    (folder / "other.py").write_text("import torch\ndef net():\n    return torch.nn.Linear(8, 2)\n")
    verb, *rest = command
    found = refused(verb, "tiny.safetensors", "--architecture", "other:net", *TASK, *rest)
    assert found.endswith("use the model it was saved from\n")


RATE = """\
float_mantissa_bits = 3
[quantization]
method = "rate"
target_ratio = 6
[fine_tuning]
epochs = 3
learning_rate = 0.02
"""


@pytest.mark.parametrize(("size", "expected"), [("500", 500), ("0.6kB", 600)])
def test_compress_gives_the_bytes_asked_for(folder, cli, size, expected):
    (folder / "rate.toml").write_text(RATE)
    report = cli(*COMPRESS, "--recipe", "rate.toml", "--target-bytes", size, "--json").json()
    assert abs((folder / "out.fly").stat().st_size - expected) <= 0.01 * expected + 30
    assert report["outputs_identical"] is True


def test_compress_refuses_bytes_that_cannot_be_had(folder, refused):
    (folder / "rate.toml").write_text(RATE)
    rate = (*COMPRESS, "--recipe", "rate.toml", "--target-bytes")
    assert "a file of 10 bytes cannot be had" in refused(*rate, "10")
    assert "cannot reach a size" in refused(
        *COMPRESS, "--recipe", "tiny.toml", "--target-bytes", "900"
    )


def test_compress_says_whether_requirements_are_met(folder, cli):
    command = (*COMPRESS, "--recipe", "tiny.toml", "--quiet", "--force")
    met = cli(*command, "--min-ratio", "1.5", "--max-drop", "1.1", "--min-score", "0")
    assert met.code == 0
    assert "\nrequired           met: " in met.out
    assert "(at least 1.5x)" in met.out
    (folder / "out.fly").unlink()
    failed = cli(*command, "--min-ratio", "1000")
    assert failed.code == 1
    assert "NOT MET: " in failed.out
    assert (folder / "out.fly").exists()


@pytest.mark.parametrize("option", ["--min-ratio", "--max-drop", "--min-score"])
def test_requirements_are_finite(folder, cli, option):
    result = cli(*COMPRESS, option, "nan")
    assert result.code == 2
    assert f"Invalid value for '{option}'" in result.err
    assert not (folder / "out.fly").exists()


def test_compress_needs_no_evaluate(folder, cli):
    command = ["networks:unlabeled" if part == "networks:task" else part for part in COMPRESS]
    report = cli(*command, "--json").json()
    assert report["score_after"] is None
    assert report["recipe"] == "post-training"


def test_compress_and_evaluate_agree(folder, cli):
    report = cli(*COMPRESS, "--recipe", "tiny.toml", "--json").json()
    after = cli("evaluate", "out.fly", *TINY, *TASK, "--json").json()
    before = cli("evaluate", "tiny.safetensors", *TINY, *TASK, "--json").json()
    assert after["score"] == report["score_after"]
    assert after["file_bytes"] == report["file_bytes"]
    assert before["score"] == report["score_before"]


def test_evaluate_prints_a_table(folder, cli):
    result = cli("evaluate", "networks:tiny", *TASK, "--quiet")
    assert result.code == 0
    assert "score" in result.out
    assert "file bytes" not in result.out


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("[pruning.overrides]\n'stem*' = 0.5", "'stem*'"),
        ("[pruning]\nexclude = ['stem*']", "'stem*'"),
        ("[quantization.bits_overrides]\n'stem*' = 4", "'stem*'"),
        ("[pruning]\nlayer_types = ['LSTM']", "LSTM"),
        ("speed = 9", "'speed'"),
        ("[pruning\n", "not valid TOML"),
        ("[pruning]\nsparsity = 80", "80"),
    ],
)
def test_compress_refuses_a_recipe_before_it_evaluates(folder, refused, recipe, expected):
    (folder / "bad.toml").write_text(recipe)
    assert expected in refused(*COMPRESS, "--recipe", "bad.toml")
    calls = getattr(sys.modules.get("networks"), "calls", [])  # refused before the import at best
    assert calls == []


def test_compress_refuses_a_recipe_that_is_not_there(folder, refused):
    assert "no recipe 'nosuch'" in refused(*COMPRESS, "--recipe", "nosuch")


@pytest.mark.parametrize("option", ["--task", "--architecture"])
@pytest.mark.parametrize("code", ["0", "1", ""])
def test_compress_reports_a_module_that_calls_sys_exit(folder, refused, option, code):
    (folder / "ending.py").write_text(f"import sys\nsys.exit({code})\n")
    command = list(COMPRESS)
    command[command.index(option) + 1] = "ending:thing"
    found = refused(*command)
    assert "ending:thing" in found


def test_compress_reports_a_task_that_calls_sys_exit(folder, refused):
    command = ["networks:leaving_task" if part == "networks:task" else part for part in COMPRESS]
    assert "calls sys.exit(0)" in refused(*command)


def test_compress_reports_a_task_that_fails(folder, refused):
    command = ["networks:failing_task" if part == "networks:task" else part for part in COMPRESS]
    assert "no such luck (ValueError)" in refused(*command)


def test_compress_refuses_an_output_that_exists(folder, cli, refused):
    (folder / "out.fly").write_bytes(b"last week's")
    assert "out.fly exists already; pass --force to replace it" in refused(
        *COMPRESS, "--recipe", "tiny.toml"
    )
    assert cli(*COMPRESS, "--recipe", "tiny.toml", "--force").code == 0
    assert (folder / "out.fly").read_bytes() != b"last week's"


@pytest.mark.parametrize("recipe", ["tiny", "trained"])
def test_compress_keeps_a_file_that_appears_during_the_run(folder, cli, monkeypatch, recipe):
    (folder / "trained.toml").write_text(TRAINED)
    command = [*COMPRESS, "--recipe", f"{recipe}.toml", "--quiet"]
    real = flyweight.compress

    def compress(*arguments, **options):
        compressed = real(*arguments, **options)
        (folder / "out.fly").write_bytes(b"of another")
        return compressed

    monkeypatch.setattr(flyweight, "compress", compress)
    if recipe == "tiny":  # states of another run are none of this one
        (folder / "out.fly.partial" / "other").mkdir(parents=True)
        (folder / "out.fly.partial" / "other" / "prune.pt").touch()
    result = cli(*command)
    assert (result.code, result.out) == (2, "")
    assert (folder / "out.fly").read_bytes() == b"of another"
    if recipe == "tiny":
        assert result.err.startswith("flyweight: out.fly exists already; pass --force")
        return
    assert result.err == (
        "flyweight: out.fly exists already; repeat the command with --force: it resumes from the "
        "states in out.fly.partial\n"
    )
    monkeypatch.setattr(trainer, "write_checkpoint", lambda *_: pytest.fail("an epoch ran twice"))
    assert cli(*command, "--force").code == 0
    assert (folder / "out.fly").read_bytes() != b"of another"
    assert not (folder / "out.fly.partial").exists()


def test_compress_says_how_to_resume_where_the_disk_is_full(folder, cli, monkeypatch):
    (folder / "trained.toml").write_text(TRAINED)

    def save(*arguments, **options):
        raise OSError(28, "No space left on device", "out.fly")

    monkeypatch.setattr(flyweight, "save", save)
    assert cli(*COMPRESS, "--recipe", "trained.toml", "--quiet").err == (
        "flyweight: out.fly: No space left on device; repeat the command: it resumes from the "
        "states in out.fly.partial\n"
    )


@pytest.mark.parametrize("output", ["tiny.safetensors", "tiny.toml", "-", "/dev/stdout", "x.pt"])
def test_compress_refuses_outputs(folder, refused, output):
    command = [output if part == "out.fly" else part for part in COMPRESS]
    refused(*command, "--recipe", "tiny.toml", "--force")


def test_compress_refuses_weights_that_are_not_finite(folder, refused):
    state = load_file("tiny.safetensors")
    state["3.weight"].flatten()[1] = float("nan")
    save_file(state, "tiny.safetensors")
    assert "'3.weight'" in refused(*COMPRESS, "--recipe", "tiny.toml")


@pytest.mark.parametrize("device", ["nosuch", "cpu:-1", ""])
def test_compress_refuses_a_device_that_is_not_here(folder, refused, device):
    assert repr(device) in refused(*COMPRESS[:-4], "-o", "out.fly", "--device", device)


@pytest.mark.parametrize("seed", ["-1", str(2**70), "one"])
def test_compress_refuses_a_seed_out_of_range(folder, cli, seed):
    result = cli(*COMPRESS, "--seed", seed)
    assert (result.code, result.out) == (2, "")
    assert "--seed" in result.err


@pytest.mark.parametrize("states", [0, 1, 3])
def test_compress_stopped_says_what_state_there_is_and_resumes(folder, cli, monkeypatch, states):
    (folder / "trained.toml").write_text(TRAINED)
    command = [*COMPRESS, "--recipe", "trained.toml", "--quiet"]
    real, done = trainer.write_checkpoint, []

    def write(state, path):
        if len(done) < states:
            real(state, path)
            done.append(path.name)
        if len(done) == states:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "write_checkpoint", write)
    stopped = cli(*command)
    assert (stopped.code, stopped.out) == (130, "")
    if states == 0:
        assert stopped.err == "flyweight: stopped; out.fly was not written\n"
    else:
        assert "out.fly.partial has the state after the last whole epoch" in stopped.err
        assert stopped.err.count("\n") == 1
    assert not (folder / "out.fly").exists()

    def count(state, path):
        real(state, path)
        done.append(path.name)

    monkeypatch.setattr(trainer, "write_checkpoint", count)
    assert cli(*command).code == 0
    assert done == ["prune.pt", "prune.pt", "quantize.pt", "quantize.pt"]  # no epoch ran twice
    assert not (folder / "out.fly.partial").exists()
    resumed = (folder / "out.fly").read_bytes()
    assert cli(*command, "--force").code == 0
    assert (folder / "out.fly").read_bytes() == resumed


def test_compress_leaves_other_files_in_a_folder_named_partial(folder, cli):
    (folder / "trained.toml").write_text(TRAINED)
    own = folder / "out.fly.partial"
    (own / "photos").mkdir(parents=True)
    (own / "notes.txt").write_text("mine")
    (own / "photos" / "a.pt").write_text("mine too")
    assert cli(*COMPRESS, "--recipe", "trained.toml").code == 0
    assert sorted(path.name for path in own.rglob("*")) == ["a.pt", "notes.txt", "photos"]


def test_compress_needs_a_task(folder, refused):
    found = refused("compress", "tiny.safetensors", *TINY, "-o", "out.fly")
    assert "there is no task for tiny.safetensors; give --task package.module:function" in found


def test_evaluate_needs_a_metric(folder, refused):
    found = refused("evaluate", "tiny.fly", *TINY, "--task", "networks:unlabeled")
    assert 'returns no "evaluate"' in found


def test_evaluate_needs_an_architecture(folder, refused):
    assert "--architecture" in refused("evaluate", "tiny.fly", *TASK)
    assert "--architecture" in refused("evaluate", "tiny.safetensors", *TASK)


def test_a_network_by_name_is_named_in_the_file(folder, cli, monkeypatch):
    data = [(torch.randn(8, 3, 32, 32), torch.arange(8) % 10)]
    task = {"data": data, "evaluate": lambda model: float(model(data[0][0]).argmax(1)[0])}
    monkeypatch.setattr("flyweight.cifar.task", lambda **options: task)
    arguments = ("resnet20", "-o", "resnet20.fly", "--recipe", "tiny.toml", "--device", "cpu")
    report = cli("compress", *arguments, "--json").json()
    assert report["dense_bytes"] == 4 * 269_722
    assert cli("evaluate", "resnet20.fly", "--device", "cpu", "--json").json() == {
        "score": report["score_after"],
        "file_bytes": report["file_bytes"],
        "device": report["device"],
    }
    assert not flyweight.load("resnet20.fly").training
