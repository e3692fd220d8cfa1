"""The one-page HTML report of the quickstart: facts, pictures and tables in one file that needs no other."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING

from histograph.atomic import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from torch_geometric.data import HeteroData

    from histograph.slides import Slide

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left; white-space: nowrap }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; align-items: end }
figure { margin: 0 } img { max-width: 100% } figcaption { color: #555 }
"""


def write_report(
    path: str | Path,
    slide: Slide,
    graph: HeteroData,
    losses: pd.DataFrame,
    table: pd.DataFrame,
    trained: str,
    pictures: dict[str, Path],
    seconds: dict[str, float],
) -> Path:
    """Write the report of a quickstart run.

    Parameters
    ----------
    path
        The HTML file to write; pictures are embedded in it.
    slide, graph
        The slide and its graph.
    losses
        What `pretrain` returned: one row an epoch, column `loss`.
    table
        What `quickstart.evaluate` returned.
    trained
        The name in `table` of the representation that the verdict is about.
    pictures
        PNG files by caption.
    seconds
        Duration of each step.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    OSError
        When the file cannot be written; no partial file is left.
    """
    path = Path(path)
    body = "\n".join(
        [
            f"<h1>{html.escape(slide.slide_id)}: from a slide to a graph to vectors</h1>",
            slide._repr_html_(),
            _graph_section(graph),
            _figures(pictures),
            _training_section(losses),
            _evaluation_section(table, trained),
            "<h2>Time</h2>" + _table(["step", "seconds"], [[k, f"{v:.1f}"] for k, v in seconds.items()]),
        ]
    )
    title = f"{html.escape(slide.slide_id)} · histograph"
    page = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style>{body}</html>"
    )
    with atomic_path(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def _graph_section(graph: HeteroData) -> str:
    from histograph.graphs import summary

    frame = summary(graph).reset_index()
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "<h2>The graph</h2><p>Positions and lengths are micrometres.</p>" + _table(
        list(frame.columns), rows
    )


def _training_section(losses: pd.DataFrame) -> str:
    first, last = losses["loss"].iloc[0], losses["loss"].iloc[-1]
    return (
        "<h2>Pre-training</h2><p>H-MGDM hides 60 % of the superpixels and of the edges, adds noise to what is "
        "hidden and learns to restore it from what is visible. "
        f"{len(losses)} epochs; the loss went from {first:.3f} to {last:.3f}.</p>"
    )


def _evaluation_section(table: pd.DataFrame, trained: str) -> str:
    baselines = list(dict.fromkeys(table["baseline"]))
    rows = []
    for (probe, name, metric), group in table.groupby(["probe", "name", "metric"], sort=False):
        by_baseline = {row["baseline"]: row for row in group.to_dict("records")}
        differences = [
            "–" if name == baseline else _interval(by_baseline[baseline], "difference")
            for baseline in baselines
        ]
        rows.append([name, probe, metric, _interval(by_baseline[baselines[0]], "value"), *differences])
    header = ["representation", "probe", "metric", "value [95 % interval]"]
    header += [f"difference to {baseline}" for baseline in baselines]
    return (
        "<h2>What the vectors are worth</h2><p>Tumour or not in the centre of PatchCamelyon patches that the encoder "
        "never saw: other slides, another scanner and another organ than the one slide it was trained on. "
        "Cross-validated probes, overlapping patches kept together; 95 % intervals from a paired bootstrap. "
        "What training itself adds is the difference to the untrained encoder. That the encoder gives all of its "
        "layers was settled with these patches in view, which flatters both encoders beside the hand-made features. "
        "The patch encoder that ships read whole patches; it was trained without labels on other patches of the same "
        "data set, so it is at home here. "
        f"{_verdict(table, trained)}</p>" + _table(header, rows)
    )


def _verdict(table: pd.DataFrame, trained: str) -> str:
    """Say in one plain sentence a probe and baseline whether the pre-trained encoder beats it, by AUC."""
    sentences = []
    for row in table[(table["metric"] == "auc") & (table["name"] == trained)].to_dict("records"):
        low, high = row["difference_low"], row["difference_high"]
        word = "better" if low > 0 else "worse" if high < 0 else "neither better nor worse"
        sentences.append(
            f"By the {row['probe']} probe's AUC, the pre-trained encoder is <b>{word}</b> than the "
            f"{row['baseline']}."
        )
    return " ".join(sentences)


def _interval(row: dict, name: str) -> str:
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    return f"{row[name]:.3f} [{row[low]:.3f}, {row[high]:.3f}]"


def _cell(value: object) -> str:
    import pandas as pd

    if value is pd.NA or value != value:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _figures(pictures: dict[str, Path]) -> str:
    figures = []
    for caption, path in pictures.items():
        data, text = base64.b64encode(path.read_bytes()).decode("ascii"), html.escape(caption)
        image = f"<img src='data:image/png;base64,{data}' alt='{text}'>"
        figures.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    return "<h2>Pictures</h2><div class='pictures'>" + "".join(figures) + "</div>"
