from __future__ import annotations

from pathlib import Path

import pytest

from surgery.errors import DonorError
from surgery.sources.read_recipe import Recipe, find_recipe

RECIPE = """
import a_package_that_nobody_has
from train_log.IFNet_HDv3 import *

class Model:
    def update(self):
        scale_list = [9, 9]

    def inference(self, img0, img1, timestep=0.5, scale=1.0):
        scale_list = [16/scale, 8/scale, 1 / scale]
        return merged[3]
"""


def _find(tmp_path: Path, **texts: str) -> Recipe | None:
    source = tmp_path / "IFNet_HDv3.py"
    source.touch()
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    return find_recipe(source)


def test_list_and_image_are_read_without_importing(tmp_path: Path) -> None:
    assert _find(tmp_path, RIFE_HDv3=RECIPE) == Recipe("RIFE_HDv3.py", (16, 8, 1), 3)


def test_a_default_of_inference_serves_where_it_makes_no_list(tmp_path: Path) -> None:
    text = RECIPE.replace("timestep=0.5", "scale_list=[4, 2, 1], timestep=0.5")
    text = text.replace("scale_list = [16/scale", "sizes = [16/scale").replace("[3]", "[-1]")
    assert _find(tmp_path, RIFE=text) == Recipe("RIFE.py", (4, 2, 1), -1)


def test_a_file_that_imports_another_network_does_not_count(tmp_path: Path) -> None:
    assert _find(tmp_path, RIFE_HDv2=RECIPE.replace("IFNet_HDv3", "IFNet_HDv2")) is None
    assert _find(tmp_path) is None


def test_a_file_without_inference_says_nothing(tmp_path: Path) -> None:
    found = _find(tmp_path, RIFE_HDv3=RECIPE.replace("def inference", "def other"))
    assert found == Recipe("RIFE_HDv3.py")


def test_two_files_that_disagree_are_refused(tmp_path: Path) -> None:
    other = RECIPE.replace("16/scale", "8/scale")
    with pytest.raises(DonorError, match=r"RIFE_HDv3\.py has \[16.*RIFE_new\.py has \[8"):
        _find(tmp_path, RIFE_HDv3=RECIPE, RIFE_new=other)


def test_two_files_that_agree_are_one(tmp_path: Path) -> None:
    assert _find(tmp_path, RIFE_HDv3=RECIPE, RIFE_new=RECIPE) == Recipe(
        "RIFE_HDv3.py", (16, 8, 1), 3
    )


@pytest.mark.parametrize("entry", ["2 ** i", "scale / 2", "f(scale)", "'8'"])
def test_an_entry_that_is_no_number_is_refused(tmp_path: Path, entry: str) -> None:
    with pytest.raises(DonorError, match="scale_list holds"):
        _find(tmp_path, RIFE_HDv3=RECIPE.replace("16/scale", entry))


def test_python_2_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DonorError, match=r"RIFE_HDv3\.py is not Python 3: line 1"):
        _find(tmp_path, RIFE_HDv3="print 'hello'\n" + RECIPE)
