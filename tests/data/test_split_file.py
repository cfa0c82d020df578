from collections import Counter
from pathlib import Path

import pytest

from dermaffinity.data.adapters.ham10000 import DRAWS, Ham10000Adapter
from dermaffinity.data.split_file import read_split, write_split
from dermaffinity.errors import ConfigError, ManifestError
from dermaffinity.experiments.prepare import prepare


@pytest.fixture
def drawn(ham_source, monkeypatch):
    """A draw of two classes from a tiny HAM10000; the rest is external."""
    monkeypatch.setitem(DRAWS, "hamfit-5", {"akiec": 4, "bcc": 4, "mel": 4})
    return Ham10000Adapter(ham_source, experiment="hamfit-5").prepare(folds=2)


def larger(fake, tmp_path):
    """The same library of other files, unpacked into other folders."""
    files, lines = fake.ham_tables()
    images = [path for path in files if path.endswith(".jpg")]
    files = {f"pictures/{path.rpartition('/')[2]}": fake.picture(7 + n, "jpg") for n, path in enumerate(images)}
    return fake.write_tree(tmp_path / "larger", files | {"HAM10000_metadata.csv": "\n".join(lines).encode()})


def test_a_split_lists_ids_and_folds_and_is_adopted_by_another_copy_with_its_own_hashes(fake, tmp_path, drawn):
    write_split(drawn, tmp_path / "split.csv")
    text = (tmp_path / "split.csv").read_text()
    assert "# others: external" in text
    assert text.splitlines()[12] == "image,label,group,fold"
    assert len(text.splitlines()) == 13 + 12
    assert not any(digest in text for digest in drawn.rows["sha256"])
    source = larger(fake, tmp_path)
    adopted = prepare("ham10000", source, split=tmp_path / "split.csv", out=tmp_path / "own.csv")
    assert adopted.split_hash == drawn.split_hash
    assert adopted.images_digest != drawn.images_digest
    assert (adopted.name, adopted.experiment, adopted.classes) == ("hamfit-5", "hamfit-5", ("akiec", "bcc", "mel"))
    assert len(adopted.external()) == len(drawn.external()) > 0
    folds = {
        tuple(manifest.development().assign(id=manifest.development()["image"].str[-16:])[["id", "fold"]].to_numpy()[k])
        for manifest in (drawn, adopted)
        for k in range(12)
    }
    assert len(folds) == 12
    write_split(adopted, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == text
    assert (
        prepare("ham10000", source, split=tmp_path / "own.csv", out=tmp_path / "b.csv").split_hash == drawn.split_hash
    )


def test_a_whole_manifest_and_images_without_groups_can_be_adopted_too(fake, tmp_path):
    files = {f"{label}/{n}.png": fake.picture(n) for n, label in enumerate("aabbab")}
    first = prepare("image_folder", fake.write_tree(tmp_path / "a", files), out=tmp_path / "a.csv", folds=2)
    moved = {path.replace("/", "/in/"): fake.picture(99) for path in files}
    second = prepare("image_folder", fake.write_tree(tmp_path / "b", moved), split=first.path, out=tmp_path / "b.csv")
    assert second.split_hash == first.split_hash
    assert (second.rows["group"] == second.rows["image"]).all()


def test_what_does_not_fit_the_split_is_told_at_once(fake, tmp_path, drawn):
    write_split(drawn, tmp_path / "split.csv")
    source = larger(fake, tmp_path)
    lines = (tmp_path / "split.csv").read_text().replace(",mel,", ",akiec,", 1).replace("ISIC_", "ISIX_", 1)
    (tmp_path / "split.csv").write_text(lines)
    with pytest.raises(ManifestError, match="this split is not of this library") as caught:
        prepare("ham10000", source, split=tmp_path / "split.csv", out=tmp_path / "own.csv")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        f"1 image of the split not in {source.resolve()}",
        "1 image with another label than in the split",
    ]
    for options in ({"experiment": "all"}, {"folds": 3}, {"protocol": "image"}):
        with pytest.raises(ConfigError, match="is a split of another kind"):
            prepare("ham10000", source, split=tmp_path / "split.csv", **options)
    with pytest.raises(ManifestError, match="no such split"):
        prepare("ham10000", source, split=tmp_path / "none.csv")
    (tmp_path / "split.csv").write_text("image,label,group,fold\nx,a,g,none\nx,a,g,1\n")
    with pytest.raises(ManifestError, match=r"this split cannot be used") as caught:
        read_split(tmp_path / "split.csv")
    assert {"listed twice: x", "the fold 'none' is no number"} <= set(caught.value.problems)


def test_a_library_with_other_external_images_is_not_taken_for_the_splits(fake, tmp_path, drawn):
    write_split(drawn, tmp_path / "split.csv")
    source = larger(fake, tmp_path)
    lines = (source / "HAM10000_metadata.csv").read_text().splitlines()
    gone = next(
        line for line in lines[1:] if line.split(",")[1] not in (tmp_path / "split.csv").read_text() and "mel" in line
    )
    (source / f"pictures/{gone.split(',')[1]}.jpg").unlink()
    (source / "HAM10000_metadata.csv").write_text("\n".join(line for line in lines if line != gone))
    with pytest.raises(
        ManifestError, match=r"the split .* cannot be adopted, because the images beside those it lists"
    ):
        prepare("ham10000", source, split=tmp_path / "split.csv", out=tmp_path / "own.csv")


def test_a_manifest_never_overwrites_the_split_it_adopts(fake, tmp_path, drawn, monkeypatch):
    write_split(drawn, tmp_path / "data_manifests/hamfit-5.csv")
    source = larger(fake, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is the split itself; name another file for the manifest with --out"):
        prepare("ham10000", source, split="data_manifests/hamfit-5.csv")
    assert "others: external" in (tmp_path / "data_manifests/hamfit-5.csv").read_text()


def test_the_published_splits_are_read_and_have_the_counts_that_their_readme_states():
    folder = Path(__file__).resolve().parents[2] / "data_manifests/splits"
    counts = {
        "hamfit-7": {"akiec": 123, "bcc": 239, "bkl": 257, "df": 65, "mel": 76, "nv": 331, "vasc": 121},
        "hamfit-5": {"akiec": 45, "bcc": 239, "bkl": 257, "mel": 88, "nv": 331},
        "ham10000": {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142},
    }
    assert {path.stem for path in folder.glob("*.csv")} == set(counts)
    for name, expected in counts.items():
        split = read_split(folder / f"{name}.csv")
        assert Counter(split.rows["label"]) == expected
        assert set(split.rows["fold"]) == {0, 1, 2}
        assert split.rows.groupby("group")["fold"].nunique().max() == 1
        assert split.header["split_hash"][:12] in (folder.parent / "README.md").read_text()
