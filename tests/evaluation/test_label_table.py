import pytest

from histograph.evaluation.label_table import read_labels


def _write(folder, text, encoding="utf-8"):
    path = folder / "labels.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("blank", ["", " "])
def test_blanks_and_the_mark_of_excel_are_left_out(tmp_path, encoding, blank):
    text = f"slide_id,{blank}label\n\ns1{blank},{blank}é\ns2,é{blank}\n,\n"
    assert read_labels(_write(tmp_path, text, encoding), ["s2", "s1"]).label == ["é", "é"]


def test_windows_of_a_slide_share_its_row_and_further_slides_are_told(tmp_path):
    path = _write(tmp_path, "slide_id,label,group\ns1,a,p\ns3,c,\ns2,b,p\ns1,a,p\n")
    table = read_labels(path, ["s1", "s1", "s2"])
    assert table == (["a", "a", "b"], ["p", "p", "p"], ["s3"])


def test_an_empty_column_of_groups_is_none(tmp_path):
    path = _write(tmp_path, "slide_id,label,group\ns1,a,\ns2,b,\n")
    assert read_labels(path, ["s1", "s2"]).group == ["s1", "s2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide_id,label\ns1,a\ns2,b\ns1,b\n", "several rows for slide 's1'"),
        ("slide_id,label\ns1,a\ns2,\n", "has no label for 1 of 2 slides, first s2"),
        ("slide_id,label\ns1,a\ns2\n", "has no label for 1 of 2 slides, first s2"),
        ("slide_id,label,group\ns1,a,p\ns2,b,\n", "has no group for 1 of 2 slides, first s2"),
        (
            "slide_id,label\ns1.svs,a\ns2.svs,b\n",
            r"no row for 2 slides, first s1 \(its own first is s1\.svs\)",
        ),
        (
            "slide_id;label\ns1;a\ns2;b\n",
            r"separated by commas; slide_id is missing.*found \['slide_id;label'\]",
        ),
        ("slide_id,label,label\ns1,a,b\n", "label is missing or there twice"),
        ("", "found an empty file"),
        ("slide_id,label\n", "no row below its header"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_labels(_write(tmp_path, text), ["s1", "s2"])


def test_other_encodings_and_files_that_are_missing(tmp_path):
    with pytest.raises(ValueError, match=r"labels\.csv is not in UTF-8"):
        read_labels(_write(tmp_path, "slide_id,label\ns1,é\n", "latin-1"), ["s1"])
    with pytest.raises(FileNotFoundError, match="no label table"):
        read_labels(tmp_path, ["s1"])
