"""Manifest lists: one name for an image's manifests of several platforms."""
