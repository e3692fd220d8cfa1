import zipfile
from pathlib import Path

import pytest

from histograph.evaluation import read_survival_table

HEADER = ",case_id,slide_id,age,survival_months,censorship,GENE_rnaseq\n"
ROWS = [
    "0,007,A-DX1.1f.svs,61,12.5,0,0.1\n",
    "1,007,A-DX2.2e.svs,61,12.5,0,0.2\n",
    "2,B,B-DX1.pt,,40,1.0,0\n",
]


def _write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_censorship_is_turned_into_events(tmp_path: Path) -> None:
    table = read_survival_table(_write(tmp_path, HEADER + "".join(ROWS)))
    assert list(table.columns) == ["case_id", "slide_id", "time", "event", "unit"]
    assert table["event"].tolist() == [True, True, False]
    assert table["case_id"].tolist() == ["007", "007", "B"]
    assert table["slide_id"].tolist() == ["A-DX1.1f", "A-DX2.2e", "B-DX1"]
    assert table["time"].tolist() == [12.5, 12.5, 40] and set(table["unit"]) == {"months"}


def test_events_and_days_are_taken_as_they_are(tmp_path: Path) -> None:
    path = _write(tmp_path, "slide_id,case_id,survival_days,event\nx,a,300,1\ny,b,20,0\n")
    table = read_survival_table(path)
    assert table["event"].tolist() == [True, False] and set(table["unit"]) == {"days"}


def test_further_columns_are_kept_when_asked_for(tmp_path: Path) -> None:
    path = _write(tmp_path, HEADER + "".join(ROWS))
    assert read_survival_table(path, extra=["age"])["age"].fillna(-1).tolist() == [61, 61, -1]
    with pytest.raises(ValueError, match=r"lacks the columns \['stage'\], found"):
        read_survival_table(path, extra=["stage"])


def test_a_zip_holds_one_table_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../dataset/table.csv.zip", HEADER + "".join(ROWS))
        archive.writestr("__MACOSX/._table.csv", "x")
    assert len(read_survival_table(path)) == 3
    assert [file.name for file in tmp_path.parent.glob("dataset")] == []
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("second.csv", "x")
    with pytest.raises(ValueError, match=r"must hold exactly one file, found .*second\.csv"):
        read_survival_table(path)
    with pytest.raises(ValueError, match="no readable zip archive"):
        read_survival_table(_write(tmp_path, "no zip", "broken.zip"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id,slide_id,label\na,x,1\n", r"one column of time, survival_months .* found \['case_id'"),
        ("case_id,slide_id,survival_months\na,x,1\n", "one column of outcome, censorship"),
        (
            "case_id,slide_id,survival_months,event,censorship\na,x,1,1,0\n",
            r"found \['censorship', 'event'\]",
        ),
        ("slide_id,survival_months,censorship\nx,1,1\n", r"lacks the columns \['case_id'\]"),
        (HEADER, "has no row"),
        (HEADER + ROWS[0] + ROWS[0], "each slide must occur once, found 1 .* 'A-DX1.1f'"),
        (HEADER + ROWS[0] + "1,007,z,61,13,0,0\n", r"\[12.5, True\], \[13.0, True\]\] for case '007'"),
        (HEADER + ROWS[0] + "1,007,z,61,12.5,1,0\n", "must agree about its survival"),
        (HEADER + "0,a,x,1,,1,0\n", "survival_months is missing in 1 of 1 rows"),
        (HEADER + "0,,x,1,3,1,0\n", "case_id is missing"),
        (HEADER + "0,a,x,1,-3,1,0\n", "not negative, found -3 in row 0"),
        (HEADER + "0,a,x,1,3,2,0\n", r"censorship must be 0 or 1 \(1 = censored\), found \[2\]"),
        (HEADER + "0,a,x,1,3,dead,0\n", "censorship must be numbers, found 'dead'"),
        ("", "No columns"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_survival_table(_write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no survival table at .*absent\.csv"):
        read_survival_table(tmp_path / "absent.csv")
