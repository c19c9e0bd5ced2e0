"""Segmentation of 3D medical images with SO(3)-steerable networks: a turned scan gives the turned segmentation."""

__version__ = "0.1.0"
