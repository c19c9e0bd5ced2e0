"""Which prediction is compared with which reference; imports nothing heavy.

References are the cases of a data set in a known layout, or else files that are told apart by their names and folders
(`file_names.py`). What could be matched in two ways is not matched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from voxseg.data.datasets.case import some
from voxseg.data.datasets.find import find_dataset
from voxseg.data.datasets.nnunet import DATASET_JSON
from voxseg.data.datasets.patterns import find_patterns
from voxseg.data.paths import check_scan_path
from voxseg.errors import UserError
from voxseg.evaluation.file_names import IMAGE, LABELS, UNSAID, NamedFile, list_files, named_file

__all__ = ["TABLES", "Pair", "Pairing", "References", "find_references", "find_scans", "pair_up"]

TABLES = (".csv", ".tsv")
BY_PATTERN = "tell them apart with a pattern in quotes such as 'FOLDER/*/labels.nii.gz', or with a CSV table of pairs"


@dataclass(frozen=True)
class Pair:
    """A prediction and its reference.

    Attributes:
        case: its name.
        prediction: the file.
        reference: the file.
        model: whose prediction it is.
    """

    case: str
    prediction: Path
    reference: Path
    model: str = ""


@dataclass(frozen=True)
class Pairing:
    """What was matched with what.

    Attributes:
        pairs: in the order of their cases.
        problems: case and message of what could not be matched.
        missing: cases of the references that there is no prediction of.
        ignored: files of the predictions that were taken for something else than segmentations of the cases.
    """

    pairs: tuple[Pair, ...]
    problems: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    ignored: tuple[Path, ...] = ()


@dataclass(frozen=True)
class References:
    """The files that predictions are compared with.

    Attributes:
        place: where they were looked for.
        files: one a case, or several where that is the user's to settle.
        title: what the layout is called; "" for plain files.
        cases: the names of the cases of a data set by their files.
        remarks: why a case of the data set has no label file, by the case.
        label_names: what the ids mean, as far as the data set says so.
        regions: overlapping unions of ids that it declares.
    """

    place: Path
    files: tuple[NamedFile, ...]
    title: str = ""
    cases: Mapping[Path, str] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)
    label_names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def find_references(place: Path, apart: Sequence[Path] = ()) -> References:
    """The references in a file, a folder, a data set, a table of a data set, or behind a pattern with `*`.

    Args:
        place: where they are.
        apart: folders of predictions; what lies in them is no reference, even if they are within `place`.

    Raises:
        UserError: if there are none.
    """
    if not _is_pattern(place) and (place.is_dir() or place.name.lower().endswith(TABLES)):
        found = _of_dataset(place)
        if found is not None:
            return found
    within = [folder for folder in apart if folder.is_dir() and place in folder.parents]
    files = [file for file in _candidates(place) if not any(file.path.is_relative_to(folder) for folder in within)]
    if not files:
        raise UserError(place, f"holds no label files but the predictions in {within[0]}", "give the references")
    return References(place, tuple(files), label_names=_names_above(place))


def pair_up(predictions: Path, references: References, model: str = "", partial: bool = False) -> Pairing:
    """Match the predictions in a place with references.

    Args:
        predictions: a file, a folder, or a pattern with `*`.
        references: from `find_references`.
        model: whose predictions they are.
        partial: whether references without a prediction are as they should be.

    Raises:
        UserError: if there are no predictions, or none could be matched.
    """
    single = predictions.is_file()
    if references.place.is_file() and not references.cases:
        if not single:
            raise UserError(references.place, f"is a file, and {predictions} is none", "give two files or two folders")
        case = next(iter((*_candidates(predictions)[0].names, *references.files[0].names)), predictions.parent.name)
        return Pairing((Pair(case, predictions, references.files[0].path, model),))
    known = {file.path.resolve() for file in references.files}
    # A file cannot be compared with itself by mistake; two equal folders are somebody's test.
    same = predictions.resolve() == references.place.resolve() and not references.cases
    files = [file for file in _candidates(predictions) if same or file.path.resolve() not in known]
    matches, unclear, alone = _match(files, references)
    pairs: list[Pair] = []
    problems = list(unclear)
    ignored: list[Path] = []
    for case, (reference, candidates) in matches.items():
        best = min(file.says for file in candidates)
        chosen = [file for file in candidates if file.says == best]
        ignored += [file.path for file in candidates if file.says > best]
        if len(chosen) > 1:
            listed = some([_short(file.path, predictions) for file in chosen])
            problems.append((case, f"has {len(chosen)} predictions ({listed}); {BY_PATTERN}"))
        else:
            pairs.append(Pair(case, chosen[0].path, reference.path, model))
    strange, others = _without_reference(alone, files, predictions, references)
    problems += strange
    ignored += others
    missing = sorted(_missing(matches, references, {case for case, _ in unclear}))
    if not (partial or single):
        text = f"has no prediction in {predictions}; segment it, or give --partial if that is as it should be"
        problems += [(case, text) for case in missing]
    if not pairs:
        raise _nothing_matched(predictions, references, files, problems)
    pairs.sort(key=lambda pair: pair.case)
    return Pairing(tuple(pairs), tuple(sorted(problems)), tuple(missing), tuple(sorted(ignored)))


def find_scans(place: Path, pairs: Sequence[Pair]) -> dict[str, Path]:
    """The scan of each case, as far as there is exactly one; of a data set's images the first.

    Args:
        place: a file, a folder, a data set, or a pattern with `*`.
        pairs: whose cases.

    Raises:
        UserError: if there is none for any case.
    """
    cases = list(dict.fromkeys(pair.case for pair in pairs))
    if place.is_file() and len(cases) == 1:
        check_scan_path(place)
        return {cases[0]: place}
    found: dict[str, Path] = {}
    if place.is_dir() and not _is_pattern(place):
        try:
            dataset = find_dataset(place, labels=False)
            # A file of several volumes is none that a picture can be made of.
            firsts = {case.id: next(iter(case.images.values()), None) for case in dataset.cases}
            found = {case: image.path for case, image in firsts.items() if image and image.volume is None}
        except UserError:
            found = {}
    if not set(cases) & set(found):
        used = {path.resolve() for pair in pairs for path in (pair.prediction, pair.reference)}
        files = _all_files(place)
        if not _is_pattern(place):
            files = [replace(file, says=IMAGE - file.says) for file in files if file.says > LABELS]
        files = [file for file in files if file.path.resolve() not in used]
        paths = {pair.case: pair.reference for pair in pairs}
        root = _root(list(paths.values()))
        named = {case: named_file(path, root) for case, path in paths.items()}
        targets = tuple(replace(name, names=(case, *name.names)) for case, name in named.items())
        references = References(place, targets, cases={path: case for case, path in paths.items()})
        matches, _, _ = _match(files, references)
        for case, (_, candidates) in matches.items():
            best = [file for file in candidates if file.says == min(c.says for c in candidates)]
            if len(best) == 1:
                found[case] = best[0].path
    found = {case: found[case] for case in cases if case in found}
    if not found:
        problem = "holds no scan that belongs to one case alone"
        raise UserError(f"--scans {place}", problem, "give a pattern in quotes such as 'FOLDER/*/t1.nii.gz'")
    return found


def _of_dataset(place: Path) -> References | None:
    """The references of a data set in a known layout; None if it is in none, or has no labels."""
    try:
        dataset = find_dataset(place)
    except UserError:
        if place.is_dir():
            return None
        raise
    files, cases = [], {}
    folder = place if place.is_dir() else place.parent
    for case in dataset.cases:
        if case.label is not None:
            own = named_file(case.label, folder) if case.label.is_relative_to(folder) else None
            places = own.places if own is not None else ()
            names = tuple(dict.fromkeys((case.id, *(own.names if own is not None else ()))))
            files.append(NamedFile(case.label, LABELS, names, places))
            cases[case.label] = case.id
    remarks = {finding.case: finding.text for finding in dataset.findings if finding.level == "error" and finding.case}
    return References(place, tuple(files), dataset.title, cases, remarks, dataset.label_names, dataset.regions)


def _names_above(place: Path) -> Mapping[int, str]:
    """The label names of nnU-Net's description beside a folder such as `labelsTr`."""
    if place.is_dir() and (place.parent / DATASET_JSON).is_file():
        try:
            return find_dataset(place.parent).label_names
        except UserError:
            pass
    return {}


def _is_pattern(place: Path) -> bool:
    return "*" in str(place)


def _candidates(place: Path) -> list[NamedFile]:
    """The files in a place that may be segmentations.

    Raises:
        UserError: if there are none.
    """
    files = _all_files(place)
    # Where every name is that of an image, the names say nothing.
    chosen = [file for file in files if file.says < IMAGE] or [replace(file, says=UNSAID) for file in files]
    if not chosen:
        raise UserError(place, "holds no label files (.nii.gz, .nii, .mgz, .mgh, .nrrd, .mha)", "check the path")
    return chosen


def _all_files(place: Path) -> list[NamedFile]:
    if _is_pattern(place):
        return _behind(place)
    if place.is_dir():
        return list_files(place)
    check_scan_path(place)
    return [replace(named_file(place, place.parent), says=LABELS)]


def _behind(pattern: Path) -> list[NamedFile]:
    """The files that a pattern names; what its wildcards stand for is the name of the case."""
    parts = pattern.parts
    first = next(k for k, part in enumerate(parts) if "*" in part)
    folder = Path(*parts[:first])
    if not folder.is_dir():
        raise UserError(folder, "is not a folder" if folder.exists() else "does not exist", "check the path")
    try:
        dataset = find_patterns(folder, {"file": str(Path(*parts[first:]))}, False)
    except UserError as error:
        raise UserError(pattern, error.problem, error.remedy) from None
    if dataset is None:
        raise UserError(pattern, "matches no file", "check the pattern")
    if dataset.findings:
        finding = dataset.findings[0]
        raise UserError(pattern, f"the case {finding.case} {finding.text}", "put a * where the cases differ")
    files = []
    for case in dataset.cases:
        path = case.images["file"].path
        own = named_file(path, folder)
        bare = named_file(Path(case.id), Path()).names  # `*_seg*` takes in more than the case
        files.append(replace(own, says=LABELS, names=tuple(dict.fromkeys((case.id, *bare, *own.names)))))
    return files


def _match(
    predictions: Iterable[NamedFile], references: References
) -> tuple[dict[str, tuple[NamedFile, list[NamedFile]]], list[tuple[str, str]], list[NamedFile]]:
    """Which predictions belong to which reference.

    A name is matched with a name or with a folder. Folders are matched with each other only where both files have
    names such as `labels.nii.gz`: two files that have names of their own are not those of one case because they lie in
    folders of one name.

    Returns:
        Reference and predictions by case; case and message of those that two references fit; the other predictions.
    """
    by_name, by_place = _index(references.files, "names"), _index(references.files, "places")
    nameless = _index([file for file in references.files if not file.names], "places")
    found: dict[Path, tuple[str, NamedFile, list[NamedFile]]] = {}
    unclear: dict[str, str] = {}
    alone = []
    for file in predictions:
        steps = [(by_name, key) for key in file.names] + [(by_place, key) for key in file.names]
        steps += [(by_name, key) for key in file.places]
        steps += [(nameless, key) for key in file.places if not file.names]
        hits = [(key, index[key]) for index, key in steps if key in index]
        clear = next(((key, owners[0]) for key, owners in hits if len(owners) == 1), None)
        if clear is not None:
            key, owner = clear
            case = references.cases.get(owner.path, key)
            found.setdefault(owner.path, (case, owner, []))[2].append(file)
        elif hits and hits[0][0] in (*file.names, *file.places[:1]):
            key, owners = hits[0]
            listed = some([_short(owner.path, references.place) for owner in owners])
            unclear[key] = f"has {len(owners)} references ({listed}); {BY_PATTERN}"
        else:
            alone.append(file)
    return _by_case(found, references), list(unclear.items()), alone


def _by_case(
    found: Mapping[Path, tuple[str, NamedFile, list[NamedFile]]], references: References
) -> dict[str, tuple[NamedFile, list[NamedFile]]]:
    """Matches by case; equal names of cases are made different by their folders."""
    names = [case.split("/")[-1] for case, _, _ in found.values()]
    result: dict[str, tuple[NamedFile, list[NamedFile]]] = {}
    for case, reference, files in found.values():
        short = case.split("/")[-1]
        unique = names.count(short) == 1
        result[short if unique else _short(reference.path.parent / short, references.place).replace("/", "_")] = (
            reference,
            files,
        )
    return result


def _index(files: Iterable[NamedFile], what: str) -> dict[str, list[NamedFile]]:
    """Files by each of their names or places; where some say that they are segmentations, those alone."""
    index: dict[str, list[NamedFile]] = {}
    for file in files:
        for key in getattr(file, what):
            index.setdefault(key, []).append(file)
    best = {key: min(file.says for file in owners) for key, owners in index.items()}
    return {key: [file for file in owners if file.says == best[key]] for key, owners in index.items()}


def _without_reference(
    alone: Sequence[NamedFile], files: Sequence[NamedFile], predictions: Path, references: References
) -> tuple[list[tuple[str, str]], list[Path]]:
    """Predictions that no reference fits, as problems; and files beside segmentations that do not say that they are."""
    speaking = {file.path.parent for file in files if file.says == LABELS}
    problems, ignored = [], []
    for file in alone:
        if file.says > LABELS and file.path.parent in speaking:
            ignored.append(file.path)
            continue
        case = file.names[0].split("/")[-1] if file.names else file.places[0]
        remark = next((references.remarks[name] for name in file.names if name in references.remarks), None)
        why = remark or f"add it, or take {file.path.name} away"
        text = f"{_short(file.path, predictions)} has no reference in {references.place}; {why}"
        problems.append((case, text))
    return problems, ignored


def _missing(
    matches: Mapping[str, tuple[NamedFile, list[NamedFile]]], references: References, unclear: set[str]
) -> set[str]:
    """Cases of references that no prediction fits."""
    used = {reference.path for reference, _ in matches.values()}
    speaking = {file.path.parent for file in references.files if file.says == LABELS}
    missing = set()
    for file in references.files:
        keys = {*file.names, *file.places[:1]}
        if file.path in used or keys & unclear or (file.says > LABELS and file.path.parent in speaking):
            continue
        # A scan beside the labels of its case is no reference that lacks a prediction.
        if file.says > LABELS and keys & set(matches):
            continue
        missing.add(references.cases.get(file.path) or (file.names or file.places)[0].split("/")[-1])
    return missing - set(matches)


def _nothing_matched(
    predictions: Path, references: References, files: Sequence[NamedFile], problems: Sequence[tuple[str, str]]
) -> UserError:
    """What is said where no pair is left."""
    unclear = [(case, text) for case, text in problems if text.startswith("has ") and "; tell them" in text]
    if unclear:
        case, text = unclear[0]
        problem, _, remedy = text.partition("; ")
        return UserError(predictions, f"no case is clear; {case} {problem}", remedy)
    if not files:
        return UserError(predictions, f"holds no label files but those of {references.place}", "give the predictions")
    one, other = _short(files[0].path, predictions), _short(references.files[0].path, references.place)
    problem = f"no name fits one in {references.place} (there is {one} here, and {other} there)"
    return UserError(predictions, problem, "name both after the case, or give a CSV table of pairs")


def _root(paths: Sequence[Path]) -> Path:
    """The folder that all the files lie in or below."""
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        folder = folder.parent
    return folder


def _short(path: Path, place: Path) -> str:
    """A path as it is told apart from others: relative to the folder that was given."""
    return str(path.relative_to(place)) if path.is_relative_to(place) and path != place else path.name
