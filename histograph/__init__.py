"""histograph: from histopathology slides to graphs, and from graphs to vectors.

A slide becomes entities, entities become a graph, a graph becomes vectors, and vectors answer a question.
Importing the package is cheap: torch, plotting and the slide readers load when a name is first used.
"""

import lazy_loader as _lazy

# `__init__.pyi` lists the public names once, for the lazy loader and for type checkers.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
