"""Trained models for other programs: ONNX, TorchScript, MONAI bundles."""
