"""What a user of the command line gets to read where something is wrong."""


def is_one_sentence(stderr: str) -> bool:
    return stderr.startswith("adatok: error: ") and stderr.count("\n") == 1 and stderr.endswith("\n")
