"""`python -m voxseg`, which is also how launchers of several processes start it: `torchrun ... -m voxseg train ...`."""

from voxseg.cli.main import run

if __name__ == "__main__":
    run()
