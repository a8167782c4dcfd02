"""comparison/identity.py: what makes two runs the same."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from conftest import copy_code

import main
from comparison import identity
from comparison.identity import group_folder, run_folder
from main import Args
from utils.settings import setting

DATA = ("a digest", "another")


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A copy of the code, whose identity is asked for."""
    copy_code(tmp_path, "*.py", "utils/*.py")
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    where = SimpleNamespace(
        unwrap=lambda function: function, getfile=lambda function: tmp_path / "main.py"
    )
    monkeypatch.setattr(identity, "inspect", where)
    return tmp_path


def folder(model_type="LeNet5", data=DATA, **settings):
    """Return the folder of a run."""
    args = Args(device="cpu", **settings)
    args.model_type = model_type  # which only the copy may know
    return run_folder(args, group_folder(args, data))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    identity._definitions.cache_clear()


def test_other_code_is_another_run(code):
    folders = [folder()]
    for name, old, new in (
        ("model.py", "x = F.relu(self.fc1(x.flatten(1)))", "x = self.fc1(x.flatten(1))"),
        ("main.py", "optimizer.zero_grad()", "optimizer.zero_grad(set_to_none=False)"),
        ("main.py", "EVALUATION_BATCH = 1000", "EVALUATION_BATCH = 500"),
        ("dataset.py", "MEAN, STD = 0.1307, 0.3081", "MEAN, STD = 0.5, 0.5"),
        ("utils/augment.py", "KNOTS = 4", "KNOTS = 5"),
        ("utils/device.py", 'debug_mode("error")', 'debug_mode("warn")'),
        ("utils/classes.py", '"0123456789"', '"abcdefghij"'),
    ):
        edit(code / name, old, new)
        folders.append(folder())
        assert folders[-1] != folders[-2], old


@pytest.mark.parametrize("module, indent", [
    ("my.losses", ""), ("metrics", ""), ("experiments.losses", ""), ("losses", "    "),
])  # fmt: skip
def test_code_in_a_file_of_ones_own_counts(code, module, indent):
    path = code / f"{module.replace('.', '/')}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("from .deeper import focal")
    (path.parent / "deeper.py").write_text("def focal(logits, labels): return logits")
    edit(code / "main.py", "loss = F.cross_entropy", "loss = smooth")
    place = "    logits = model(images)\n" if indent else "import torch\n"
    edit(code / "main.py", place, f"{place}{indent}from {module} import focal as smooth\n")
    before = folder()
    edit(path.parent / "deeper.py", "return logits", "return labels")
    assert folder() != before


def test_every_statement_that_says_what_a_name_is_counts(code):
    edit(code / "main.py", "optimizer.zero_grad()", "optimizer.zero_grad(GAMMA, args.scaled)")
    statements = (
        ("main.py", "BEST:", "GAMMA = 2.0\nGAMMA = GAMMA * 2\n", "2.0", "3.0"),
        ("main.py", "BEST:", "torch.set_flush_denormal(True)\n", "True", "False"),
        ("main.py", "BEST:", "if torch:\n    torch.set_num_threads(8)\n", "8", "9"),
        ("main.py", "    def __post", "    @property\n    def scaled(self): return 1\n", "1", "2"),
        ("model.py", "PALETTE", "LeNet5.forward = CustomMLP.forward\n", "CustomMLP", "LeNet5"),
    )
    for name, place, statement, *_ in statements:
        edit(code / name, place, f"{statement}{place}")
    folders = [folder()]
    for name, _, statement, old, new in statements:
        edit(code / name, statement, statement.replace(old, new))
        folders.append(folder())
        assert folders[-1] != folders[-2], statement


@pytest.mark.parametrize("found", ["getattr(losses, 'focal')", "getattr(losses, args.schedule)"])
def test_code_that_a_text_names_counts(code, found, monkeypatch):
    (code / "losses.py").write_text("def focal(logits, labels): return logits")
    edit(code / "main.py", "import torch\n", "import losses\nimport torch\n")
    edit(code / "main.py", "loss = F.cross_entropy", f"loss = {found}")
    field = next(field for field in dataclasses.fields(Args) if field.name == "schedule")
    monkeypatch.setattr(field, "metadata", field.metadata | {"choices": ("constant", "focal")})
    before = folder(schedule="focal")
    edit(code / "losses.py", "return logits", "return labels")
    assert folder(schedule="focal") != before


@pytest.mark.parametrize("line", [
    'MODELS["MyNet"] = MyNet', 'MODELS |= {"MyNet": MyNet}',
    'MODELS["MyNet"] = functools.partial(MyNet, 8)',
])  # fmt: skip
def test_a_network_may_be_added_by_a_line_of_its_own(code, monkeypatch, line):
    edit(code / "model.py", "PALETTE", f"class MyNet(LeNet5):\n    width = 1\n\n\n{line}\nPALETTE")
    monkeypatch.setitem(main.MODELS, "MyNet", type("MyNet", (), {}))
    lenet, mine = folder(), folder("MyNet")
    edit(code / "model.py", "width = 1", "width = 2")
    assert folder().name == lenet.name and folder("MyNet") != mine
    edit(code / "model.py", "x = F.relu(self.fc2(x))", "x = self.fc2(x)")
    assert folder() != lenet


@pytest.mark.parametrize("made, other", [
    ("wide(8)", "wide(9)"),
    ("lambda: wide(8)()", "lambda: wide(9)()"),
    ("functools.partial(Wide, 8)", "functools.partial(Wide, 9)"),
])  # fmt: skip
def test_of_a_network_all_counts_that_makes_it(code, made, other):
    path = code / "model.py"
    edit(path, "MODELS:", "def wide(n):\n    class Wide(LeNet5):\n        width = n\n\n"
         "    return Wide\n\n\nclass Wide(LeNet5):\n    width = 1\n\n\nMODELS:")  # fmt: skip
    edit(path, '"CustomMLP": CustomMLP,', f'"CustomMLP": {made},')
    folders = {folder("CustomMLP")}
    edit(path, made, other)
    folders.add(folder("CustomMLP"))
    for width in ("width = n", "width = 1"):  # of the one that is used
        edit(path, width, f"{width} + 1")
    folders.add(folder("CustomMLP"))
    assert len(folders) == 3


def test_another_network_or_text_for_people_changes_nothing(code):
    before, other = folder(), folder("CustomMLP")
    edit(code / "model.py", "MODELS:", "class MyNet(LeNet5):\n    pass\n\n\nMODELS:")
    edit(code / "model.py", '"CustomMLP": CustomMLP,', '"CustomMLP": CustomMLP, "MyNet": MyNet,')
    (code / "main_before.py").write_text("def train(:")  # nobody imports it
    edit(code / "model.py", "LeNet-5 with ReLU", "LeNet-5, as it is today, with ReLU")
    edit(code / "model.py", "x = F.relu(self.fc2(x))", "x = F.relu( self.fc2(x) )  # why")
    epochs = "    epochs: int ="
    edit(code / "main.py", epochs, f"    clip: float = setting(0.0, 'norm')\n{epochs}")
    edit(code / "main.py", '"weight_decay": 0.0003', '"weight_decay": 0.1')  # of a recipe
    edit(code / "utils/files.py", "os.fsync(file.fileno())", "pass")
    assert (folder(), folder("CustomMLP")) == (before, other)
    edit(code / "model.py", "nn.Linear(28 * 28, 56)", "nn.Linear(28 * 28, 57)")
    assert folder() == before and folder("CustomMLP") != other
    assert folder("CustomMLP").parent == other.parent  # still the same comparison


def test_settings_data_device_threads_processes_and_pytorch_are_part_of_it(monkeypatch, tmp_path):
    before = folder()
    assert folder(data_dir="elsewhere") == before
    assert folder(seed=7).parent == folder("CustomMLP").parent == before.parent
    settings = {"lr": 0.5, "deskew": True, "threads": 2, "epochs": 3, "seed": 7,
                "model_type": "CustomMLP"}  # fmt: skip
    others = [folder(**{name: value}) for name, value in settings.items()]
    for name in ("weights", "copy", "other weights"):
        (tmp_path / name).write_text(name.replace("copy", "weights"))
        others.append(folder(init=str(tmp_path / name)))
    assert others[-3] == others.pop(-2)  # what the file holds, not where it lies
    others += [folder(data=data) for data in (("a digest", "a third"), ("a third", "another"))]
    monkeypatch.setattr(identity, "world_size", lambda: 2)
    others.append(folder())
    monkeypatch.setattr(identity, "select_device", lambda _: torch.device("cuda"))
    others.append(folder())
    monkeypatch.setattr("torch.__version__", "0.0")
    assert len({before, *others, folder()}) == 14


def test_a_file_that_a_setting_names_counts_by_its_content(tmp_path):
    field = ("teacher", str, setting("", "file of weights to learn from"))
    args_class = dataclasses.make_dataclass("OwnArgs", [field], bases=(Args,))
    folders = []
    for name, content in (("weights", "a"), ("copy", "a"), ("weights", "b")):
        path = tmp_path / name
        path.write_text(content)
        folders.append(group_folder(args_class(device="cpu", teacher=str(path)), DATA))
    first, copied, changed = folders
    assert first == copied != changed
