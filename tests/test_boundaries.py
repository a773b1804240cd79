"""Imports run one way, the core knows no framework, and nothing knows a model by name."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "unifreeze"
LAYERS = [
    "_short_traceback",
    "_brief_values",
    "errors",
    "_arguments",
    "_tables",
    "_pictures",
    "_identity",
    "_undo",
    "_whole_files",
    "_wrong_files",
    "_files",
    "_structure",
    "_plan",
    "_resolution",
    "_numerics",
    "_protocol",
    "_modules",
    "_experiments",
    "_ports.weights",
    "_cache",
    "_handle",
    "_ports.pairing",
    "_authoring.capture",
    "_ports.carrying",
    "_evidence",
    "_authoring.compare",
    "_authoring.suggest",
    "_drawing",
    "backend",
    "testing",
    "_cli",
]
DOORS = {"unifreeze", "unifreeze.errors", "unifreeze.backend", "unifreeze.testing"}
"""What is meant for others; `unifreeze_x.trainers.y` besides. The rest begins with "_"."""
TRAINERS = {"torch": {"lightning", "transformers", "accelerate"}, "paddle": {"paddlenlp"}}
"""Libraries of trainers, each known to one file of its backend that is called after it."""
HELPERS = {"transformers": {"peft"}}
"""What a trainer itself leaves the saving of some models to."""
FRAMEWORKS = {"torch", "paddle", "torchvision", "peft", *TRAINERS["torch"], *TRAINERS["paddle"]}
LATE = {("_plan/delegations.py", "_handle"), ("_pictures.py", "_drawing")}
"""The exceptions: `plan.resolve` and `plan.apply` import the handle when they are called, and
results import what draws them when they are drawn."""
DELEGATIONS = ("unifreeze._plan.delegations", "unifreeze._pictures")
"""The modules whose imports may close a circle: the search for circles leaves them out."""
LONGEST_CIRCLE = 3
"""Files that may import each other, counting imports in functions and for type checkers."""

MODEL_FAMILIES = (
    "resnet|resnext|vgg|alexnet|densenet|mobilenet|efficientnet|convnext|swin|inception|googlenet|"
    "squeezenet|shufflenet|bert|ernie|roberta|electra|albert|bart|gpt|llama|qwen|mistral|mixtral|"
    "deberta|pegasus|bloom|clip_vision|yolo"
)


def python_files(*folders):
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    return files


def imports(file):
    """Every absolute import in a file, with whether it stands inside a function."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    typing_only = {
        id(node)
        for block in tree.body
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module, id(node) not in top


def layer_of(module):
    """The layer that a module is in, by the longest name that fits."""
    if not module.startswith("unifreeze."):
        return None
    parts = module.split(".")[1:]
    pair = ".".join(parts[:2])
    return pair if pair in LAYERS else parts[0]


@pytest.mark.parametrize("file", python_files("unifreeze"), ids=lambda f: str(f.relative_to(CORE)))
def test_the_core_imports_only_what_comes_before_it(file):
    place = str(file.relative_to(CORE))
    own = layer_of(".".join(["unifreeze", *file.relative_to(CORE).with_suffix("").parts]))
    if own in ("__init__", "__main__") or own not in LAYERS:
        assert file.name in ("__init__.py", "__main__.py"), f"{place} is in no layer"
        return
    for module, late in imports(file):
        used = layer_of(module)
        if used is None or (late and (place, used) in LATE):
            continue
        assert used in LAYERS, f"{place} imports {module}"
        assert LAYERS.index(used) <= LAYERS.index(own), f"{place} imports {module} from above"


@pytest.mark.parametrize("file", python_files("unifreeze"), ids=lambda f: str(f.relative_to(CORE)))
def test_the_core_imports_no_framework(file):
    roots = {module.partition(".")[0] for module, _ in imports(file)}
    assert not roots & FRAMEWORKS
    assert not {root for root in roots if root.startswith("unifreeze_")}


def test_what_module_backends_share_knows_no_experiment():
    """Not late, and not for types alone either."""
    files = python_files("unifreeze/_protocol", "unifreeze/_modules", "unifreeze/_numerics")
    assert [f for f in files if "unifreeze._experiments" in f.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("file", python_files("unifreeze"), ids=lambda f: str(f.relative_to(CORE)))
def test_the_core_names_no_backend(file):
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    assert not [text for text in texts if re.search("unifreeze_(torch|paddle)", text)]
    calls = [n for n in nodes if isinstance(n, ast.Call) and n.args]
    by_name = [n.args[0] for n in calls if ast.unparse(n.func).split(".")[-1] == "import_module"]
    literal = [argument.value for argument in by_name if isinstance(argument, ast.Constant)]
    assert not [module for module in literal if module.split(".")[0] in FRAMEWORKS]


def module_name(file, base):
    parts = file.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph():
    """For each of our modules those that it imports, in whatever place."""
    files = {module_name(file, ROOT): file for file in python_files("unifreeze")}
    files |= {module_name(file, ROOT / "backends"): file for file in python_files("backends")}
    graph = {name: set() for name in files}
    for name, file in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & files.keys()
            elif isinstance(node, ast.ImportFrom):
                members = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = {member if member in files else node.module for member in members}
                graph[name] |= (targets & files.keys()) - {name}
    return graph


def reachable(graph, start):
    seen, waiting = set(), [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def circles(graph):
    """Sets of modules each of which leads to all others of the set."""
    reach = {name: reachable(graph, name) for name in graph}
    sets = {
        frozenset(other for other in reach[name] if name in reach[other]) | {name}
        for name in graph
        if name in reach[name]
    }
    return sorted(sorted(names) for names in sets)


def test_circles_of_imports_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(graph) == [["a", "b", "c"], ["d", "e"]]


def test_no_circle_of_imports_is_long():
    graph = import_graph()
    for name in DELEGATIONS:
        assert any(name in names for names in circles(graph)), f"the exception {name} is not needed"
    graph.update((name, set()) for name in DELEGATIONS)
    assert [names for names in circles(graph) if len(names) > LONGEST_CIRCLE] == []


def test_what_is_no_door_begins_with_an_underscore():
    for file in CORE.iterdir():
        if file.suffix == ".py" or (file.is_dir() and file.name != "__pycache__"):
            name = file.stem
            assert name[0] == "_" or f"unifreeze.{name}" in DOORS, file
    for file in python_files("backends"):
        if file.name != "__init__.py" and file.parent.name != "trainers":
            assert file.name[0] == "_", file


@pytest.mark.parametrize(
    "folder",
    ["backends", "examples", "tests/support/toy_framework", "tests/support/tapeless_framework"],
)
def test_outsiders_come_in_by_the_doors(folder):
    for file in python_files(folder):
        used = {module for module, _ in imports(file) if module.partition(".")[0] == "unifreeze"}
        assert used <= DOORS, f"{file} imports {used - DOORS}"
        if folder != "backends":  # of the two backends, too, only what is not marked as internal
            shipped = ("unifreeze_torch.", "unifreeze_paddle.")
            modules = [module for module, _ in imports(file) if module.startswith(shipped)]
            assert not [module for module in modules if "._" in module], file


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_a_backend_imports_its_own_framework_alone(framework):
    for file in python_files(f"backends/unifreeze_{framework}"):
        roots = {module.partition(".")[0] for module, _ in imports(file)}
        here = file.parent.name == "trainers" and file.stem in TRAINERS[framework]
        own = {framework, file.stem, *HELPERS.get(file.stem, ())} if here else {framework}
        assert not roots & (FRAMEWORKS - own), file
        others = {root for root in roots if root.startswith("unifreeze_")}
        assert others <= {f"unifreeze_{framework}"}, file


@pytest.mark.parametrize("framework", ["torch", "paddle"])
def test_no_trainer_is_imported_by_what_is_not_called_after_it(framework):
    for file in python_files(f"backends/unifreeze_{framework}"):
        used = {module for module, _ in imports(file)}
        parts = {f"unifreeze_{framework}.trainers.{library}" for library in TRAINERS[framework]}
        assert not used & parts, file


def test_no_model_family_is_known_by_name():
    pattern = re.compile(rf"(?<![a-z])(?:{MODEL_FAMILIES})(?![a-z])|T5(?![a-z])|\bViT\b", re.I)
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in [
            *python_files("unifreeze", "backends"),
            CORE / "_plan" / "selectors" / "grammar.lark",
        ]
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found


def modules_after(code):
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in run.stdout.split("\n")[-2].split()}


def test_importing_unifreeze_loads_nothing_heavy():
    loaded = modules_after("import unifreeze")
    assert "unifreeze" in loaded
    assert not loaded & {*FRAMEWORKS, "numpy", "pydantic", "rich", "typer", "lark", "yaml"}


@pytest.mark.parametrize(("used", "other"), [("torch", "paddle"), ("paddle", "torch")])
def test_using_one_framework_never_imports_the_other(used, other):
    network = {
        "torch": "from torch import nn; m = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))",
        "paddle": "from paddle import nn; m = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))",
    }[used]
    loaded = modules_after(
        f"{network}\nimport unifreeze as uf\nh = uf.freeze(m, 'path:\"0\"'); h.verify(); h.remove()"
    )
    assert used in loaded
    assert other not in loaded


def test_the_public_names_are_few_and_load():
    import unifreeze

    assert len(unifreeze.__all__) <= 30
    for name in unifreeze.__all__:
        assert getattr(unifreeze, name).__name__ == name
