"""Volumes, geometry, label tables and generated scans."""
