"""The command line of the studies: it lists them at once, and each of them knows its options."""
import subprocess
import sys

import pytest

from ldm_edu.studies.__main__ import STUDIES, main


def test_the_list_of_studies_needs_no_torch():
    code = """import sys
from ldm_edu.studies.__main__ import main
try:
    main([])
finally:
    assert "torch" not in sys.modules"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in found for name in STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_options(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    found = capsys.readouterr().out
    assert end.value.code == 0 and f"python -m ldm_edu.studies {name}" in found and "--threads" in found


def test_another_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["loss_study"])
    assert "invalid choice: 'loss_study' (choose from" in capsys.readouterr().err
