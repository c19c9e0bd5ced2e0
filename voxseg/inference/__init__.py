"""From a scan to a segmentation in its own grid."""
