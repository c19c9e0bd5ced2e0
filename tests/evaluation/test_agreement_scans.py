"""What the arguments mean, and what is refused."""

import pytest

from voxseg.errors import UserError
from voxseg.evaluation.agreement_scans import find_repeats


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"-")
    return folder


def table(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def listed(repeats):
    return {own[0].subject: [(scan.session, scan.path.name) for scan in own] for own in repeats.subjects}


def test_two_folders_are_matched_by_name(tmp_path):
    a = touch(tmp_path / "a", "p2_seg.nii.gz", "p10_seg.nii.gz", "p10_volumes.tsv", "p10_qc.png", "p3_volumes.tsv")
    b = touch(tmp_path / "b", "p2_seg.nii", "p10_seg.mgz", "p4_seg.nii.gz", "p2.nii.gz")
    repeats = find_repeats([b, a])
    assert listed(repeats) == {
        "p2": [("b", "p2_seg.nii"), ("a", "p2_seg.nii.gz")],
        "p10": [("b", "p10_seg.mgz"), ("a", "p10_seg.nii.gz")],
    }
    assert repeats.sessions == ("b", "a")
    assert repeats.notes == ("left out, with one scan only: p3, p4",)
    assert not repeats.timed


def test_the_session_in_names_may_differ(tmp_path):
    a = touch(tmp_path / "1", "sub-01_ses-1_T1w_seg.nii.gz")
    b = touch(tmp_path / "2", "sub-01_ses-2_T1w_seg.nii.gz")
    assert list(listed(find_repeats([a, b]))) == ["sub-01_T1w"]


def test_equal_names_are_told_apart_by_their_folders(tmp_path):
    for session in ("a", "b"):
        touch(tmp_path / session, "p1/mri/aseg.mgz", "p2/mri/aseg.mgz")
    assert len(listed(find_repeats([tmp_path / "a", tmp_path / "b"]))) == 2


def test_folders_of_one_name(tmp_path):
    folders = [touch(tmp_path / s / "results", "x_seg.nii.gz") for s in ("t1", "t2")]
    assert find_repeats(folders).sessions == ("t1", "t2")


def test_bids_names(tmp_path):
    touch(
        tmp_path,
        "sub-01/ses-2/anat/sub-01_ses-2_dseg.nii.gz",
        "sub-01/ses-10/anat/sub-01_ses-10_dseg.nii.gz",
        "sub-02/ses-1/seg_run-1_seg.nii.gz",
        "sub-02/ses-1/seg_run-2_seg.nii.gz",
        "sub-03_ses-1_seg.nii.gz",
    )
    found = listed(find_repeats([tmp_path]))
    assert [session for session, _ in found["sub-01"]] == ["ses-2", "ses-10"]
    assert [session for session, _ in found["sub-02"]] == ["ses-1, run-1", "ses-1, run-2"]
    assert list(found) == ["sub-01", "sub-02"]


def test_table(tmp_path):
    path = table(
        tmp_path / "t.csv",
        "Subject;Scan;File;Days;remark",
        "b;retest;y/2.nii.gz;10;",
        "b;test;y/1.nii.gz;3;",
        "a;test;x.nii.gz;0;late",
        "",
        "a;retest;z_volumes.tsv;365.25;",
    )
    repeats = find_repeats([path])
    assert listed(repeats) == {
        "a": [("test", "x.nii.gz"), ("retest", "z_volumes.tsv")],
        "b": [("test", "1.nii.gz"), ("retest", "2.nii.gz")],  # by time
    }
    assert repeats.subjects[0][1].years == 1
    assert repeats.subjects[1][0].path == tmp_path / "y" / "1.nii.gz"
    assert repeats.timed


def test_table_without_sessions_or_times(tmp_path):
    repeats = find_repeats([table(tmp_path / "t.tsv", "subject\tfile", "a\t1.nii", "a\t2.nii", "b\t3.nii", "b\t4.nii")])
    assert listed(repeats) == {"a": [("1", "1.nii"), ("2", "2.nii")], "b": [("1", "3.nii"), ("2", "4.nii")]}
    rows = ("subject,session,file", "a,retest,1.nii", "a,test,2.nii", "b,test,3.nii", "b,retest,4.nii")
    repeats = find_repeats([table(tmp_path / "u.csv", *rows)])
    assert repeats.sessions == ("retest", "test")  # as the table has them first
    assert listed(repeats)["b"] == [("retest", "4.nii"), ("test", "3.nii")]


def test_files_are_scans_of_one_person(tmp_path):
    touch(tmp_path, "b_seg.nii.gz", "a_seg.nii.gz", "x/t_volumes.tsv", "y/t_volumes.tsv")
    repeats = find_repeats([tmp_path / "b_seg.nii.gz", tmp_path / "a_seg.nii.gz"])
    assert listed(repeats) == {"subject": [("b", "b_seg.nii.gz"), ("a", "a_seg.nii.gz")]}
    same = [tmp_path / "x/t_volumes.tsv", tmp_path / "y/t_volumes.tsv"]
    assert find_repeats(same).sessions == ("x", "y")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["subject,file,days,age", "a,1,1,1"], "t.csv: has the columns days and age, which say the same"),
        (["subject,file,scan,session", "a,1,1,1"], "t.csv: has the columns session and scan"),
        (["subject,path", "a,1"], "t.csv: has no column 'file'; write for example subject,session,file"),
        (["file", "a"], "t.csv: has no column 'subject'"),
        (["subject,subject,file", "a,b,1"], "t.csv: has two columns 'subject'"),
        (["subject,file"], "t.csv: lists no scans"),
        ([""], "t.csv: has no column 'subject'"),
        (["subject,session,file", "a,1,x", "a,1,y"], "t.csv, line 3: repeats a, 1"),
        (["subject,session,file", "a,,x"], "t.csv, line 2: has no session"),
        (["subject,file,age", "a,x,60", "a,y,old"], "t.csv, line 3, age: is 'old'"),
        (["subject,file,age", "a,x,60", "a,y,"], "t.csv, line 3, age: is ''"),
        (["subject,file", "a,x,y"], "t.csv, line 2: has 3 cells, and the first line 2"),
        (["subject,file", "a,x", "b,y"], r"t.csv: has nobody with two scans \(2 with one\)"),
    ],
)
def test_mistakes_in_tables(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        find_repeats([table(tmp_path / "t.csv", *lines)])


def test_mistakes(tmp_path):
    a = touch(tmp_path / "a", "p_seg.nii.gz")
    b = touch(tmp_path / "b", "q_seg.nii.gz")
    cases = [
        ([tmp_path / "none"], "none: does not exist"),
        ([a, b], r"no file has the same name in two folders \(there are p_seg.nii.gz and q_seg.nii.gz\); give a CSV"),
        ([a, a], "a: is given twice"),
        ([a], "a: p_seg.nii.gz does not say whose scan it is"),
        ([a / "p_seg.nii.gz"], "is one scan, and agreement is between two or more"),
        ([a / "p_seg.nii.gz", b], "b: is a folder, and files are given as well"),
        ([a / "p_seg.nii.gz", a / "p_seg.nii.gz"], "is given twice"),
        ([touch(tmp_path / "c", "x.txt"), a], "c: holds no segmentations"),
        ([touch(tmp_path / "d", "p_ses-1_seg.nii", "p_ses-2_seg.nii"), a], "d: has several files of p "),
        ([touch(tmp_path / "e", "sub-1_ses-1_a_seg.nii", "sub-1_ses-1_b_seg.nii")], "e: has two files of sub-1, ses-1"),
        ([touch(tmp_path / "f", "sub-1_ses-1_seg.nii")], "f: has nobody with two scans"),
    ]
    for given, message in cases:
        with pytest.raises(UserError, match=message):
            find_repeats(given)
