"""`python -m adatok_hf.cli`, for launchers of several processes."""

from . import main


if __name__ == "__main__":
    main()
