"""StarDist models in the stardist package itself, with Keras and TensorFlow."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from .stardist_files import StarDistModel, numbered, package_files


def keras_network(model: StarDistModel) -> Any:
    """Return the Keras network of a model, made by the stardist package.

    A model that came from a StarDist folder or zip is opened by stardist itself. For any other, such as a file of
    `save_stardist`, stardist builds the network of its config, and the weights are put in.

    Parameters
    ----------
    model : StarDistModel
        The model.

    Returns
    -------
    keras.Model

    Raises
    ------
    ImportError
        If stardist or TensorFlow is missing; the message says how to install them.

    Examples
    --------
    >>> from importlib.util import find_spec
    >>> from histograph.nn.stardist_net import StarDistConfig, StarDistNet
    >>> net = StarDistNet(StarDistConfig(n_rays=4, n_depth=1, n_filter_base=2, features=0)).eval()
    >>> if find_spec("tensorflow") and find_spec("stardist"):
    ...     found = keras_network(StarDistModel(net, 0.5, 0.4, "untrained")).count_params()
    ...     assert found == sum(weight.numel() for weight in net.parameters())
    """
    try:
        from stardist.models import Config2D, StarDist2D
    except (ImportError, RuntimeError) as error:  # without TensorFlow csbdeep raises a RuntimeError
        raise ImportError(
            "backend 'keras' needs stardist and TensorFlow: pip install 'histograph[stardist]', or use "
            f"backend='torch', which runs the same model ({error})"
        ) from error
    with redirect_stdout(StringIO()):  # stardist prints what it loads
        if model.source is not None:
            return _opened(StarDist2D, model.source)
        settings = {key: value for key, value in model.config.to_dict().items() if key != "n_dim"}
        network = StarDist2D(Config2D(axes="YXC", **settings), name="model", basedir=None).keras_model
    _fill(network, model)
    return network


def _opened(stardist2d: Any, source: Path) -> Any:
    """Open a folder or zip with the stardist package, with those of its weights that we read too."""
    files, _ = package_files(source)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return stardist2d(None, name=Path(folder).name, basedir=str(Path(folder).parent)).keras_model


def _fill(network: Any, model: StarDistModel) -> None:
    """Copy the weights into a Keras network."""
    layers = {layer.name: layer for layer in network.layers}
    unnamed, norms = (iter(numbered(layers, kind)) for kind in ("conv2d", "batch_normalization"))
    for name, conv, norm in model.network.keras_layers():
        kernel, bias = (value.cpu().numpy() for value in conv.state_dict().values())
        layers[next(unnamed) if name is None else name].set_weights([kernel.transpose(2, 3, 1, 0), bias])
        if norm is not None:
            # gamma, beta, mean and variance; the fifth, the number of batches, Keras does not keep
            layers[next(norms)].set_weights([value.cpu().numpy() for value in norm.state_dict().values()][:4])
