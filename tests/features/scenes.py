"""Small synthetic scenes, and a slide in memory, that the tests of this room share."""

from __future__ import annotations

import numpy as np

from histograph.entities import Entities


def blobs(size=90, count=40, seed=0):
    """Return touching, often concave or split labels with gaps in their numbers, and a random image."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    instance_map = np.zeros((size, size), np.int32)
    for i in range(count):
        y, x = rng.uniform(0, size, 2)
        a, b, t = rng.uniform(2, 11), rng.uniform(1, 6), rng.uniform(0, np.pi)
        u = (columns - x) * np.cos(t) + (rows - y) * np.sin(t)
        v = (rows - y) * np.cos(t) - (columns - x) * np.sin(t)
        instance_map[(u / a) ** 2 + (v / b) ** 2 <= 1] = 3 * i + 2
    coarse = rng.uniform(0, 255, (size // 6 + 2, size // 6 + 2, 3)).repeat(6, 0).repeat(6, 1)[:size, :size]
    image = np.clip(coarse + rng.normal(0, 20, (size, size, 3)), 0, 255).astype(np.uint8)
    return instance_map, image


class ArraySlide:
    """A slide as the features meet it: pixels of one size, white outside, whole pixels only."""

    def __init__(self, image, mpp):
        self.image, self.pixel = image, mpp
        self.reads = []

    def read_region(self, x_um, y_um, width_um, height_um, mpp=None):
        scale = round((mpp or self.pixel) / self.pixel)
        x, y, w, h = (round(v / self.pixel) for v in (x_um, y_um, width_um, height_um))
        self.reads.append((x_um, y_um, width_um, height_um))
        padded = np.full((h, w, 3), 255, np.uint8)
        height, width = self.image.shape[:2]
        r0, r1, c0, c1 = max(y, 0), min(y + h, height), max(x, 0), min(x + w, width)
        if r1 > r0 and c1 > c0:
            padded[r0 - y : r1 - y, c0 - x : c1 - x] = self.image[r0:r1, c0:c1]
        if scale == 1:
            return padded
        return padded.reshape(h // scale, scale, w // scale, scale, 3).mean(axis=(1, 3)).astype(np.uint8)


def rectangles(boxes_um, mpp):
    """Grid entities without masks."""
    boxes = np.asarray(boxes_um, dtype=np.float64)
    centroid = (boxes[:, :2] + boxes[:, 2:]) / 2
    label = np.arange(1, len(boxes) + 1)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Entities("patch", label, centroid, boxes, area, mpp)
