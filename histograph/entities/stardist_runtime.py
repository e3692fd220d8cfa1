"""What runs a StarDist network on an image: PyTorch, OpenVINO, or the stardist package with TensorFlow."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..nn.stardist_strips import forward_in_strips
from .star_polygons import StarPolygons
from .stardist_files import StarDistModel
from .stardist_keras import keras_network
from .stardist_views import Runner, averaged_views

Backend = Literal["torch", "openvino", "keras"]
BACKENDS = ("torch", "openvino", "keras")

# StarDist keeps distances above this, and makes no nucleus of the two outermost rows and columns of the output.
LEAST_DISTANCE = 1e-3
EDGE = 2


def make_runner(
    model: StarDistModel,
    backend: Backend = "torch",
    mixed_precision: bool = False,
    device: str | torch.device | None = None,
) -> Runner:
    """Prepare a network for use.

    Parameters
    ----------
    model : StarDistModel
        The model.
    backend : {"torch", "openvino", "keras"}
        "openvino" needs the openvino package and runs in as many threads as PyTorch would; "keras" needs the
        stardist package with TensorFlow. All give the same numbers but for rounding.
    mixed_precision : bool
        Compute in bfloat16: about twice as fast where the processor knows it (on Linux ``lscpu`` lists avx512_bf16
        or amx_bf16) and slower where it does not; off by about 0.01 in probability and 0.2 pixels in distance. Never
        chosen for you, so that a result does not depend on the machine. Not with "keras".
    device : str or torch.device, optional
        For "torch", for example "cuda"; default: the CPU.

    Returns
    -------
    callable
        Takes an image (H, W, C) float32, scaled, of a size that fits; returns the probability (h, w), the
        distances (h, w, R) and the probabilities of the kinds (h, w, K) or None, float32, as the network gives them.
        For one call at a time.

    Raises
    ------
    ValueError
        If the backend is unknown, an option does not go with it, or there is no such device.
    ImportError
        If a package is missing; the message says how to install it.

    Examples
    --------
    >>> from histograph.nn.stardist_net import StarDistConfig, StarDistNet
    >>> net = StarDistNet(StarDistConfig(n_rays=4, n_depth=1, n_filter_base=2, features=0)).eval()
    >>> run = make_runner(StarDistModel(net, 0.5, 0.4, "untrained"))
    >>> probability, distance, kinds = run(np.zeros((8, 6, 1), np.float32))
    >>> probability.shape, distance.shape, kinds
    ((8, 6), (8, 6, 4), None)
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, found {backend!r}")
    if device is not None and backend != "torch":
        raise ValueError(f"device: only for backend 'torch', found {device!r} with {backend!r}; leave it out")
    if backend == "keras" and mixed_precision:
        raise ValueError("mixed_precision: not with backend 'keras'; use 'torch' or 'openvino'")
    if backend == "torch":
        run = _torch_runner(model, mixed_precision, device)
    else:
        run = _openvino_runner(model, mixed_precision) if backend == "openvino" else _keras_runner(model)
    return averaged_views(run, model.views, model.config.grid)


def _torch_runner(model: StarDistModel, mixed_precision: bool, device: Any) -> Runner:
    try:
        target = torch.device("cpu" if device is None else device)
        torch.zeros(1, device=target)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise ValueError(
            f"device: {str(device)!r} is not to be had here ({error}); leave it out for the CPU"
        ) from error
    dtype = torch.bfloat16 if mixed_precision else torch.float32
    network: Any = copy.deepcopy(model.network).eval()
    network = network.to(device=target, dtype=dtype, memory_format=torch.channels_last)
    # on a CPU fresh memory and the cache decide; a GPU would wait for the strips
    forward = partial(forward_in_strips, network) if target.type == "cpu" else network

    def run(image: NDArray[np.float32]) -> tuple[NDArray, NDArray, NDArray | None]:
        with torch.inference_mode():
            # an image with its channels last is what channels_last means: no copy
            batch = torch.from_numpy(np.ascontiguousarray(image, np.float32)).permute(2, 0, 1)[None]
            outputs = forward(batch.to(target, dtype))
            return _arrays([output.float().cpu().numpy() for output in outputs])

    return run


def _openvino_runner(model: StarDistModel, mixed_precision: bool) -> Runner:
    try:
        import openvino
    except ImportError as error:
        raise ImportError(
            "backend 'openvino' needs the openvino package: pip install 'histograph[openvino]', or use "
            "backend='torch'"
        ) from error
    rows, cols = model.config.divisor
    example = torch.zeros(1, model.config.n_channel_in, 4 * rows, 4 * cols)
    with warnings.catch_warnings():
        # the check of the image's size is not part of what is converted
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        converted = openvino.convert_model(
            copy.deepcopy(model.network).eval(),
            example_input=example,
            input=[openvino.PartialShape([1, model.config.n_channel_in, -1, -1])],
        )
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if mixed_precision else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(converted, "CPU", settings)

    def run(image: NDArray[np.float32]) -> tuple[NDArray, NDArray, NDArray | None]:
        batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
        found = compiled(batch)
        return _arrays([np.array(found[number], np.float32) for number in range(len(compiled.outputs))])

    return run


def _arrays(outputs: list[NDArray]) -> tuple[NDArray, NDArray, NDArray | None]:
    """Take the outputs (1, channels, h, w) to channels last."""
    prob, dist, *kinds = (np.ascontiguousarray(output[0].transpose(1, 2, 0)) for output in outputs)
    return prob[..., 0], dist, kinds[0] if kinds else None


def _keras_runner(model: StarDistModel) -> Runner:
    network = keras_network(model)

    def run(image: NDArray[np.float32]) -> tuple[NDArray, NDArray, NDArray | None]:
        prob, dist, *kinds = network.predict_on_batch(np.asarray(image, np.float32)[None])
        return np.asarray(prob)[0, ..., 0], np.asarray(dist)[0], np.asarray(kinds[0])[0] if kinds else None

    return run


def scaled(image: NDArray, low: NDArray | float, high: NDArray | float) -> NDArray[np.float32]:
    """Return ``(image - low) / (high - low)`` as float32; an image without contrast becomes about 0.

    Parameters
    ----------
    image : ndarray, (H, W, C)
        The image.
    low, high : float or ndarray, (C,)
        What becomes 0 and 1.

    Returns
    -------
    ndarray, (H, W, C) float32

    Examples
    --------
    >>> scaled(np.array([[[10], [30]]], np.uint8), 10, 30).ravel().tolist()
    [0.0, 1.0]
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    # the small number keeps a blank image from dividing by 0, as in StarDist
    return (image.astype(np.float32) - low) / (high - low + np.float32(1e-20))


def candidates(
    outputs: tuple[NDArray, NDArray, NDArray | None],
    prob_thresh: float,
    grid: tuple[int, int],
    valid: tuple[slice, slice],
    offset: tuple[int, int] = (0, 0),
    most: float = np.inf,
) -> StarPolygons:
    """Make a polygon of every place with enough probability.

    Parameters
    ----------
    outputs : tuple
        Of a runner.
    prob_thresh : float
        Places with more are taken.
    grid : (int, int)
        Of the model.
    valid : (slice, slice)
        Rows and columns of the output to look at.
    offset : (int, int)
        Raster row and column of the output's first place.
    most : float
        Distances are cut to this.

    Returns
    -------
    StarPolygons

    Examples
    --------
    >>> probability = np.array([[0.1, 0.9]], np.float32)
    >>> everywhere = (slice(None), slice(None))
    >>> candidates((probability, np.ones((1, 2, 4)), None), 0.5, (2, 2), everywhere).points.tolist()
    [[0, 2]]
    """
    prob, dist, kinds = outputs
    looked = np.zeros(prob.shape, bool)
    looked[valid] = True
    row, col = np.nonzero((prob > prob_thresh) & looked)
    points = np.stack([row * grid[0] + offset[0], col * grid[1] + offset[1]], axis=1)
    kind = None if kinds is None else kinds[row, col].argmax(axis=1)
    return StarPolygons.of(points, np.clip(dist[row, col], LEAST_DISTANCE, most), prob[row, col], kind)
