import pytest

from dermaffinity.data.decisions import apply_decisions
from dermaffinity.data.manifest import read_manifest, write_manifest
from dermaffinity.errors import DataError


@pytest.fixture
def manifest(phantom_manifest):
    return read_manifest(phantom_manifest)


def decided(tmp_path, *lines):
    path = tmp_path / "decisions.csv"
    path.write_text("\n".join(["image;decision;new_label;note", *lines]))  # as a spreadsheet may save it
    return path


def test_images_are_dropped_and_relabeled_and_the_manifest_says_so(manifest, tmp_path):
    first, second, third = manifest.rows["image"][:3]
    new = next(name for name in manifest.classes if name != manifest.rows["label"][1])
    path = decided(tmp_path, f"{first};drop;;", f"{second}; Relabel;{new};mine", f"{third};;{new};empty is keep")
    after = apply_decisions(manifest, path)
    assert first not in set(after.rows["image"])
    changed = after.rows.set_index("image").loc[[second, third], "label"].tolist()
    assert changed == [new, manifest.rows["label"][2]]
    kept = manifest.rows.set_index("image")["fold"]
    assert (after.rows.set_index("image")["fold"] == kept.drop(first)).all()
    write_manifest(after, tmp_path / "after.csv")
    assert read_manifest(tmp_path / "after.csv").decisions.startswith(
        "1 dropped, 1 relabeled by decisions.csv, sha256 "
    )
    assert after.split_hash != manifest.split_hash


def test_everything_that_cannot_be_applied_is_listed(manifest, tmp_path):
    first, second = manifest.rows["image"][:2]
    path = decided(tmp_path, "gone.png;drop;;", f"{first};delete;;", f"{second};relabel;melanoma;", f"{first};drop;;")
    with pytest.raises(DataError, match="these decisions cannot be applied; nothing was written") as error:
        apply_decisions(manifest, path)
    assert [problem.partition(": ")[2] or problem for problem in error.value.problems] == [
        "no such image in phantom-5",
        "the decision is 'delete'; allowed are keep, relabel, drop",
        f"the new label is 'melanoma'; the classes are {', '.join(manifest.classes)}",
        f"{first} is decided about more than once",
    ]


def test_prepare_applies_them(phantom_library, tmp_path):
    from dermaffinity.experiments.prepare import prepare

    whole = prepare("phantom", phantom_library, experiment="5-class", out=tmp_path / "whole.csv")
    path = decided(tmp_path, f"{whole.rows['image'][0]};drop;;")
    after = prepare("phantom", phantom_library, experiment="5-class", out=tmp_path / "after.csv", decisions=path)
    assert len(after.rows) == len(whole.rows) - 1
    assert after.decisions.startswith("1 dropped")
