import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dermaffinity.data.adapters.dermofit import PUBLISHED_COUNTS, DermofitAdapter, lesion_group
from dermaffinity.data.adapters.phantom import PhantomAdapter, draw_lesion, draw_lesions, write_phantom
from dermaffinity.errors import DataError


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "library"
    write_phantom(folder, fraction=0.05, image_size=48, seed=3)
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_ids_have_dermofits_grammar_and_its_persons_with_several_lesions():
    lesions = draw_lesions(PUBLISHED_COUNTS, seed=0)
    assert Counter(label for _, label in lesions) == PUBLISHED_COUNTS
    assert len({identifier.lower() for identifier, _ in lesions}) == 1300
    assert all(re.fullmatch(r"[ABCDGPT]\d+[a-z]?", identifier) for identifier, _ in lesions)
    persons = Counter(lesion_group(identifier) for identifier, _ in lesions)
    assert Counter(persons.values()) == {1: 917, 2: 116, 3: 21, 4: 10, 5: 6, 6: 3}
    classes = {}
    for identifier, label in lesions:
        classes.setdefault(lesion_group(identifier), set()).add(label)
    # Dermofit: 51 of 156.
    assert 35 <= sum(len(labels) > 1 for labels in classes.values()) <= 110


def test_the_library_reads_through_the_dermofit_adapter_like_the_real_thing(phantom):
    counts = {code: max(6, round(count * 0.05)) for code, count in PUBLISHED_COUNTS.items()}
    manifest = PhantomAdapter(phantom).prepare()
    assert (manifest.name, manifest.adapter) == ("phantom-10", "phantom")
    assert manifest.class_counts() == counts
    assert manifest.rows["mask"].notna().all()
    with pytest.raises(DataError, match="not the published library") as caught:
        list(DermofitAdapter(phantom).records())
    assert all("published are" in problem for problem in caught.value.problems)
    assert PhantomAdapter(phantom, experiment="5-class").prepare(folds=2).name == "phantom-5"


def test_layout_masks_and_lesion_list_are_dermofits(phantom):
    assert {path.name for path in phantom.iterdir()} == {*(code.lower() for code in PUBLISHED_COUNTS), "lesionlist.txt"}
    lines = (phantom / "lesionlist.txt").read_text().splitlines()
    sizes = set()
    for line in lines:
        _, identifier, code = re.fullmatch(r"( *\d+)   (\w+)   ([A-Z]+)", line).groups()
        image = Image.open(phantom / code.lower() / identifier / f"{identifier}.png")
        mask = np.asarray(Image.open(phantom / code.lower() / identifier / f"{identifier}mask.png"))
        assert image.mode == "RGB"
        assert image.size == mask.shape[::-1]
        assert set(np.unique(mask)) == {0, 255}
        assert 0.03 < (mask > 0).mean() < 0.9
        sizes.add(image.size)
    assert len(lines) == len(list(phantom.rglob("*mask.png")))
    assert max(max(size) for size in sizes) == 48
    assert len(sizes) > 5


def test_the_same_seed_gives_the_same_library_and_another_gives_another(phantom, tmp_path):
    write_phantom(tmp_path / "again", fraction=0.05, image_size=48, seed=3)
    write_phantom(tmp_path / "other", fraction=0.05, image_size=48, seed=4)
    assert contents(tmp_path / "again") == contents(phantom)
    assert not set(contents(tmp_path / "other").values()) & {
        digest for path, digest in contents(phantom).items() if not path.endswith("mask.png")
    }


def test_lesions_of_one_person_share_the_skin():
    def skin(identifier):
        image, mask = draw_lesion("ML", identifier, image_size=48)
        return np.median(image[mask == 0], axis=0)

    within = np.mean([np.abs(skin(f"B{number}a") - skin(f"B{number}b")).mean() for number in range(15)])
    between = np.mean([np.abs(skin(f"B{number}a") - skin(f"B{number + 1}a")).mean() for number in range(15)])
    assert within < 0.8 * between


def test_classes_can_be_learned_but_not_by_color_alone():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = [], []
    for number, label in enumerate(label for label in ("AK", "BCC", "ML", "SCC", "SK") for _ in range(40)):
        image, mask = draw_lesion(label, f"B{number + 1}", image_size=64)
        lesion, skin = image[mask > 0] / 255, image[mask == 0] / 255
        features.append(np.concatenate([lesion.mean(axis=0) / skin.mean(axis=0), lesion.std(axis=0)]))
        labels.append(label)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    score = balanced_accuracy_score(labels, cross_val_predict(classifier, np.array(features), labels, cv=3))
    assert 0.45 < score < 0.85


def test_an_existing_folder_is_kept_and_an_interrupted_call_leaves_none(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"precious")
    with pytest.raises(DataError, match="holds something already"):
        write_phantom(tmp_path / "mine")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "new", fraction=0.01, image_size=32, on_progress=interrupt)
    assert not (tmp_path / "new").exists()
    write_phantom(tmp_path / "new", fraction=0.01, image_size=32)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "new"}
    assert len(list(Path(tmp_path / "new").rglob("*mask.png"))) == 60


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written: Not a directory"):
        write_phantom(tmp_path / "file" / "library")


@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"fraction": 1.5}, {"image_size": 16}])
def test_arguments_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="must be"):
        write_phantom(tmp_path / "library", **options)
