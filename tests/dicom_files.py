"""DICOM series made by code, for the tests of whatever reads or writes DICOM."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SECRET = "Zebulon^Quixote"
SECRETS = ("zebulon", "quixote", "pid-77231", "acc-5519", "dr-strange", "19530704")
"""What identifies the patient of these files, in small letters."""


def head(shape=(40, 44, 36)):
    """A head-like scan `[X, Y, Z]`: a noisy ball in empty space, off the centre."""
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    noise = np.random.default_rng(0).integers(300, 900, shape)
    return (noise * ((x - 2) ** 2 + (y + 3) ** 2 + (z - 1) ** 2 < 15**2)).astype(np.int16)


def base(sop_class=MR, number=1, study="1.2.3.1", series=None, description="T1 mprage"):
    """A dataset without image and place, of a patient with a name."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = SECRET, "PID-77231", "19530704", "O"
    ds.AccessionNumber, ds.ReferringPhysicianName = "ACC-5519", "DR-STRANGE"
    ds.StudyID, ds.StudyDate, ds.StudyTime, ds.StudyInstanceUID = "1", "20200101", "101010", study
    ds.SeriesInstanceUID = series or f"{study}.{number}"
    ds.SeriesNumber, ds.SeriesDescription = number, description
    ds.FrameOfReferenceUID = f"{study}.99"
    ds.PositionReferenceIndicator = ""
    ds.Modality = "CT" if sop_class == CT else "MR"
    ds.Manufacturer = "nobody"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.InstanceNumber = 1
    return ds


def set_pixels(ds, array):
    """Put `[rows, columns]` or `[frames, rows, columns]` of 16 bits into a dataset."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = array.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    ds.PixelData = np.ascontiguousarray(array).tobytes()
    if array.ndim == 3:
        ds.NumberOfFrames = len(array)


def slices(data, axes=AXIAL, spacing=(2.0, 2.0, 2.0), origin=(-40.0, -50.0, -30.0), tilt=0.0, backwards=False, **names):
    """The datasets of a classic series, one a slice.

    Args:
        data: `[columns, rows, slices]` integers.
        axes: LPS directions in which columns and rows are counted.
        spacing: mm between columns, rows, slices.
        origin: LPS position of the first pixel.
        tilt: mm by which each slice lies further in the direction of rows than the one before.
        backwards: whether slices run against the normal.
        names: of `base`.
    """
    row, column = np.array(axes[0]), np.array(axes[1])
    normal = np.cross(row, column) * (-1 if backwards else 1)
    result = []
    for k in range(data.shape[2]):
        ds = base(**names)
        set_pixels(ds, data[:, :, k].T)
        ds.PixelSpacing = [spacing[1], spacing[0]]
        ds.SliceThickness = spacing[2]
        ds.ImageOrientationPatient = [round(float(v), 12) for v in (*row, *column)]
        place = np.array(origin) + k * (normal * spacing[2] + column * tilt)
        ds.ImagePositionPatient = [round(float(v), 10) for v in place]
        ds.InstanceNumber = k + 1
        result.append(ds)
    return result


def enhanced(data, axes=AXIAL, spacing=(2.0, 2.0, 2.0), origin=(-40.0, -50.0, -30.0), order=None, **names):
    """A multi-frame dataset, frames in the given order; arguments as of `slices`."""
    order = range(data.shape[2]) if order is None else order
    ds = base(**({"sop_class": ENHANCED_MR} | names))
    set_pixels(ds, np.stack([data[:, :, k].T for k in order]))
    row, column = np.array(axes[0]), np.array(axes[1])
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing[1], spacing[0]], spacing[2]
    orientation.ImageOrientationPatient = [round(float(v), 12) for v in (*row, *column)]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in order:
        group, position = Dataset(), Dataset()
        place = np.array(origin) + k * np.cross(row, column) * spacing[2]
        position.ImagePositionPatient = [round(float(v), 10) for v in place]
        group.PlanePositionSequence = Sequence([position])
        frames.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return ds


def write(datasets, folder: Path, seed: int | None = 0) -> Path:
    """Write datasets into a folder, under names that say nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(seed).permutation(len(datasets)) if seed is not None else range(len(datasets))
    for name, ds in zip(names, datasets, strict=True):
        ds.save_as(folder / f"IM{ds.SeriesNumber:02d}{name:04d}", enforce_file_format=True)
    return folder
