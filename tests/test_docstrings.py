"""Everything public says by an example how it is used, and the example is right."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch
from PIL import Image

import dermaffinity

PACKAGES = ["dermaffinity"] + [
    module.name for module in pkgutil.walk_packages(dermaffinity.__path__, "dermaffinity.") if module.ispkg
]
EXAMPLES = "Examples:\n"
CONFIG = """\
method: {method}
data: {{manifest: data_manifests/library.csv, image_size: 32}}
augmentation: {{class: dermaffinity.data.augmentation.NoAugmentation}}
backbone: {{class: dermaffinity.models.SmallConvNet}}
training: {{epochs: 1, batch_size: 8}}
"""
PREDICTIONS = """\
image,group,label,fold,seed,predicted,p.AK,p.ML
a.jpg,P1,AK,0,0,AK,0.9,0.1
b.jpg,P1,AK,0,0,AK,0.7,0.3
c.jpg,P2,AK,1,0,ML,0.4,0.6
d.jpg,P3,AK,1,0,AK,0.8,0.2
e.jpg,P4,ML,0,0,ML,0.1,0.9
f.jpg,P5,ML,0,0,ML,0.2,0.8
g.jpg,P6,ML,1,0,AK,0.6,0.4
h.jpg,P6,ML,1,0,ML,0.3,0.7
"""


def public(package: str) -> dict[str, object]:
    """The classes and functions that a package names in ``__all__``; constants are left out."""
    module = importlib.import_module(package)
    named = {f"{package}.{name}": getattr(module, name) for name in module.__all__}
    return {name: value for name, value in named.items() if inspect.isclass(value) or inspect.isfunction(value)}


PUBLIC = {name: value for package in PACKAGES for name, value in public(package).items()}


@pytest.fixture(scope="session")
def workplace(fresh_folder, phantom_library, phantom_manifest, toy_model):
    """Where the examples are run: libraries, a manifest, a classifier, experiments, predictions, an image."""
    folder = fresh_folder("workplace")
    (folder / "FOLDER").symlink_to(phantom_library)
    (folder / "data_manifests").mkdir()
    for path in (phantom_manifest, phantom_manifest.with_suffix(".root")):
        (folder / "data_manifests" / f"library{path.suffix}").symlink_to(path)
    (folder / "runs").mkdir()
    (folder / "runs" / "library_affinity_plus").symlink_to(toy_model)
    lesion = min(path for path in phantom_library.rglob("*.png") if not path.stem.endswith("mask"))
    Image.open(lesion).save(folder / "lesion.jpg")
    (folder / "out_of_fold.csv").write_text(PREDICTIONS)
    for number, name in enumerate(["melanoma", "nevus"] * 3):
        path = folder / "PHOTOS" / name / f"P{number}_a.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (40 * number, 90, 60)).save(path)
    tabled = ["id,diagnosis,patient,age"]
    for number, name in enumerate(["melanoma", "nevus"] * 3):
        (folder / "TABLED").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (40 * number, 60, 90)).save(folder / f"TABLED/photo{number}.jpg")
        tabled.append(f"photo{number},{name},P{number},{40 + number}")
    (folder / "TABLED/labels.csv").write_text("\n".join(tabled))
    for method in ("softmax", "cosen"):
        (folder / f"small_{method}.yaml").write_text(CONFIG.format(method=method))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        dermaffinity.crossval(["small_softmax.yaml", "small_cosen.yaml"])
    return folder


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_of_it_is_public(package):
    module = importlib.import_module(package)
    assert isinstance(module.__all__, list)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_has_an_example(name):
    documentation = inspect.getdoc(PUBLIC[name]) or ""
    assert EXAMPLES in documentation, f"{name}: its docstring lacks 'Examples:' and a line that begins with >>>"
    assert ">>> " in documentation.partition(EXAMPLES)[2]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_print_what_they_say(name, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    torch.manual_seed(0)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner, printed = doctest.DocTestRunner(optionflags=flags), []
    # An example begins with its imports, so that it can be copied.
    for test in doctest.DocTestFinder().find(PUBLIC[name], name, globs={}):
        runner.run(test, out=printed.append)
    assert not runner.failures, "".join(printed)
