from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histograph.evaluation import check_split, read_split, tcga_patient


def barcode(patient: int, slide: int) -> str:
    """A made-up barcode: the patient in its first twelve characters."""
    return f"TCGA-{patient // 10000 + 10}-{patient % 10000:04d}-01Z-00-DX{slide}"


def write(path: Path, names: list[str], label: int = 1) -> Path:
    table = pd.DataFrame({"name": names, "rpath": [f"lung/{name}.pth" for name in names], "label": label})
    table.to_csv(path, index=False)
    return path


def published_form(folder: Path) -> tuple[Path, Path]:
    """Made-up tables with the counts of the published split of PAMA.

    2,144 slides of 928 patients to train on, 920 of 611 to test; 549 patients are on both sides, with 788 test slides.
    """
    train = [barcode(i % 928, i // 928) for i in range(2144)]
    shared = [barcode(i % 549, 50 + i // 549) for i in range(788)]
    others = [barcode(1000 + i % 62, 50 + i // 62) for i in range(920 - 788)]
    return write(folder / "train.csv", train), write(folder / "test.csv", shared + others)


def test_a_split_of_the_form_of_the_published_one_is_refused(tmp_path: Path) -> None:
    message = r"test\.csv: train and test share 549 patients \(of 928 and 611\), .* 788 of 920 in test .*'TCGA-10-0000'"
    with pytest.raises(ValueError, match=message):
        read_split(*published_form(tmp_path))
    with pytest.raises(ValueError, match="share 549 patients"):
        read_split(*published_form(tmp_path)[::-1])


def test_a_split_by_patient_is_read(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", ["TCGA-AA-0001-01Z-00-DX1.f3.svs", "TCGA-AA-0001-11A-01-TS1"])
    test = write(tmp_path / "b.csv", ["x/tcga-bb-0001-01Z-00-DX1"], label=2)
    split = read_split(train, test)
    assert split.train["slide_id"].tolist() == ["TCGA-AA-0001-01Z-00-DX1.f3", "TCGA-AA-0001-11A-01-TS1"]
    assert split.train["patient"].tolist() == ["TCGA-AA-0001"] * 2
    assert split.test["patient"].tolist() == ["TCGA-BB-0001"] and split.test["label"].tolist() == [2]
    assert list(split.test.columns) == ["slide_id", "patient", "name", "rpath", "label"]


def test_patients_by_another_rule(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.csv", ["7_1", "7_2"]), write(tmp_path / "b.csv", ["8_1"])
    with pytest.raises(ValueError, match=r"a\.csv: '7_1' is not named by a TCGA barcode"):
        read_split(train, test)
    split = read_split(train, test, patient=lambda name: name.split("_")[0])
    assert split.train["patient"].tolist() == ["7", "7"]
    with pytest.raises(ValueError, match="share 1 patient "):
        read_split(train, test, patient=lambda name: name[0].replace("8", "7"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,rpath\nTCGA-AA-0001,x\n", "lacks the column 'label'"),
        ("slide,label\nTCGA-AA-0001,1\n", r"lacks the column 'name', found \['slide', 'label'\]"),
        ("name,label\n", "has no row"),
        ("name,label\nTCGA-AA-0001,1\nTCGA-AA-0002,\n", "label is missing in row 1"),
        ("name,label\nTCGA-AA-0001,1\nTCGA-AA-0001.svs,1\n", "'TCGA-AA-0001' twice"),
    ],
)
def test_mistakes_in_a_table_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    other = write(tmp_path / "b.csv", ["TCGA-BB-0001"])
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path / "a.csv", other)
    with pytest.raises(FileNotFoundError, match=r"no table of a split at .*nowhere\.csv"):
        read_split(other, tmp_path / "nowhere.csv")


def test_tcga_patients() -> None:
    names = ["TCGA-05-4250-01Z-00-DX1.90f.svs", "a\\b/TCGA-05-4250-11A.h5", "tcga-05-4250"]
    assert {tcga_patient(name) for name in names} == {"TCGA-05-4250"}
    for name in ("", "slide7", "TCGA-5-4250", "x-TCGA-05-4250"):
        with pytest.raises(ValueError, match="TCGA barcode"):
            tcga_patient(name)
    check_split([tcga_patient(names[0])], [tcga_patient("TCGA-05-4251-01Z")])
    assert np.char.str_len(tcga_patient(names[0])) == 12
