"""What tests of commands that ask a model share."""


def error_of(capsys) -> str:
    """What the console script says of an error."""
    return capsys.readouterr().err.split("llava-ego2exo: error: ")[-1]
