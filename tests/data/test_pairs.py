import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermaffinity.data.pairs import (
    COLUMNS,
    all_pairs,
    balanced,
    read_agedb_pairs,
    read_cfp_pairs,
    read_lfw_pairs,
    read_ytf_pairs,
    template_images,
)
from dermaffinity.errors import DataError

LFW = """\
2\t2
Abel_Pacheco\t1\t4
Akhmed_Zakayev\t1\t3
Abdel_Madi_Shabneh\t1\tDean_Barker\t1
Abdul_Rahman\t1\tPortia_de_Rossi\t12
Alan_Ball\t1\t2
Albert_Costa\t2\t6
Aaron_Eckhart\t1\tTom_Ridge\t1
AJ_Lamas\t1\tZach_Safrin\t1
"""
YTF = """\
split number, pair number, first name, second name, is same
1, 1, Phil_Morris/1, Phil_Morris/3, 1
1, 2, Aaron_Eckhart/0, Abel_Pacheco/2, 0
2, 1, Alan_Ball/0, Alan_Ball/4, 1
2, 2, Tom_Ridge/5, Zach_Safrin/1, 0, note
"""
AGEDB = """\
0_MariaCallas_35_f.jpg 5_MariaCallas_65_f.jpg 1
0_MariaCallas_35_f.jpg 77_GlennClose_40_f.jpg 0
112x112/12.jpg 112x112/13.jpg 1
9_AvaGardner_22_f.jpg 78_GlennClose_70_f.jpg 0
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def write_cfp(root: Path) -> Path:
    for kind, letter, count in (("frontal", "F", 4), ("profile", "P", 3)):
        lines = [f"{n} ../Data/Images/{(n + 1) // 2:03d}/{kind}/{n:02d}.jpg\n" for n in range(1, count + 1)]
        written(root, f"Protocol/Pair_list_{letter}.txt", "".join(lines))
    for kind in ("FF", "FP"):
        for fold in ("01", "02"):
            written(root, f"Protocol/Split/{kind}/{fold}/same.txt", "1,2\n" if fold == "01" else "3,3\n")
            written(root, f"Protocol/Split/{kind}/{fold}/diff.txt", "1,3\n2,3\n")
    return root


def test_lfw_pairs_name_images_with_four_digits_in_folds_of_matched_then_mismatched(tmp_path):
    pairs = read_lfw_pairs(written(tmp_path, "pairs.txt", LFW))
    assert tuple(pairs.columns) == COLUMNS
    assert pairs["same"].tolist() == [True, True, False, False] * 2
    assert pairs["fold"].tolist() == [0] * 4 + [1] * 4
    assert pairs.loc[0, "first"] == "Abel_Pacheco/Abel_Pacheco_0001.jpg"
    assert pairs.loc[3, "second"] == "Portia_de_Rossi/Portia_de_Rossi_0012.jpg"
    assert pairs.loc[3, ["first_identity", "second_identity"]].tolist() == ["Abdul_Rahman", "Portia_de_Rossi"]


def test_a_development_list_of_lfw_is_one_fold(tmp_path):
    pairs = read_lfw_pairs(written(tmp_path, "pairsDevTest.txt", "2\n" + "\n".join(LFW.splitlines()[1:5])))
    assert pairs["fold"].tolist() == [0] * 4
    assert pairs["same"].tolist() == [True, True, False, False]


@pytest.mark.parametrize("change", [lambda t: t.replace("\n", "\r\n"), lambda t: "\ufeff" + t, lambda t: t + "\n \n"])
def test_line_ends_a_byte_order_mark_and_empty_lines_change_nothing(tmp_path, change):
    for name, text, read in (("l", LFW, read_lfw_pairs), ("y", YTF, read_ytf_pairs)):
        plain = read(written(tmp_path, name, text))
        assert read(written(tmp_path, name, change(text))).equals(plain)


def test_every_bad_line_of_lfw_is_told_at_once(tmp_path):
    text = LFW.replace("Abel_Pacheco\t1\t4", "Abel_Pacheco\t1").replace("Alan_Ball\t1\t2", "Alan_Ball\tone\t2")
    with pytest.raises(DataError, match="compare the file with the dataset's own") as caught:
        read_lfw_pairs(written(tmp_path, "pairs.txt", text))
    assert caught.value.problems == (
        "2 lines, expected 'name n1 n2' or 'name1 n1 name2 n2', found line 2: 'Abel_Pacheco\\t1', line 6: "
        "'Alan_Ball\\tone\\t2'",
    )


def test_lfw_folds_must_hold_what_the_first_line_announces(tmp_path):
    short = "\n".join(LFW.splitlines()[:-1])
    with pytest.raises(DataError, match="fold 2 has 1 mismatched pairs, the first line announces 2"):
        read_lfw_pairs(written(tmp_path, "pairs.txt", short))
    with pytest.raises(DataError, match="fold 3 has 1 mismatched pairs, the first line announces 0"):
        read_lfw_pairs(written(tmp_path, "pairs.txt", LFW + "A\t1\tB\t1\n"))
    with pytest.raises(DataError, match=r"line 1: expected the numbers.*found 'Abel_Pacheco"):
        read_lfw_pairs(written(tmp_path, "pairs.txt", "\n".join(LFW.splitlines()[1:])))


def test_ytf_pairs_are_folders_of_frames_and_splits_count_from_one(tmp_path):
    pairs = read_ytf_pairs(written(tmp_path, "splits.txt", YTF))
    assert pairs["fold"].tolist() == [0, 0, 1, 1]
    assert pairs["same"].tolist() == [True, False, True, False]
    assert pairs.loc[1, "second"] == "Abel_Pacheco/2"
    assert pairs.loc[1, "second_identity"] == "Abel_Pacheco"
    without_names = read_ytf_pairs(written(tmp_path, "splits.txt", "\n".join(YTF.splitlines()[1:])))
    assert without_names.equals(pairs)
    assert read_ytf_pairs(written(tmp_path, "splits.txt", YTF.replace("/", "\\"))).equals(pairs)


def test_every_bad_line_of_ytf_is_told_at_once(tmp_path):
    text = YTF.replace("Phil_Morris/1", "Phil_Morris").replace("4, 1\n", "4, yes\n") + "0, 1, A/1, B/1, 1\n3, 1, A/1\n"
    with pytest.raises(DataError) as caught:
        read_ytf_pairs(written(tmp_path, "splits.txt", text))
    (problem,) = caught.value.problems
    assert re.findall(r"line \d", problem) == ["line 2", "line 4", "line 6", "line 7"]
    assert problem.startswith("4 lines, expected 'split, number, name/video, name/video, 0 or 1', found line 2: ")
    with pytest.raises(DataError, match="there is no pair in it"):
        read_ytf_pairs(written(tmp_path, "splits.txt", YTF.splitlines()[0]))


def test_cfp_numbers_stand_for_images_and_the_second_of_fp_for_a_profile(tmp_path):
    root = write_cfp(tmp_path)
    frontal, profile = read_cfp_pairs(root, "FF"), read_cfp_pairs(root, "FP")
    assert frontal["fold"].tolist() == profile["fold"].tolist() == [0, 0, 0, 1, 1, 1]
    assert frontal["same"].tolist() == [True, False, False] * 2
    assert frontal.loc[1, ["first", "second"]].tolist() == [
        "Data/Images/001/frontal/01.jpg", "Data/Images/002/frontal/03.jpg"
    ]  # fmt: skip
    assert profile.loc[1, ["first", "second"]].tolist() == [
        "Data/Images/001/frontal/01.jpg", "Data/Images/002/profile/03.jpg"
    ]  # fmt: skip
    assert profile.loc[1, ["first_identity", "second_identity"]].tolist() == ["001", "002"]


def test_every_bad_line_of_cfp_is_told_at_once(tmp_path):
    root = write_cfp(tmp_path)
    written(root, "Protocol/Split/FP/01/diff.txt", "1,4\n1 2\n2,3\n")  # there are three profiles
    written(root, "Protocol/Pair_list_F.txt", (root / "Protocol/Pair_list_F.txt").read_text() + "5 ../../../etc/a/b\n")
    with pytest.raises(DataError) as caught:
        read_cfp_pairs(root, "FP")
    assert caught.value.problems == (
        "1 line, expected '1 ../Data/Images/001/frontal/01.jpg' or the like, found Pair_list_F.txt line 5: "
        "'5 ../../../etc/a/b'",
        "2 lines, expected two numbers of the lists, found FP/01/diff.txt line 1: '1,4', FP/01/diff.txt line 2: '1 2'",
    )


def test_agedb_folds_are_equal_parts_and_identities_come_from_its_own_names(tmp_path):
    pairs = read_agedb_pairs(written(tmp_path, "agedb_30_pair.txt", AGEDB), folds=2)
    assert pairs["fold"].tolist() == [0, 0, 1, 1]
    assert pairs["same"].tolist() == [True, False, True, False]
    assert pairs["second_identity"].tolist()[:2] == ["MariaCallas", "GlennClose"]
    assert pairs.loc[2, ["first_identity", "second_identity"]].isna().all()
    with pytest.raises(DataError, match="4 pairs cannot be cut into 10 equal folds"):
        read_agedb_pairs(tmp_path / "agedb_30_pair.txt")
    with pytest.raises(DataError, match="1 line, expected 'image image 0' or 'image image 1', found line 1: 'a b 2'"):
        read_agedb_pairs(written(tmp_path, "agedb_30_pair.txt", "a b 2\na b 1\n"), folds=2)


@pytest.mark.parametrize("read", [read_lfw_pairs, read_ytf_pairs, read_agedb_pairs])
def test_missing_empty_and_binary_files_are_one_clear_sentence(tmp_path, read):
    with pytest.raises(DataError, match="there is no such list of pairs"):
        read(tmp_path / "none.txt")
    with pytest.raises(DataError, match="the list of pairs is empty"):
        read(written(tmp_path, "empty.txt", "\n"))
    (tmp_path / "pairs.bin").write_bytes(b"\x80\x04\x95\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as a list of pairs"):
        read(tmp_path / "pairs.bin")


@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet="ab0129,\t \n/.", max_size=60))
def test_no_text_makes_a_reader_fail_otherwise_than_by_its_own_error(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(text)
    for read in (read_lfw_pairs, read_ytf_pairs, read_agedb_pairs):
        try:
            pairs = read(path)
        except DataError:
            continue
        assert len(pairs) > 0


def test_all_pairs_of_a_person_and_of_two_persons_lie_in_one_fold():
    identities = {f"{person}/{n}.png": person for person in "abcd" for n in range(3)}
    pairs = all_pairs(identities, folds=2)
    assert len(pairs) == 12 * 11 / 2
    assert pairs["same"].sum() == 4 * 3
    assert not pairs.duplicated(["first", "second"]).any()
    assert (pairs["first"] != pairs["second"]).all()
    assert (pairs.groupby(["first_identity", "second_identity"])["fold"].nunique() == 1).all()
    assert pairs[pairs["same"]].groupby("fold").size().tolist() == [6, 6]


def test_a_balanced_draw_has_as_many_impostors_as_genuine_pairs_in_each_fold_and_repeats():
    pairs = all_pairs({f"{person}/{n}.png": person for person in "abcd" for n in range(3)}, folds=2)
    drawn = balanced(pairs, seed=1)
    assert drawn.groupby(["fold", "same"]).size().tolist() == [6, 6, 6, 6]
    assert drawn.equals(balanced(pairs, seed=1))
    assert not drawn.equals(balanced(pairs, seed=2))
    assert drawn.equals(pairs.loc[drawn.index])


def test_a_template_is_an_image_or_the_frames_of_a_video_in_the_order_of_their_numbers(tmp_path):
    videos = read_ytf_pairs(written(tmp_path, "splits.txt", "1, 1, A/0, B/1, 0"))
    files = [*(f"A/0/aligned_detect_0.{n}.jpg" for n in (10, 9, 100, 8)), "B/1/1.7.png", "B/1/notes.txt"]
    assert template_images(videos, files) == {
        "A/0": [f"A/0/aligned_detect_0.{n}.jpg" for n in (8, 9, 10, 100)], "B/1": ["B/1/1.7.png"]
    }  # fmt: skip
    assert template_images(videos, files, frames=2)["A/0"] == [f"A/0/aligned_detect_0.{n}.jpg" for n in (8, 100)]


def test_an_aligned_copy_may_have_another_ending_and_everything_missing_is_told_at_once(tmp_path):
    pairs = read_lfw_pairs(written(tmp_path, "pairs.txt", "1\nA\t1\t2\nA\t1\tB\t1\n"))
    files = ["A/A_0001.png", "A/A_0002.jpg", "B/B_0001.bmp"]
    assert template_images(pairs, files)["A/A_0001.jpg"] == ["A/A_0001.png"]
    with pytest.raises(DataError, match=r"2 of 3 images or videos .* Missing: A/A_0002.jpg, B/B_0001.jpg$"):
        template_images(pairs, files[:1])


def test_a_name_is_found_whatever_its_unicode_form_and_the_encoding_of_the_list(tmp_path):
    on_disk = unicodedata.normalize("NFD", "José/José_0001.jpg")
    (tmp_path / "pairs.txt").write_bytes("1\nJosé\t1\t1\nJosé\t1\tJosé\t1\n".encode("cp1252"))
    assert template_images(read_lfw_pairs(tmp_path / "pairs.txt"), [on_disk]) == {"José/José_0001.jpg": [on_disk]}
