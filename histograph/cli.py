"""The `histograph` command: build or convert graphs, pre-train on them, embed, evaluate; quickstart and doctor."""

import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from histograph.cli_networks import USUAL, check_options, network_of, regions_of, say_left_out, usual_of
from histograph.cli_nuclei import UNFINISHED, check_out, check_targets, remove_unfinished, write_nuclei

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From histopathology slides to graphs, and from graphs to vectors. Lengths are micrometres.",
)

_OUT = typer.Option("--out", help="Folder for the results; made when it does not exist.")
_NODE_TYPE = typer.Option(help="Which layer of the graphs to use: cell, tissue, patch or region.")
_WINDOW = typer.Option(help="Cut every slide into square windows of this side, in µm; 0 takes whole slides.")
_MIN_NODES = typer.Option(help="Leave out windows with fewer nodes than this.")
_BATCH = typer.Option(help="Graphs (or windows) a batch.")
_SEGMENT = typer.Option(
    help="What finds nuclei: classical, stardist-torch, stardist-openvino or stardist (with TensorFlow)."
)
_SEGMENT_MODEL = typer.Option(
    help="StarDist model, a folder, zip, file or name; by default the one that comes with histograph."
)
_SEGMENT_MPP = typer.Option(help="µm per pixel at which nuclei are sought; by default what suits the method.")
_SLIDES = typer.Argument(help="Slides: files, or folders that hold them.")
_OBJECT_TYPES = typer.Option(
    help="With --to: take only these of GeoJSON; comma-separated: detection, cell, annotation, tile, tmaCore, unknown."
)
_MPP = typer.Option(help="µm per level-0 pixel, for slides that do not say it; overrides those that do.")


@app.command()
def build(
    slides: Annotated[list[Path], _SLIDES],
    out: Annotated[Path, _OUT],
    mpp: Annotated[float | None, _MPP] = None,
    entities: Annotated[
        str, typer.Option(help="Comma-separated: cell, tissue, patch, region.")
    ] = "cell,tissue,patch",
    segment: Annotated[str, _SEGMENT] = "classical",
    segment_model: Annotated[str | None, _SEGMENT_MODEL] = None,
    segment_mpp: Annotated[float | None, _SEGMENT_MPP] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Patch features by an encoder: histograph-vit, hf:org/name, timm:hf-hub:org/name, or a file."
        ),
    ] = None,
    cell_tokens: Annotated[
        str | None,
        typer.Option(
            help="Cell features by a Vision Transformer, named likewise: its tokens under each nucleus."
        ),
    ] = None,
    encoder_mpp: Annotated[
        float | None, typer.Option(help="µm per pixel that the encoder was trained at, if it does not say.")
    ] = None,
    patch_um: Annotated[float | None, typer.Option(help="Side of a patch, in µm; 128 by default.")] = None,
    region_um: Annotated[float | None, typer.Option(help="Side of a region, in µm; 2048 by default.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Patches the encoder reads at a time; 64, for cells 16.")
    ] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="bf16 or fp16 for the encoder.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Where the encoder runs; the GPU by default, if there is one.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Threads a slide.")] = 2,
    overwrite: Annotated[bool, typer.Option(help="Build again what is complete.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep finished tiles of nuclei in --out until a slide's are found, and go on with those of a run "
            "that was stopped.",
        ),
    ] = False,
) -> None:
    """Turn slides into graph files, one .safetensors a slide, with a manifest.

    A second run skips the slides that are complete. A broken slide is reported and does not stop the rest;
    the exit status is then 1.
    """
    from histograph.graphs import build_many

    finders = _finders(entities, {"patch": patch_um, "region": region_um}, out if resume else None)
    found_by = _found_by(segment, segment_model, segment_mpp)
    if found_by:
        _cells(finders, "nuclei", "--segment").update(found_by)
    given = {
        "mpp": encoder_mpp,
        "batch_size": batch_size,
        "mixed_precision": mixed_precision,
        "device": device,
    }
    options = {key: value for key, value in given.items() if value is not None}
    features = None if cell_tokens is None else {"cell": _cell_tokens(cell_tokens, finders, options)}
    frame = build_many(
        _slide_files(slides),
        out,
        mpp=mpp,
        overwrite=overwrite,
        entities=finders,
        features=features,
        workers=workers,
        encoder=_encoder(encoder, {} if encoder is None and features else options),
    )
    remove_unfinished(out)
    _report(frame)


def _finders(entities: str, sizes: dict[str, float | None], resume: Path | None) -> dict[str, dict[str, Any]]:
    """Read the list of entities, the sizes of those for which one is given, and where tiles of nuclei are kept."""
    finders: dict[str, dict[str, Any]] = {name.strip(): {} for name in entities.split(",") if name.strip()}
    for name, size in sizes.items():
        if size is None:
            continue
        if name not in finders:
            raise typer.BadParameter(f"is a size, and --entities has no {name}", param_hint=f"--{name}-um")
        finders[name]["size_um"] = size
    if resume is not None:
        _cells(finders, "nuclei", "--resume")["resume"] = resume / UNFINISHED
    return finders


def _cells(finders: dict[str, dict[str, Any]], what: str, option: str) -> dict[str, Any]:
    """Give the arguments for cells; an option that is for them is refused without cells."""
    if "cell" not in finders:
        raise typer.BadParameter(f"is for {what}, and --entities has no cell", param_hint=option)
    return finders["cell"]


def _found_by(segment: str, model: str | None, mpp: float | None) -> dict[str, Any]:
    """Give the arguments of `nuclei` that are not as by default."""
    if model is not None and segment == "classical":
        raise typer.BadParameter(
            "is for StarDist; give --segment stardist-torch too", param_hint="--segment-model"
        )
    given = {"segment": None if segment == "classical" else segment, "model": model, "mpp": mpp}
    return {name: value for name, value in given.items() if value is not None}


def _encoder(name: str | None, options: dict[str, Any]) -> dict[str, Any] | None:
    """Put the encoder and its options together; options without an encoder are refused."""
    if name is not None:
        return {"encoder": name, **options}
    if options:
        option = "--encoder-mpp" if "mpp" in options else "--" + next(iter(options)).replace("_", "-")
        raise typer.BadParameter(
            "is an option of the encoder; give --encoder or --cell-tokens too", param_hint=option
        )
    return None


def _cell_tokens(name: str, finders: dict[str, dict[str, Any]], options: dict[str, Any]) -> Any:
    """Put the encoder of cells and its options together; without cells it is refused."""
    from histograph.features import CellTokens

    _cells(finders, "cells", "--cell-tokens")
    return CellTokens(name, **options)


@app.command()
def nuclei(
    slides: Annotated[list[Path], _SLIDES],
    out: Annotated[Path, _OUT],
    to: Annotated[
        str,
        typer.Option(
            help="geojson, geojson.gz (QuPath), hovernet, cellvit, stardist, tif, png, npy, csv, parquet…"
        ),
    ] = "geojson.gz",
    mpp: Annotated[float | None, _MPP] = None,
    segment: Annotated[str, _SEGMENT] = "classical",
    segment_model: Annotated[str | None, _SEGMENT_MODEL] = None,
    segment_mpp: Annotated[float | None, _SEGMENT_MPP] = None,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="Search off the tissue too.")] = False,
    workers: Annotated[int, typer.Option(help="Threads.")] = 2,
    overwrite: Annotated[bool, typer.Option(help="Search again where the file is there.")] = False,
) -> None:
    """Find the nuclei of slides and write them, one file a slide, for QuPath or other programs.

    A second run skips the slides whose file is there, and a run that was stopped goes on with the tile where it
    was. A broken slide is reported and does not stop the rest; the exit status is then 1.
    """
    found_by = _found_by(segment, segment_model, segment_mpp)
    if not everywhere:
        found_by["mask"] = "auto"
    files = _slide_files(slides)
    if not write_nuclei(files, out, to, mpp, overwrite, {**found_by, "workers": workers}):
        raise typer.Exit(1)


@app.command()
def convert(
    files: Annotated[
        list[Path],
        typer.Argument(help="HDF5 files of patch features, files of objects or graphs, or folders of them."),
    ],
    out: Annotated[Path, _OUT],
    to: Annotated[
        str | None,
        typer.Option(
            help="Make files of objects: geojson, geojson.gz (QuPath), hovernet, cellvit, stardist, tif, png, npy, "
            "csv, parquet, h5ad or spatialdata."
        ),
    ] = None,
    node_type: Annotated[str | None, typer.Option(help="With --to: which layer of graphs.")] = None,
    check_rings: Annotated[
        bool, typer.Option(help="Refuse polygons whose rings cross; otherwise fill by the even-odd rule.")
    ] = True,
    parts: Annotated[
        str | None,
        typer.Option(
            help="What several polygons of one GeoJSON feature are: together one object, or apart an object each "
            "(CellViT's file)."
        ),
    ] = None,
    object_types: Annotated[str | None, _OBJECT_TYPES] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            help="µm per level-0 pixel of all slides; with --to, µm per pixel of the files that do not say it, and of "
            "GeoJSON that is made of files in µm."
        ),
    ] = None,
    mpp_table: Annotated[
        Path | None, typer.Option(help="CSV with columns slide_id and mpp, where slides differ.")
    ] = None,
    patch_size_level0: Annotated[
        float | None, typer.Option(help="Side of a patch in level-0 pixels, for files that do not say.")
    ] = None,
    coords_from: Annotated[
        Path | None,
        typer.Option(help="Folder of the files with the coordinates' attributes, e.g. CLAM's patches/."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Convert again what is complete.")] = False,
) -> None:
    """Turn patch features of CLAM, TRIDENT or STAMP (HDF5) into graph files, with a manifest.

    With --to, turn files of objects (QuPath's GeoJSON, JSON of HoVer-Net and CellViT, instance maps, StarDist's
    polygons, tables of centroids, AnnData, SpatialData) or graphs into one another.

    A second run skips the files that are complete. A broken file is reported and does not stop the rest; the
    exit status is then 1.
    """
    if to is not None:
        given = {
            "--mpp-table": mpp_table,
            "--patch-size-level0": patch_size_level0,
            "--coords-from": coords_from,
        }
        _refuse(given, "is for patch features, not for --to")
        _convert_objects(files, out, to, mpp, node_type, check_rings, parts, object_types, overwrite)
        return
    rings = None if check_rings else False
    only = {"--node-type": node_type, "--no-check-rings": rings, "--parts": parts}
    _refuse({**only, "--object-types": object_types}, "is only for --to")
    from histograph.graphs import convert_many

    if mpp is not None and mpp_table is not None:
        raise ValueError("--mpp and --mpp-table: give one of them")
    frame = convert_many(
        _expand(files, frozenset({".h5", ".hdf5"}), "file of patch features"),
        out,
        mpp=mpp if mpp_table is None else _mpp_table(mpp_table),
        patch_size_level0=patch_size_level0,
        coords_from=coords_from,
        overwrite=overwrite,
    )
    _report(frame)


def _refuse(given: dict[str, Any], why: str) -> None:
    """Refuse options that are given, and not for this."""
    for option, value in given.items():
        if value is not None:
            raise typer.BadParameter(why, param_hint=option)


def _convert_objects(
    files: list[Path],
    out: Path,
    to: str,
    mpp: float | None,
    node_type: str | None,
    check_rings: bool,
    parts: str | None,
    object_types: str | None,
    overwrite: bool,
) -> None:
    """Convert files of objects one after the other; exit with status 1 where one has failed."""
    from histograph.formats import FORMATS, convert_file
    from histograph.formats.convert import ENTITY_SUFFIXES, check_package, converted_name
    from histograph.formats.geojson import OBJECT_TYPES, PARTS

    if to not in FORMATS:
        raise typer.BadParameter(f"must be one of {', '.join(FORMATS)}; found {to}", param_hint="--to")
    if parts not in (*PARTS, None):
        raise typer.BadParameter(f"must be {' or '.join(PARTS)}; found {parts}", param_hint="--parts")
    wanted = None if object_types is None else [name.strip() for name in object_types.split(",")]
    if wanted is not None and not set(wanted) <= set(OBJECT_TYPES):
        raise typer.BadParameter(
            f"must be of {', '.join(OBJECT_TYPES)}; found {object_types}", param_hint="--object-types"
        )
    check_package(to)
    check_out(out)
    failed = False
    found = _expand(files, frozenset({*ENTITY_SUFFIXES, ".safetensors"}), "file of objects")
    check_targets(found, [converted_name(path, out, to) for path in found])
    for path in found:
        target = converted_name(path, out, to)
        if target.exists() and not overwrite and not target.samefile(path):
            print(f"{'skipped':8s} {path.name}: {target} is there")
            continue
        try:
            target, count = convert_file(path, out, to, mpp, node_type, check_rings, parts, wanted)
            print(f"{'done':8s} {path.name}: {count} objects in {target}")
        except (ValueError, TypeError, OSError, ArithmeticError) as error:
            failed = True
            print(f"{'failed':8s} {path.name}: {error}")
    if failed:
        raise typer.Exit(1)


@app.command()
def pretrain(
    graphs: Annotated[list[Path], typer.Argument(help="Graph files, or a folder of them.")],
    out: Annotated[Path, _OUT],
    method: Annotated[
        str,
        typer.Option(
            help="hmgdm (graphs of cells or tissue), pama (patches of whole slides) or slpd (regions of slides)."
        ),
    ] = "hmgdm",
    node_type: Annotated[
        str | None, typer.Option(help="Entities: hmgdm tissue, pama and slpd patch by default.")
    ] = None,
    window_um: Annotated[
        float | None,
        typer.Option(help="Side of windows; 0 for whole slides. hmgdm 256, pama 0 by default; not for slpd."),
    ] = None,
    min_nodes: Annotated[int, _MIN_NODES] = 4,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 50,
    batch_size: Annotated[int, _BATCH] = 32,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    hidden_dim: Annotated[int, typer.Option(help="Width of the network, and of the vectors.")] = 128,
    representation: Annotated[
        str | None,
        typer.Option(help="hmgdm: what embed gives later, latent (the paper's, default), layers or decoder."),
    ] = None,
    patches_per_anchor: Annotated[
        float | None, typer.Option(help="pama: patches for each anchor, 144 by default.")
    ] = None,
    mask_ratio: Annotated[
        float | None,
        typer.Option(help="Share that is hidden; hmgdm 0.6 (nodes and edges), pama 0.75 by default."),
    ] = None,
    grid: Annotated[
        int | None, typer.Option(help="slpd: patches along a side of a region, 16 by default.")
    ] = None,
    prototypes: Annotated[
        int | None, typer.Option(help="slpd: clusters of the regions of a slide, 4 by default.")
    ] = None,
    min_regions: Annotated[
        int | None, typer.Option(help="slpd: slides with fewer regions have no prototypes, 32 by default.")
    ] = None,
    start_epoch: Annotated[
        int | None, typer.Option(help="slpd: first epoch with prototypes, a fifth of all by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, masks and order.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = True,
    tensorboard: Annotated[bool, typer.Option(help="Also write TensorBoard logs.")] = False,
    accelerator: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
) -> None:
    """Pre-train a method on graph files; leaves method.safetensors, checkpoints and a CSV log in --out."""
    options = check_options(method, locals())
    import torch

    from histograph.training import pretrain as run

    usual = USUAL[method]
    window = options.pop("window_um", usual.window_um)
    if method == "slpd":
        data = regions_of(graphs, node_type or usual.node_type, options.get("grid", 16), min_nodes)
    else:
        data = _dataset(graphs, node_type or usual.node_type, window, min_nodes)
    torch.manual_seed(seed)
    network = network_of(method, data, hidden_dim, epochs, options)
    frame = run(
        network,
        data,
        epochs=epochs,
        out=out,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        resume=resume,
        tensorboard=tensorboard,
        accelerator=accelerator,
    )
    print(f"loss {frame['loss'].iloc[0]:.4f} -> {frame['loss'].iloc[-1]:.4f} in {len(frame)} epochs")
    print(f"method: {out / 'method.safetensors'}")


@app.command()
def embed(
    graphs: Annotated[list[Path], typer.Argument(help="Graph files, or a folder of them.")],
    out: Annotated[Path, _OUT],
    method: Annotated[Path, typer.Option(help="The file method.safetensors that pretrain left.")],
    node_type: Annotated[
        str | None, typer.Option(help="Entities; as the method usually takes by default.")
    ] = None,
    window_um: Annotated[float, _WINDOW] = 0.0,
    min_nodes: Annotated[int, _MIN_NODES] = 1,
    batch_size: Annotated[int, _BATCH] = 32,
) -> None:
    """Turn graphs into vectors: embeddings.safetensors (graphs, nodes) and embeddings.csv (graphs) in --out.

    For slpd a graph is a slide, its vector the mean of those of its regions, and these are the nodes.
    """
    from histograph.methods import load_method
    from histograph.training import by_slide
    from histograph.training import embed as run
    from histograph.training.loop import writable_folder

    network = load_method(method)
    writable_folder(out)
    name = type(network).__name__
    entities = node_type or ("cell" if name == "GraphSLPD" else usual_of(name).node_type)
    if "grid" in usual_of(name).options:
        regions = regions_of(graphs, entities, network.config.get("region_size", 16), min_nodes)
        vectors = by_slide(run(network, regions, batch_size=batch_size, nodes=False), regions)
    else:
        data = _dataset(graphs, entities, window_um, min_nodes)
        vectors = run(network, data, batch_size=batch_size)
    vectors.save(out / "embeddings.safetensors")
    _write_csv(out / "embeddings.csv", vectors.slide_ids, vectors.graph.numpy())
    count, width = vectors.graph.shape
    print(f"{count} graphs, {width} numbers each: {out / 'embeddings.safetensors'}")


@app.command()
def evaluate(
    embeddings: Annotated[Path, typer.Argument(help="The file embeddings.safetensors that embed left.")],
    labels: Annotated[
        Path,
        typer.Option(
            help="CSV with columns slide_id and label, and group where patients have several slides."
        ),
    ],
    out: Annotated[Path, _OUT],
    probe: Annotated[str, typer.Option(help="linear or knn.")] = "linear",
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation, by group.")] = 5,
    k: Annotated[int | None, typer.Option(help="Neighbours of the knn probe, 10 by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and bootstrap.")] = 0,
) -> None:
    """Ask how well the vectors answer a question: probe with grouped folds and bootstrap intervals."""
    from histograph.atomic import atomic_path
    from histograph.evaluation import knn_probe, linear_probe
    from histograph.evaluation.label_table import read_labels
    from histograph.training import Embeddings
    from histograph.training.loop import writable_folder

    if probe not in ("linear", "knn"):
        raise ValueError(f"--probe must be linear or knn; found '{probe}'")
    if k is not None and probe == "linear":
        raise typer.BadParameter("is for --probe knn", param_hint="--k")
    vectors = Embeddings.load(embeddings)
    table = read_labels(labels, vectors.slide_ids)
    writable_folder(out)
    say_left_out(table.without_vector, f"of {labels} without a vector")
    options: dict[str, Any] = {"groups": table.group, "folds": folds, "seed": seed}
    z, y = vectors.graph.numpy(), table.label
    result = (
        linear_probe(z, y, **options)
        if probe == "linear"
        else knn_probe(z, y, k=10 if k is None else k, **options)
    )
    frame = result.to_frame()
    for name, content in (("probe", frame), ("predictions", result.predictions)):
        with atomic_path(out / f"{probe}_{name}.csv") as part:
            content.to_csv(part, index=False)
    print(frame.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


@app.command()
def quickstart(
    out: Annotated[Path, _OUT] = Path("histograph-quickstart"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    epochs: Annotated[int, typer.Option(help="Passes of pre-training.")] = 60,
) -> None:
    """Run the main job on the bundled slide: graph, pre-training, vectors, evaluation, pictures, report."""
    from histograph.quickstart import quickstart as run

    print(f"report: {run(out, seed=seed, epochs=epochs)}")


@app.command()
def doctor() -> None:
    """Say which parts are usable here, with the line that would install what is missing."""
    from histograph.doctor import report

    text, sound = report()
    print(text)
    if not sound:
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an expected error is one clear line on stderr and exit status 1.

    Parameters
    ----------
    arguments
        The words after `histograph`; by default those of the shell.

    Raises
    ------
    SystemExit
        Always: 0 when all went well, 1 after an error, 2 for wrong usage, 130 after Ctrl-C.

    Examples
    --------
    >>> from histograph.cli import main
    >>> try:
    ...     main(["build", "no-such-slide.svs", "--out", "graphs"])
    ... except SystemExit as stop:
    ...     print(stop.code)
    1
    """
    try:
        app(arguments, prog_name="histograph")
    except KeyboardInterrupt:
        print("histograph: stopped; what was complete is kept", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError, ImportError, ArithmeticError, MemoryError) as error:
        print(f"histograph: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _report(frame) -> None:
    """Print a line for each slide; exit with status 1 where one has failed."""
    for row in frame.to_dict("records"):
        facts = row["error"] if row["status"] == "failed" else f"{row['nodes']} nodes, {row['edges']} edges"
        print(f"{row['status']:8s} {row['slide_id']}: {facts}")
    if (frame["status"] == "failed").any():
        raise typer.Exit(1)


def _mpp_table(path: Path) -> dict[str, float]:
    """Read µm per level-0 pixel by slide id."""
    if not path.exists():
        raise FileNotFoundError(f"no mpp table at {path}")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"slide_id", "mpp"} <= set(rows[0]):
        raise ValueError(
            f"the mpp table {path} needs the columns slide_id and mpp in its header, and a row a slide"
        )
    table: dict[str, float] = {}
    for number, row in enumerate(rows, start=2):
        try:
            table[row["slide_id"]] = float(row["mpp"])
        except (TypeError, ValueError):
            raise ValueError(f"the mpp table {path}, line {number}: {row['mpp']!r} is not a number") from None
    return table


def _slide_files(paths: list[Path]) -> list[Path]:
    """Expand folders to the slides in them; everything else is passed on as it is."""
    from histograph.slides import SLIDE_SUFFIXES

    return _expand(paths, SLIDE_SUFFIXES, "slide")


def _expand(paths: list[Path], suffixes: frozenset[str], what: str) -> list[Path]:
    """Expand folders to the files in them that have one of the suffixes."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no {what} at {path}: check the path")
        if path.is_dir() and path.suffix.lower() not in suffixes:  # a .zarr is one file to its users
            # what other systems leave beside files, such as "._slide.svs", begins with a dot
            found = sorted(p for p in path.glob("[!.]*") if p.suffix.lower() in suffixes)
            if not found:
                raise FileNotFoundError(f"the folder {path} holds no {what} ({', '.join(sorted(suffixes))})")
            files += found
        else:
            files.append(path)
    return files


def _dataset(paths: list[Path], node_type: str, window_um: float, min_nodes: int):
    """Open graph files, or one folder of them, as a dataset of one layer."""
    from histograph.graphs import GraphDataset

    source: Path | list[Path] = paths[0] if len(paths) == 1 and paths[0].is_dir() else paths
    data = GraphDataset(source, node_type=node_type, window_um=window_um or None, min_nodes=min_nodes)
    if len(data) == 0:
        what = f"window of {window_um:g} µm" if window_um else "graph"
        raise ValueError(f"no {what} has at least {min_nodes} nodes of type {node_type}: lower --min-nodes")
    say_left_out(data.left_out, f"with too few nodes of type {node_type}")
    return data


def _write_csv(path: Path, slide_ids: list[str], values) -> None:
    """Write one row a graph."""
    from histograph.atomic import atomic_path

    with atomic_path(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", *(f"z{i}" for i in range(values.shape[1]))])
        writer.writerows(
            [slide_id, *map(repr, map(float, row))] for slide_id, row in zip(slide_ids, values, strict=True)
        )


if __name__ == "__main__":
    main()
