"""The quickstart leaves everything it promises."""

import histograph as hg
from histograph.quickstart import quickstart


def test_quickstart_leaves_everything(tmp_path):
    report = quickstart(tmp_path / "q", epochs=2, n_patches=40, progress=False)
    assert report == tmp_path / "q" / "report.html"
    page = report.read_text()
    assert page.count("<img") >= 6 and "hand-made" in page and "untrained" in page
    graph = hg.load(tmp_path / "q" / "graphs" / "CMU-1-Small-Region.safetensors")
    hg.validate(graph)
    assert graph["cell"].num_nodes > 1000
    assert graph["patch"].feature_names[0] == "histograph-vit_0"
    assert (tmp_path / "q" / "run" / "method.safetensors").exists()
    table = (tmp_path / "q" / "evaluation.csv").read_text()
    for name in ("hand-made features", "untrained encoder", "pre-trained H-MGDM", "patch encoder that ships"):
        assert name in table
