"""`voxseg predict --cluster`: real workers, of which some are lost."""

import gc
import os
import signal
import stat
import sys
from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest

from heads import toy_labels
from models import write_model
from voxseg.cli import _cluster
from voxseg.cli.main import run
from voxseg.data.staging import temporary_name
from voxseg.report.outputs import OUTPUTS

pytest.importorskip("distributed", reason="needs the extra 'cluster'")
psutil = pytest.importorskip("psutil")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("models") / "tiny"))


def save(folder, count, large=False):
    """Scans; large ones take seconds, so that a worker that is killed when it begins one has not done it yet."""
    labels, spacing = toy_labels()[::3, ::3, ::3], 6.0
    if large:
        labels, spacing = toy_labels().repeat(2, 0).repeat(2, 1).repeat(2, 2), 1.0
    paths = [folder / f"s{k}.nii.gz" for k in range(count)]
    for k, path in enumerate(paths):
        nib.save(nib.Nifti1Image(labels.astype(np.float32) + k, np.diag([spacing] * 3 + [1])), path)
    return [str(path) for path in paths]


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        run(["predict", *map(str, arguments), "--device", "cpu"])
    return ended.value.code or 0


def contents(folder):
    """All files, hidden ones too; of those that hold times, that they are there."""
    return {path.name: path.suffix == ".json" or path.read_bytes() for path in folder.iterdir()}


def when_begun(monkeypatch, act):
    """Call `act(process, index, attempt)` when the coordinator hears that a case has begun."""
    original = _cluster._Watcher.began

    def began(self, index, process, attempt):
        original(self, index, process, attempt)
        act(process, index, attempt)

    monkeypatch.setattr(_cluster._Watcher, "began", began)


@pytest.mark.slow
def test_a_lost_workers_cases_are_done_again_and_every_case_is_there_once(tmp_path, model, capsys, monkeypatch):
    scans = save(tmp_path, 4, large=True)
    assert call(*scans, "--model", model, "-o", tmp_path / "alone", "--threads", 1) == 0
    capsys.readouterr()
    cases, ended, killed, open_to = {}, set(), [], set()
    began, finished = _cluster._Watcher.began, _cluster._Watcher.ended

    def note_begun(self, index, process, attempt):
        began(self, index, process, attempt)
        if attempt:
            cases.setdefault(process, []).append(index)
        for relative in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # it may end at any time
                sockets = [s for s in relative.net_connections("inet") if s.status == psutil.CONN_LISTEN]
                open_to.update(s.laddr.ip for s in sockets)
        kill_midway()

    def note_ended(self, index, result):
        finished(self, index, result)
        ended.add(index)
        kill_midway()

    def kill_midway():
        for process, own in cases.items():
            # With no result but the last that has not been heard of: others would be lost with it, and made again.
            if not killed and len(own) > 1 and own[-1] not in ended and ended.issuperset(own[:-1]):
                killed.append(own[-1])
                # What a worker that is killed while it writes leaves behind.
                temporary_name(tmp_path / "many" / f"s{own[-1]}_seg.nii.gz", process).write_bytes(b"half")
                os.kill(process, signal.SIGKILL)

    for name, note in (("began", note_begun), ("ended", note_ended)):
        monkeypatch.setattr(_cluster._Watcher, name, note)
    command = [*scans, "--model", model, "-o", tmp_path / "many", "--cluster", "local", "--workers", 2, "--threads", 1]
    assert call(*command) == 0
    captured = capsys.readouterr()
    assert contents(tmp_path / "many") == contents(tmp_path / "alone")
    assert sorted(line.split(":")[0] for line in captured.out.splitlines() if ": wrote" in line) == scans
    begun = [index for own in cases.values() for index in own]
    assert sorted(begun) == sorted([0, 1, 2, 3, *killed])
    assert f"voxseg: {scans[killed[0]]}: its worker was lost, it is done again\n" in captured.err
    assert "4 scans in " in captured.out
    assert open_to == {"127.0.0.1"}
    left = [p.cmdline() for p in psutil.Process().children(recursive=True)]
    assert not [command for command in left if "resource_tracker" not in " ".join(command)]


def test_a_case_that_always_costs_its_worker_fails_alone(tmp_path, model, capsys, monkeypatch):
    import dask

    scans = save(tmp_path, 2, large=True)
    when_begun(monkeypatch, lambda process, index, attempt: os.kill(process, signal.SIGKILL) if index == 0 else None)
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        assert call(*scans, "--model", model, "--cluster", "local", "--workers", 2) == 1
    captured = capsys.readouterr()
    assert sorted(path.name for path in tmp_path.glob("s?_*")) == sorted(f"s1{suffix}" for suffix in OUTPUTS)
    problem = "its worker was lost 1 times, perhaps for lack of memory; give it more"
    assert captured.err.splitlines() == [
        f"voxseg: {scans[0]}: {problem}",
        "voxseg: 1 of 2 scans failed:",
        f"  {scans[0]}",
    ]


@pytest.fixture(scope="module")
def running():
    """A cluster that somebody else has started, as it comes: with several threads for its only worker."""
    from distributed import LocalCluster

    arguments = {"n_workers": 1, "threads_per_worker": 3, "memory_limit": "2GB", "host": "127.0.0.1"}
    with LocalCluster(**arguments, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def test_what_is_told_is_what_one_machine_tells(tmp_path, model, capsys, monkeypatch, running):
    monkeypatch.chdir(tmp_path)
    names = [os.path.basename(scan) for scan in save(tmp_path, 2)]
    (tmp_path / names[0]).write_bytes(b"no scan")
    told = []
    for more in ([], ["--cluster", running]):
        assert call(*names, "none.nii", "--model", model, "-o", "out", "--verbose", *more) == 1
        captured = capsys.readouterr()
        wrote = sorted(line.split(" in ")[0] for line in captured.out.splitlines() if ": wrote" in line)
        stages = [line.split()[::3] for line in captured.out.splitlines() if line.startswith("  ")]
        told.append((wrote, stages, sorted(captured.err.splitlines()), captured.err.splitlines()[-3:]))
        for path in (tmp_path / "out").iterdir():
            path.unlink()
    assert told[0] == told[1]
    assert len(told[0][0]) == 1
    # The worker's limit counts, not only what is usual.
    plans = [line for line in captured.out.splitlines() if "GB allowed" in line]
    assert plans
    assert all(line.endswith(" of the 1.4 GB allowed") for line in plans)
    # No case could be used: exit code 2, as on one machine.
    assert call("none.nii", "--model", model, "--cluster", running) == 2
    assert capsys.readouterr().err == "voxseg: none.nii: does not exist; check the path\n"


def test_skip_existing_and_the_model_is_loaded_once(tmp_path, model, capsys, running):
    from distributed import Client

    scans = save(tmp_path, 3)
    assert call(scans[0], "--model", model) == 0
    before = contents(tmp_path)
    with Client(running) as client:
        client.run(lambda: setattr(sys.modules[_cluster.__name__], "_work", None))
        assert call(*scans, "--model", model, "--cluster", running, "--skip-existing") == 0
        assert "1 of 3 scans were skipped" in capsys.readouterr().out
        first = client.run(lambda: id(sys.modules[_cluster.__name__]._work.predictor.model))
        assert call(scans[2], "--model", model, "--cluster", running) == 0
        assert client.run(lambda: id(sys.modules[_cluster.__name__]._work.predictor.model)) != first  # other settings
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == 3 + 3 * len(OUTPUTS)


def test_a_wrong_model_is_told_once(tmp_path, model, capsys, running):
    scans = save(tmp_path, 2)
    wrong = write_model(tmp_path / "wrong")
    (wrong / "model.safetensors").write_bytes(b"damaged")
    assert call(*scans, "--model", wrong, "--cluster", running) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith(f"voxseg: {wrong / 'model.safetensors'}: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", "tcp://127.0.0.1:9"], "--cluster tcp://127.0.0.1:9: no scheduler answers there; "),
        (["--cluster", "somewhere"], "--cluster somewhere: is not the address of a scheduler ("),
        (["--cluster", "tcp://127.0.0.1:9", "--workers", "2"], "--workers: says how many workers to start, and"),
        (["--workers", "2"], "--workers: is about clusters, and none is given; "),
    ],
)
def test_what_cannot_be_a_cluster(tmp_path, model, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("voxseg.inference.cluster_start.ANSWER_SECONDS", 0.5)
    scans = save(tmp_path, 1)
    assert call(*scans, "--model", model, *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"voxseg: {message}")
    assert errors.count("\n") == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("where", "package"), [("local", "distributed"), ("slurm", "dask_jobqueue")])
def test_a_missing_package_is_told_with_how_to_get_it(tmp_path, model, capsys, monkeypatch, where, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert call(*save(tmp_path, 1), "--model", model, "--cluster", where) == 2
    told = f"needs the package {package}, which is not installed; install it with: pip install 'voxseg[cluster]'"
    assert capsys.readouterr().err == f"voxseg: --cluster {where}: {told}\n"


def test_results_that_are_written_elsewhere_are_no_results(tmp_path, monkeypatch, capsys):
    from pathlib import Path

    from voxseg.cli._case import Settings, Written
    from voxseg.cli._cases import Task
    from voxseg.cli._telling import Teller

    monkeypatch.setattr(_cluster, "APPEARING", 0)
    settings = Settings(Path("model"), ("image",), "cpu", None, None, False, False, False)
    teller = Teller(1, False)
    watcher = _cluster._Watcher([Task("a.nii", {}, tmp_path / "a")], teller, settings, "tcp://there:1")
    written = Written([tmp_path / "a_seg.nii.gz"], {"reading": 1.0}, False, "", [], 0.9)
    watcher.ended(0, _cluster.CaseReport("there", written=written))
    assert teller.done == 0
    problem = "a.nii: the results were written on there and are not here; workers need the same folders"
    assert capsys.readouterr().err.startswith(f"voxseg: {problem}")


# Away from the checkout, whose folder voxseg lacks what lies beside it.
SBATCH = """#!/bin/sh
cp "$1" "{folder}/job-$$.sh"
cd "{folder}"
setsid sh "{folder}/job-$$.sh" >/dev/null 2>&1 </dev/null &
echo $! >>"{folder}/pids"
echo "Submitted batch job $!"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs that take Slurm's place: a job is begun at once, on this machine."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH.format(folder=folder)), ("scancel", '#!/bin/sh\nkill -s TERM -- -"$1"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


@pytest.mark.slow
def test_jobs_of_slurm(tmp_path, model, capsys, slurm):
    import dask

    pytest.importorskip("dask_jobqueue")
    scans = save(tmp_path, 2)
    site = {"jobqueue.slurm.account": "brain", "jobqueue.slurm.queue": "short", "jobqueue.slurm.interface": "lo"}
    with dask.config.set(site):
        command = [*scans, "--model", model, "--cluster", "slurm", "--workers", 1, "--max-memory", 2, "--threads", 2]
        assert call(*command) == 0, capsys.readouterr()
    captured = capsys.readouterr()
    assert captured.out.count(": wrote") == 2
    assert captured.err in ("", "voxseg: --cluster slurm: there is no worker, waiting for one\n")
    assert len(list(tmp_path.glob("s?_*"))) == 2 * len(OUTPUTS)
    gc.collect()  # as the end of a process does
    assert not list(tmp_path.glob(".dask*"))  # the keys of this run
    (job,) = slurm.glob("job-*.sh")
    script = job.read_text().splitlines()
    for line in ("-J voxseg", "-p short", "-A brain", "-n 1", "--cpus-per-task=2", "--mem=3G", "-t 00:30:00"):
        assert f"#SBATCH {line}" in script
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False" in script
    worker = script[-1]
    assert worker.startswith(f"{sys.executable} -m distributed.cli.dask_worker tls://")
    assert "--nthreads 1 --memory-limit 2.33GiB" in worker
    assert "--tls-key" in worker
    assert "--no-dashboard" in worker


@pytest.mark.parametrize("squeue", ["", "exit 1"])
def test_jobs_that_end_at_their_start_are_not_waited_for(tmp_path, model, capsys, slurm, monkeypatch, squeue):
    import dask
    from distributed import Client

    pytest.importorskip("dask_jobqueue")
    for name in ("GONE_SECONDS", "ASK_SECONDS"):
        monkeypatch.setattr(f"voxseg.inference.cluster.{name}", 0.1)
    (slurm / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    (slurm / "scancel").write_text("#!/bin/sh\n")
    (slurm / "squeue").write_text(f"#!/bin/sh\necho 17\n{squeue}\n")
    (slurm / "squeue").chmod(stat.S_IRWXU)
    scans, asked = save(tmp_path, 2), []
    if squeue:  # nobody knows of the jobs: they may be there, so it is waited until somebody stops it
        counted = Client.scheduler_info

        def counting(*arguments, **options):
            asked.append(counted(*arguments, **options))
            if len(asked) > 3:
                raise KeyboardInterrupt
            return asked[-1]

        monkeypatch.setattr(Client, "scheduler_info", counting)
    with dask.config.set({"jobqueue.slurm.interface": "lo"}):
        code = call(*scans, "--model", model, "--cluster", "slurm", "--workers", 1)
    errors = capsys.readouterr().err
    if squeue:
        assert len(asked) == 4
        assert "jobs have ended" not in errors
        return
    assert code == 2
    problem = "its jobs have ended, and no worker is left for 2 of 2 cases"
    remedy = "look at what the jobs wrote (slurm-NUMBER.out), and go on with --skip-existing"
    assert errors == f"voxseg: --cluster slurm: {problem}; {remedy}\n"
