import numpy as np
import pandas as pd
import pytest

from histograph.evaluation import few_labels, grouped_split, read_folds

SLIDES = [f"TCGA-05-{k // 2:04d}-01Z-00-DX{k % 2 + 1}" for k in range(12)]
PATIENTS = [name[:12] for name in SLIDES]


def write(path, train, val, test):
    """Columns of unequal length, as CLAM writes them."""
    pd.DataFrame({"train": pd.Series(train), "val": pd.Series(val), "test": pd.Series(test)}).to_csv(path)


def test_folds_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in range(11):
        test = SLIDES[number // 2 * 2 :][:2]
        rest = [name for name in SLIDES if name not in test]
        write(tmp_path / f"splits_{number}.csv", rest[2:], rest[:2], [f"{name}.svs" for name in test])
        (tmp_path / f"splits_{number}_bool.csv").write_text("not read")
    folds = read_folds(tmp_path, SLIDES, PATIENTS)
    assert len(folds) == 11
    for number, (train, test) in enumerate(folds):
        assert test.tolist() == [number // 2 * 2, number // 2 * 2 + 1]
        assert len(train) == 8 and (np.diff(train) > 0).all() and not set(train) & set(test)


def test_names_and_slides_without_a_partner_are_left_out(tmp_path):
    write(tmp_path / "splits_0.csv", [*SLIDES[:4], "elsewhere"], SLIDES[4:6], SLIDES[6:8])
    (fold,) = read_folds(tmp_path, SLIDES[::-1])
    assert fold.train.tolist() == [8, 9, 10, 11] and fold.test.tolist() == [4, 5]


def test_shared_patients_are_refused_or_dropped(tmp_path):
    write(tmp_path / "splits_0.csv", SLIDES[:5], [], SLIDES[5:8])
    with pytest.raises(ValueError, match=r'share 1 patient .*shared="drop"'):
        read_folds(tmp_path, SLIDES, PATIENTS)
    (fold,) = read_folds(tmp_path, SLIDES, PATIENTS, shared="drop")
    assert fold.train.tolist() == [0, 1, 2, 3] and fold.test.tolist() == [5, 6, 7]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no splits_0\.csv"):
        read_folds(tmp_path, SLIDES)
    path = tmp_path / "splits_0.csv"
    write(path, SLIDES[:4], SLIDES[3:5], SLIDES[6:8])
    with pytest.raises(ValueError, match=f"names slide '{SLIDES[3]}' twice"):
        read_folds(tmp_path, SLIDES)
    write(path, ["elsewhere"], [], SLIDES[6:8])
    with pytest.raises(ValueError, match="none of its 1 slides of train is left; the table has 'elsewhere'"):
        read_folds(tmp_path, SLIDES)
    pd.DataFrame({"train": SLIDES}).to_csv(path)
    with pytest.raises(ValueError, match="lacks the column 'test'"):
        read_folds(tmp_path, SLIDES)
    with pytest.raises(ValueError, match='"refuse" or "drop", found'):
        read_folds(tmp_path, SLIDES, shared="keep")
    with pytest.raises(ValueError, match="distinct, found 1 repeated"):
        read_folds(tmp_path, [*SLIDES, SLIDES[0]])
    with pytest.raises(ValueError, match="for each of 12 slides"):
        read_folds(tmp_path, SLIDES, PATIENTS[:3])


def test_a_smaller_share_is_part_of_a_larger_one():
    groups = np.repeat(np.arange(40), 3)
    y = groups % 2
    folds = grouped_split(groups, y, 4)
    parts = {share: few_labels(folds, y, share, groups, seed=1) for share in (0.1, 0.25, 1.0)}
    for number, fold in enumerate(folds):
        small, middle, whole = (parts[share][number] for share in parts)
        assert set(small.train) < set(middle.train) < set(whole.train)
        assert np.array_equal(whole.train, fold.train)
        assert all(np.array_equal(part.test, fold.test) for part in (small, middle, whole))
        kept = np.unique(groups[middle.train])
        assert len(middle.train) == 3 * len(kept) and len(kept) == pytest.approx(7.5, abs=1)
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\], found 1.5"):
        few_labels(folds, y, 1.5)
