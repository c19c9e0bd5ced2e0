"""What the numbers in label files mean: as the user says, as the files say, or FreeSurfer's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from voxseg.data.datasets.case import some
from voxseg.data.label_scheme import LabelScheme, Region
from voxseg.data.labels import Label, LabelTable
from voxseg.data.segmentation import read_label_names
from voxseg.data.volume import read_array
from voxseg.errors import UserError
from voxseg.evaluation.pairs import Pair
from voxseg.evaluation.read_pair import LabelFile, read_label_file
from voxseg.inference.locate import locate_model, packaged_models
from voxseg.training.config_file import find_config, packaged_configs, read_yaml

__all__ = ["Labelling", "advice", "labels_found", "labels_given"]

LOOKED_AT = 3
"""Pairs of each model that are read to find out what their ids mean."""

WRITTEN_BY = re.compile(r"voxseg \S+, model (\S+)")
SIDES = re.compile(r"^(?P<a>left|right|lh|rh)[-_ ](?P<b>.+)$|^(?P<c>.+)[-_ ](?P<d>left|right|lh|rh)$", re.IGNORECASE)


@dataclass(frozen=True)
class Labelling:
    """What ids mean.

    Attributes:
        scheme: classes, merged sides, regions.
        source: who says so, for people.
        whole_table: whether the scheme is a table of far more labels than are in the files.
        hint: other labels that may be wanted; "" if there are none.
    """

    scheme: LabelScheme
    source: str
    whole_table: bool = False
    hint: str = ""


@dataclass(frozen=True)
class _Sample:
    """A pair that was looked at.

    Attributes:
        pair: which.
        predicted: ids in the prediction, and `true`: in the reference.
        names: of the labels, in the header of the prediction.
        model: that the header of the prediction names.
    """

    pair: Pair
    predicted: frozenset[int]
    true: frozenset[int]
    names: Mapping[int, str] = field(default_factory=dict)
    model: str = ""


def labels_given(text: str) -> Labelling:
    """What `--labels` names: a model, a training config or a label table.

    Args:
        text: name of a packaged model or config, a model folder, the folder of a run, a YAML or a CSV file. A packaged
            model wins over a packaged config of the same name.

    Raises:
        UserError: if there is no such thing, or it has no labels that make sense.
    """
    path = Path(text)
    if text in packaged_models():
        return Labelling(_of_config(locate_model(text) / "config.yaml"), f"the model {text}")
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return Labelling(of_table(LabelTable.read(path)), path.name)
    if path.is_dir():
        for folder in (path, path / "model"):
            if (folder / "config.yaml").is_file() and "labels" in read_yaml(folder / "config.yaml"):
                return Labelling(_of_config(folder / "config.yaml"), f"the model folder {path.name}")
            if (folder / "labels.csv").is_file():
                return Labelling(of_table(LabelTable.read(folder / "labels.csv")), f"{path.name}/labels.csv")
        raise UserError(f"--labels {text}", "is a folder without config.yaml and labels.csv", "give a model folder")
    if path.is_file() or text in packaged_configs():
        return Labelling(_of_config(find_config(text)), f"the config {path.name}")
    known = ", ".join(dict.fromkeys([*packaged_models(), *packaged_configs()]))
    problem = "there is no such file, and no such packaged model or config"
    raise UserError(f"--labels {text}", problem, f"give a labels.csv, a model folder, or one of {known}")


def labels_found(
    pairs: Sequence[Pair], names: Mapping[int, str], regions: Mapping[str, tuple[int, ...]], title: str = ""
) -> Labelling:
    """What the files themselves say of their ids; FreeSurfer's table if they say nothing and fit it.

    Args:
        pairs: of all models; a few of each are read.
        names: of the ids, from the description of the data set of the references.
        regions: that it declares.
        title: of its layout.

    Raises:
        UserError: if nothing fits, or what is found cannot be right; the message names `--labels`.
    """
    samples = _samples(pairs)
    if not samples:  # each file will be told of
        return Labelling(of_table(LabelTable.freesurfer()), "FreeSurfer's table", True)
    found = _by_headers(samples)
    if found is None and names:
        found = Labelling(_of_names(names, regions), f"the description of the data set{f' ({title})' if title else ''}")
    if found is None:
        found = Labelling(of_table(LabelTable.freesurfer()), "FreeSurfer's table", True)
    _check(samples, found)
    return replace(found, hint=_regions_hint(samples, title)) if not found.scheme.regions else found


def of_table(table: LabelTable) -> LabelScheme:
    """All labels of a table; any other id is a mistake."""
    rows = []
    for label in table:
        partner = table.by_id(label.partner) if label.partner is not None and label.partner in table else None
        paired = partner is not None and partner.partner == label.id and {label.side, partner.side} == {"left", "right"}
        rows.append(
            {
                "id": label.id,
                "name": label.name,
                "colour": label.colour,
                "side": label.side,
                "partner": label.partner if paired else None,
            }
        )
    values = {"classes": table.ids, "merge_sides": False, "table": rows, "unlisted": "refuse"}
    return LabelScheme.model_validate(values)


def advice(ids: Iterable[int], scheme: LabelScheme) -> str:
    """What `--labels` may mend where a scheme lacks ids of a case."""
    ids = set(ids)
    freesurfer = LabelTable.freesurfer()
    merged = {i for i in ids if i in freesurfer and freesurfer.by_id(i).partner in scheme.classes}
    fitting = [name for name, other in _packaged().items() if other != scheme and _fits(ids, other)]
    if fitting:
        return f"give --labels {fitting[0]}, which knows all of this case" + (
            " and takes both sides together" if merged and _packaged()[fitting[0]].merge_sides else ""
        )
    if ids <= set(freesurfer.ids):
        return "they are in FreeSurfer's table: give --labels with a model or a labels.csv that has them"
    return "give --labels with a model, a training config or a labels.csv that has them, or correct the file"


def _samples(pairs: Sequence[Pair]) -> list[_Sample]:
    """The first readable pairs of each model."""
    samples: list[_Sample] = []
    counts: dict[str, int] = {}
    for pair in pairs:
        if counts.get(pair.model, 0) >= LOOKED_AT:
            continue
        try:
            predicted, true = read_label_file(pair.prediction), read_label_file(pair.reference)
            names, model = _header(predicted)
        except UserError:
            continue
        counts[pair.model] = counts.get(pair.model, 0) + 1
        samples.append(_Sample(pair, frozenset(predicted.counts), frozenset(true.counts), names, model))
    return samples


def _regions_hint(samples: Sequence[_Sample], title: str) -> str:
    """That the regions of a challenge are scored with the labels of its training config."""
    ids = frozenset().union(*(sample.predicted | sample.true for sample in samples))
    fitting = [name for name, scheme in _packaged().items() if scheme.regions and ids <= set(scheme.classes)]
    if not title.startswith("BraTS") or not fitting:
        return ""
    return f"for the regions of the challenge give --labels {' or '.join(fitting)}"


def _header(file: LabelFile) -> tuple[dict[int, str], str]:
    """Names of labels, and the model, in the header of a segmentation."""
    header = read_array(file.path, labels=True).header
    if header is None:
        return {}, ""
    try:
        names = read_label_names(header)
    except (ValueError, KeyError, SyntaxError):  # other programs keep other things there
        names = {}
    written = WRITTEN_BY.fullmatch(bytes(header["descrip"].item()).decode("ascii", "replace").strip("\0 "))
    return names, written[1] if written else ""


def _by_headers(samples: Sequence[_Sample]) -> Labelling | None:
    """What the headers of the predictions say."""
    declaring = [sample for sample in samples if sample.names]
    if not declaring:
        return None
    models = {sample.model for sample in declaring}
    model = next(iter(models))
    if len(models) == 1 and model in packaged_models():
        folder = locate_model(model)
        ids = LabelTable.read(folder / "labels.csv").ids
        if all(sorted(sample.names) == sorted(ids) for sample in declaring):
            return Labelling(_of_config(folder / "config.yaml"), f"the model {model}, which the predictions name")
    names: dict[int, str] = {}
    for sample in declaring:
        for i, name in sample.names.items():
            if names.setdefault(i, name) != name:
                problem = f"calls the label {i} {name}, and {declaring[0].pair.prediction.name} {names[i]}"
                raise UserError(sample.pair.prediction, problem, "say with --labels what the numbers mean")
    return Labelling(_of_names(names), "the headers of the predictions")


def _check(samples: Sequence[_Sample], found: Labelling) -> None:
    """Refuse labels that none of the pairs looked at fits, and sides that one file has and the other has not."""
    scheme = found.scheme
    odd = [(s, scheme.unknown(set(s.predicted | s.true))) for s in samples]
    if all(ids for _, ids in odd):
        sample, ids = odd[0]
        path = sample.pair.prediction if set(ids) & sample.predicted else sample.pair.reference
        problem = f"holds the label{'s' * (len(ids) > 1)} {some(ids, 5)}, which {found.source} lack"
        if not found.source.endswith("predictions"):
            problem += "s"
        raise UserError(path, problem, advice(sample.predicted | sample.true, scheme))
    if not found.whole_table:
        return
    merged = [(s, _one_sided(s.predicted, s.true, scheme), _one_sided(s.true, s.predicted, scheme)) for s in samples]
    for k, which in ((1, "prediction"), (2, "reference")):
        if all(row[k] for row in merged):
            path = getattr(merged[0][0].pair, which)
            other = "reference" if which == "prediction" else "prediction"
            problem = f"has the ids of the left side alone, and the {other} those of both sides"
            names = [n for n, s in _packaged().items() if s.merge_sides and samples[0].predicted <= _meant(s)]
            example = f"--labels {names[0]}" if names else "--labels and a model or config with merge_sides"
            raise UserError(path, problem, f"if both sides are one structure there, give {example}")


def _one_sided(ids: frozenset[int], others: frozenset[int], scheme: LabelScheme) -> bool:
    """Whether the left ids of a file stand for both sides, as the other file suggests."""
    table = scheme.base
    right = {label.id for label in table if label.side == "right"}
    lefts = {label.id for label in table if label.side == "left" and label.id in ids and label.partner in others}
    return not ids & right and len(lefts) > 0


def _of_config(path: Path) -> LabelScheme:
    """The block `labels` of a training config or of a model's `config.yaml`; with sides if results have them."""
    contents: dict[str, Any] = read_yaml(path)
    values: Any = contents.get("labels")
    if values is None:
        raise UserError(path, "has no block labels", "give a training config, a model folder or a labels.csv")
    try:
        scheme = LabelScheme.model_validate(values)
        return scheme.apart() if (contents.get("postprocessing") or {}).get("sides") else scheme
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, ("labels", *first["loc"])))
        raise UserError(path, f"{key}: {first['msg'].removeprefix('Value error, ')}", "correct it") from None
    except yaml.YAMLError as error:
        raise UserError(path, f"is not valid YAML ({error})", "correct it") from None


def _of_names(names: Mapping[int, str], regions: Mapping[str, tuple[int, ...]] | None = None) -> LabelScheme:
    """The labels that are named somewhere; FreeSurfer's colours and sides where the names are its own."""
    freesurfer = LabelTable.freesurfer()
    if len(names) > 255:
        raise UserError("labels", f"{len(names)} are named, and 255 can be told apart", "give --labels")
    partners = _partners(names)
    rows: list[dict[str, Any]] = []
    for i, name in sorted(names.items()):
        own: Label | None = freesurfer.by_id(i) if i in freesurfer else None
        side, partner = partners.get(i, ("none", None))
        known = own is not None and name.lower() in (own.name.lower(), own.name.lower().split("-", 1)[-1])
        rows.append({"id": i, "name": name or str(i), "side": side, "partner": partner})
        if own is not None and known:
            rows[-1]["colour"] = own.colour
    values = {"classes": sorted(names), "merge_sides": False, "table": rows, "unlisted": "refuse"}
    scheme = LabelScheme.model_validate(values)
    if regions:
        # A later region is painted over an earlier one, so that the larger come first.
        ordered = sorted(regions.items(), key=lambda item: -len(item[1]))
        try:
            declared = [Region(name=name, ids=ids, label=_painted(ids, ordered, k)) for k, (name, ids) in
                        enumerate(ordered)]  # fmt: skip
            ids = sorted({i for region in declared for i in region.ids} | set(names))
            extra = [{"id": i, "name": f"label {i}"} for i in ids if i not in names]
            return LabelScheme.model_validate(
                {**values, "classes": ids, "table": [*rows, *extra], "regions": [r.model_dump() for r in declared]}
            )
        except ValidationError:
            return scheme
    return scheme


def _painted(ids: tuple[int, ...], ordered: Sequence[tuple[str, tuple[int, ...]]], position: int) -> int:
    """An id of a region that no smaller region within it has."""
    inner = {i for _, others in ordered[position + 1 :] if set(others) < set(ids) for i in others}
    return next((i for i in ids if i not in inner), ids[0])


def _partners(names: Mapping[int, str]) -> dict[int, tuple[str, int]]:
    """Side and other side of labels whose names differ in nothing but left and right."""
    groups: dict[str, dict[str, int]] = {}
    for i, name in names.items():
        match = SIDES.match(name)
        if match:
            side = "left" if (match["a"] or match["d"]).lower()[0] == "l" else "right"
            stem = f"{bool(match['a'])}:{(match['b'] or match['c']).lower()}"
            groups.setdefault(stem, {})[side] = i
    pairs = [group for group in groups.values() if len(group) == 2]
    result: dict[int, tuple[str, int]] = {}
    for group in pairs:
        result[group["left"]] = ("left", group["right"])
        result[group["right"]] = ("right", group["left"])
    return result


def _packaged() -> dict[str, LabelScheme]:
    """The labels of all packaged models and configs."""
    schemes: dict[str, LabelScheme] = {}
    for name in dict.fromkeys([*packaged_models(), *packaged_configs()]):
        try:
            schemes[name] = labels_given(name).scheme
        except UserError:  # pragma: no cover
            continue
    return schemes


def _fits(ids: set[int], scheme: LabelScheme) -> bool:
    """Whether a scheme knows all ids, be it as background, and most of them as structures."""
    meant = _meant(scheme)
    known = meant | (set(scheme.base.ids) if scheme.unlisted == "background" else set())
    return ids <= known and 2 * len(ids & meant) > len(ids)


def _meant(scheme: LabelScheme) -> set[int]:
    """Ids that a scheme has a class for, or says to be background."""
    import numpy as np

    ids = np.array(sorted({*scheme.base.ids, *scheme.classes, *scheme.merge}), dtype=np.int64)
    return set(ids[scheme.to_classes(ids) > 0].tolist()) | {i for i, target in scheme.merge.items() if target == 0}
