"""DICOM series in, DICOM segmentations out; needs the extra `dicom`. Importing this imports nothing heavy."""
