"""Layers unpacked on disk, and the drivers that make a root file system of them.

One on-disk format serves every driver: a layer is a directory tree with overlayfs whiteouts
(character device 0:0) and opaque directories (``user.overlay.opaque=y``).
"""
