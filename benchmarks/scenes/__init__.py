"""Scenes: a procedural data set, written in the official layouts that Detectron2 reads.

Imports neither torch nor Detectron2. ``shapes.py`` and ``people.py`` say what a class looks like,
``draw.py`` rasterises and textures it, ``scene.py`` composes an image with its labels, one module
per layout (``coco.py``) writes them, and ``generate.py`` fills the folder.
"""
