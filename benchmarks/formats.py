"""Objects in and out of files: how many a second, and how much memory beside what they take themselves.

    python benchmarks/formats.py [--n 1000000] [--peer-n 100000] [--formats geojson,csv] [--markdown FILE]

The objects are made here: discs of about 40 pixels' outline with a type and two measurements. Every step runs in a
fresh process; its peak memory is told with the memory before it, in which writing holds all objects ("streamed" holds
one piece). Seconds are those of the processor, so that others at work on the machine do not count. The files
lie in a temporary folder and are removed.

Peers do the same with the GeoJSON of `--peer-n` of the objects, as they hold all of it: Python's json, which stops at
lists and dicts, and geopandas, where it is installed, which makes outlines of them. Formats whose package is not
installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from histograph.entities import Entities
from histograph.entities.masks import Masks, pack
from histograph.formats import FORMATS, iter_geojson, read_entities, to_geojson, write_entities

MPP, PITCH, RADIUS = 0.25, 32, 7
PIECE = 5_000
#: Steps: name -> what is written or read. "streamed" is the pair that never holds all objects.
NAMES = ["geojson streamed", *(name for name in FORMATS if name != "png")]
PEERS = ["peer json", "peer geopandas"]
NEEDS = {"h5ad": "anndata", "spatialdata": "spatialdata", "peer geopandas": "geopandas"}


def objects(first: int, last: int, columns: int) -> Entities:
    """Return discs with the labels `first` + 1 … `last` on a grid of some columns."""
    row, col = np.mgrid[: 2 * RADIUS + 1, : 2 * RADIUS + 1] - RADIUS
    disc = (row**2 + 1.3 * col**2 <= RADIUS**2).astype(np.int32)
    one, count, _ = pack(disc, np.array([1]))
    number = np.arange(first, last)
    corner = np.stack(np.divmod(number, columns), axis=1) * PITCH + 4
    box = one.boxes[0] + np.tile(corner, 2)
    masks = Masks(np.tile(one.bits, len(number)), np.arange(len(number) + 1) * len(one.bits), box)
    rng = np.random.default_rng(first)
    return Entities(
        "cell",
        number + 1,
        (corner[:, ::-1] + RADIUS + 0.5) * MPP,
        box[:, [1, 0, 3, 2]] * MPP,
        np.full(len(number), float(count[0]) * MPP**2),
        MPP,
        masks,
        {},
        None,
        {
            "type": np.array(["tumour", "stroma", "lymphocyte"])[rng.integers(0, 3, len(number))],
            "prob": rng.random(len(number)),
            "Area µm^2": rng.random(len(number)),
        },
    )


def pieces(n: int) -> Iterator[Entities]:
    """Yield the objects a piece at a time."""
    for first in range(0, n, PIECE):
        yield objects(first, min(first + PIECE, n), int(np.sqrt(n)))


def peak() -> float:
    """Return the highest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size(path: Path) -> int:
    """Return the bytes of a file, or of all in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size


def step(name: str, verb: str, n: int, folder: Path) -> dict[str, Any]:
    """Run one step in this process; compile what it needs on a few objects first."""
    streamed = name.endswith("streamed")
    form = name.split()[0]
    for count in (50, n):
        path = folder / f"{name.replace(' ', '_')}_{count}{FORMATS[form]}"
        source: Any = (
            pieces(count) if streamed else objects(0, count, int(np.sqrt(count))) if verb == "write" else None
        )
        before, start = peak(), time.process_time()
        if verb == "write":
            to_geojson(source, path, MPP) if streamed else write_entities(source, path, form, MPP)
            found = count
        elif streamed:
            found = sum(len(part) for part in iter_geojson(path))
        else:
            found = len(read_entities(path, MPP))
        seconds = time.process_time() - start
        if found != count:
            raise SystemExit(f"{name}: {count} objects written, {found} read")
    return {"seconds": seconds, "before": before, "peak": peak(), "bytes": size(path)}


def peer(name: str, verb: str, n: int, folder: Path) -> dict[str, Any]:
    """Run one step of a peer in this process, on the GeoJSON that we write."""
    path, again = folder / "ours.geojson", folder / "theirs.geojson"
    if not path.exists():
        to_geojson(pieces(n), path, MPP)
    if name == "peer json":

        def read() -> Any:
            with path.open() as file:
                return json.load(file)

        def write(value: Any) -> None:
            with again.open("w") as file:
                json.dump(value, file)

        def count(value: Any) -> int:
            return len(value["features"])
    else:
        import geopandas

        geopandas.read_file(path, rows=50)

        def read() -> Any:
            return geopandas.read_file(path)

        def write(value: Any) -> None:
            value.to_file(again, driver="GeoJSON")

        count = len
    source = read() if verb == "write" else None
    before, start = peak(), time.process_time()
    if verb == "write":
        write(source)
    else:
        source = read()
    seconds = time.process_time() - start
    if count(source) != n:
        raise SystemExit(f"{name}: {n} objects written, {count(source)} read")
    size = (again if verb == "write" else path).stat().st_size
    return {"seconds": seconds, "before": before, "peak": peak(), "bytes": size}


def child(name: str, verb: str, n: int, folder: Path) -> dict[str, Any]:
    """Run one step in a fresh process."""
    words = [sys.executable, __file__, "--n", str(n), "--step", name, verb, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, n: int, usual: int) -> str:
    """Measure a format and return its row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        cells = [name if n == usual else f"{name}, {n:,} objects"]
        for verb in ("write", "read"):
            result = child(name, verb, n, Path(folder))
            if verb == "write":
                cells.append(f"{result['bytes'] / 1e6:,.0f}")
            cells += [f"{n / result['seconds']:,.0f}", f"{result['before']:,.0f} → {result['peak']:,.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1_000_000, help="objects")
    parser.add_argument("--peer-n", type=int, default=100_000, help="objects of peers, at most --n")
    parser.add_argument("--formats", default=",".join(NAMES + PEERS), help="comma-separated")
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        name, verb, folder = options.step
        run = peer if name in PEERS else step
        print(json.dumps(run(name, verb, options.n, Path(folder))))
        return 0
    lines = [
        f"{options.n:,} objects.",
        "",
        "| format | file, MB | written, objects/s | before → peak, MB | read, objects/s | before → peak, MB |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for name in options.formats.split(","):
        if name not in NAMES + PEERS:
            parser.error(f"--formats: {name!r} is none of {', '.join(NAMES + PEERS)}")
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
            print(f"({name}: {NEEDS[name]} is not installed)", file=sys.stderr)
            continue
        lines.append(row(name, min(options.n, options.peer_n) if name in PEERS else options.n, options.n))
        print(lines[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
