"""SLPD from slides to pictures in one file that reads from top to bottom.

    python benchmarks/slpd/example.py [--data FOLDER] [--out FOLDER] [--epochs 16]

FOLDER holds slides, or one folder of them for each class. Without it slides are pieced together of the 400 bundled
patches, with tumour in a corner of every other one, so that what is found can be compared with what was put there; less
than a minute on two cores. Writes graphs, the trained method, vectors of regions and slides and a picture to `--out`,
and prints what a linear probe finds in the slides' vectors where there are classes. A minute of training shows how it
is used, not what it is worth.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.metrics import adjusted_rand_score

import histograph as hg
from histograph.evaluation import linear_probe, slide_means
from histograph.graphs import RegionDataset
from histograph.methods import SLPD

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--data", type=Path, help="folder of slides, or of one folder a class; made-up ones by default"
)
parser.add_argument("--out", type=Path, default=Path("runs/slpd/example"))
parser.add_argument("--mpp", type=float, help="micrometres per pixel of slides that do not say")
parser.add_argument(
    "--patch-um", type=float, help="side of a patch; 128 is published, 93.3 that of the made-up ones"
)
parser.add_argument(
    "--side", type=int, help="patches along a side of a region; 16 is published, 4 for the made-up ones"
)
parser.add_argument("--prototypes", type=int, default=2, help="clusters of a slide")
parser.add_argument("--slides", type=int, default=16, help="number of made-up slides, a multiple of 8")
parser.add_argument("--epochs", type=int, default=16)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
if options.slides < 8 or options.slides % 8:
    parser.error(f"--slides must be a multiple of 8; found {options.slides}")

# Slides, their classes, and whose they are. Made-up patients share no patch, and have slides of both classes.
slides, y, patients, kinds = [], [], [], []
if options.data is None:
    PATIENTS, ROWS, COLUMNS, SIDE = 4, 4, 6, 4
    bundled, rng = hg.bundled.patches(), np.random.default_rng(options.seed)
    options.patch_um, options.side = 96 * bundled.mpp, SIDE
    for number in range(options.slides):
        patient, tumour = number * PATIENTS // options.slides, number % 2
        kind = np.zeros((ROWS, COLUMNS), int)
        kind[: ROWS // 2, : COLUMNS // 2] = tumour
        strips = []
        for row in kind.repeat(SIDE, 0).repeat(SIDE, 1):
            pool = [np.flatnonzero((bundled.y == k) & (bundled.group % PATIENTS == patient)) for k in (0, 1)]
            tiles = [np.rot90(bundled.images[rng.choice(pool[k])], rng.integers(4)) for k in row]
            strips.append(np.concatenate(tiles, axis=1))
        image = np.ascontiguousarray(np.concatenate(strips))
        kinds.append(kind)
        slides.append(hg.open_slide(image, mpp=bundled.mpp, slide_id=f"patient {patient}, slide {number}"))
        y.append(tumour)
        patients.append(str(patient))
else:
    options.patch_um, options.side = options.patch_um or 128.0, options.side or 16
    suffixes = {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".png", ".jpg"}
    paths = sorted(path for path in options.data.rglob("*") if path.suffix.lower() in suffixes)
    if not paths:
        parser.error(f"--data: {options.data} holds no file that ends in {', '.join(sorted(suffixes))}")
    slides = [hg.open_slide(path, mpp=options.mpp) for path in paths]
    y = np.unique([path.parent.name for path in paths], return_inverse=True)[1].tolist()
    patients = [slide.slide_id for slide in slides]

# A slide becomes a graph of patches in regions; here with features made by hand. Where a region has no tissue it has no
# patch: nothing stands in for it.
region_um = options.side * options.patch_um
sizes = {"patch": {"size_um": options.patch_um}, "region": {"size_um": region_um}}
(options.out / "graphs").mkdir(parents=True, exist_ok=True)
files = []
for slide in slides:
    mask = None if options.data is None else "auto"
    graph = hg.build_graph(slide, sizes, features={"patch": ("color", "texture")}, mask=mask, progress=False)
    files.append(options.out / "graphs" / f"{slide.slide_id}.safetensors")
    hg.save(graph, files[-1])
data = RegionDataset(files, patients=patients, grid=options.side)
print(f"{len(data.slide_ids)} slides, {len(data)} regions of {options.side} x {options.side} patches at most")

# Half of the epochs are plain self-distillation of regions; then their prototypes, and those of similar slides of
# other patients, are targets too.
torch.manual_seed(options.seed)
method = SLPD(
    data.feature_dim,
    dim=48,
    depth=2,
    heads=3,
    region_size=options.side,
    global_size=max(1, int(options.side * 0.875)),  # 14 of 16
    local_size=max(1, round(options.side * 0.375)),  # 6 of 16
    local_views=4,
    out_dim=256,
    head_dim=128,
    bottleneck_dim=48,
    momentum=0.98,
    prototypes=options.prototypes,
    min_regions=2 * options.prototypes,
    start_epoch=options.epochs // 2,
)
before = hg.embed(method, data, progress=False)
log = hg.pretrain(
    method,
    data,
    epochs=options.epochs,
    out=options.out,
    batch_size=32,
    lr=2e-3,
    weight_decay=0.04,
    gradient_clip=3.0,
    warmup=0.1,
    seed=options.seed,
    resume=False,
)
last = log.iloc[-1]  # each of the three losses cannot fall below the entropy of what the teacher says
print("; ".join(f"{name} {last[name]:.3f}" for name in ("self", "intra", "inter", "entropy")))

# Regions become vectors: the teacher's class token of all their patches. A slide is the mean of its regions.
vectors = hg.embed(method, data, progress=False)
vectors.save(options.out / "vectors.safetensors")
of_slides = {name: slide_means(z.graph, data.slide) for name, z in (("untrained", before), ("SLPD", vectors))}
np.savez(options.out / "slides.npz", z=of_slides["SLPD"], slide_id=data.slide_ids)
if len(set(y)) > 1 and np.bincount(y).min() >= 4:
    print("\n| vectors of slides | linear probe of classes, AUC |\n|---|---|")
    for name, z in of_slides.items():
        probe = linear_probe(z, y, groups=data.patients, folds=min(4, len(set(patients))), metrics=("auc",))
        print("| {} | {:.3f} [{:.3f}, {:.3f}] |".format(name, *probe.metrics["auc"]))

# The prototypes of the teacher as it is now; the slides most like each other, and what matches in them.
method.refresh(data)
table = method.prototypes
shown = int((table.valid.long() * (1 + torch.tensor(y))).argmax())
other = int(table.neighbor[shown, 0])
if kinds:
    place = (data.pos / region_um).long()
    put = torch.stack([torch.from_numpy(kind) for kind in kinds])[data.slide, place[:, 1], place[:, 0]]
    index = [
        adjusted_rand_score(put[data.slide == s], table.assignment[data.slide == s])
        for s in range(1, len(kinds), 2)
    ]
    print(f"\nclusters against where tumour was put, mean adjusted Rand index: {np.mean(index):.2f}")
space = torch.cat([method.prototype_space(data[i]) for i in range(len(data))])
colors = colormaps["tab10"].colors
figure = Figure(figsize=(13, 8), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(3, 2))
order = torch.arange(options.prototypes)
pairs = [(shown, order)] if other < 0 else [(shown, order), (other, table.matching[shown, 0].argsort())]
for ax, (number, color_of) in zip(np.atleast_1d(top.subplots(1, len(pairs))), pairs, strict=True):
    slide = slides[number]
    ax.imshow(slide.thumbnail(900), extent=(0, slide.size_um[0], slide.size_um[1], 0))
    for row in (data.slide == number).nonzero()[:, 0].tolist():
        corner = (data.pos[row] - region_um / 2).tolist()
        color = colors[int(color_of[table.assignment[row]]) % 10]
        ax.add_patch(Rectangle(corner, region_um, region_um, facecolor=(*color, 0.35), edgecolor=color))
    ax.set_title(f"{slide.slide_id}" + (", the most similar one" if number != shown else ""), fontsize=10)
    ax.set_axis_off()
axes = bottom.subplots(options.prototypes, 6, squeeze=False)
for cluster, row in enumerate(axes):
    alike = space @ table.unit()[shown, cluster]
    for ax, region in zip(row, alike.argsort(descending=True).tolist(), strict=False):
        slide, corner = slides[int(data.slide[region])], (data.pos[region] - region_um / 2).tolist()
        ax.imshow(slide.read_region(*corner, region_um, region_um, mpp=region_um / 160))
        ax.set_xticks([])
        ax.set_yticks([])
        for line in ax.spines.values():
            line.set(color=colors[cluster % 10], linewidth=3)
    row[0].set_ylabel(f"nearest to\nprototype {cluster}", fontsize=9)
figure.savefig(options.out / "slides.png", dpi=110)
print(f"\nThe picture is {options.out / 'slides.png'}.")
