import pytest

from histograph.slides.levels import level_scale


@pytest.mark.parametrize(
    ("full", "level", "scale"),
    [
        ((1000, 1000), (1000, 1000), (1.0, 1.0)),
        ((4443, 3567), (2221, 1783), (2.0, 2.0)),  # rounded down
        ((5477, 5154), (1370, 1289), (4.0, 4.0)),  # rounded up
        ((3990, 1995), (1000, 500), (3.99, 3.99)),
        ((3990, 2000), (1000, 1000), (3.99, 2.0)),
    ],
)
def test_scale(full, level, scale):
    # field bug E.12: elsewhere a downsample of 3.99 becomes 3
    assert level_scale(full, level) == pytest.approx(scale)
