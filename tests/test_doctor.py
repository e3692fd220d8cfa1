"""The doctor tells what is usable from what is not, and how to mend it."""

import sys

from histograph.doctor import PARTS, Part, check, report


def test_missing_part_names_module_and_extra():
    (finding,) = check((Part("x", "an example", ("no_such_module",), "stardist"),))
    assert not finding.usable
    assert "no_such_module" in finding.detail
    assert finding.remedy.startswith("pip install 'stardist>=") and "tensorflow" in finding.remedy


def test_installed_part_that_does_not_import_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_wheel.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = check((Part("x", "an example", ("broken_wheel",)),))
    assert not finding.usable and "torchvision::nms" in finding.detail
    sys.modules.pop("broken_wheel", None)


def test_the_core_is_sound_here_and_every_part_is_reported():
    text, sound = report()
    assert sound
    for part in PARTS:
        assert f" {part.name}: {part.purpose}" in text
