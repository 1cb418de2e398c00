"""Where templates are found, in a checkout and in a wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from voxtractl.errors import TemplateError
from voxtractl.render import templates

ROOT = Path(templates.__file__).parent.parent.parent


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_checkout_finds_its_own_templates() -> None:
    found = templates.find()
    for name in templates.NAMES:
        assert Path(found[name].origin) == ROOT / "templates" / name
        assert found[name].text == (ROOT / "templates" / name).read_text()


def test_a_given_folder_comes_before_the_configs_own_and_both_before_the_package(tmp_path: Path) -> None:
    given, config = tmp_path / "given", tmp_path / "config"
    put(given, "pjsip/tenant.conf.j2", "given\n")
    put(config / "templates", "pjsip/tenant.conf.j2", "config\n")
    put(config / "templates", "queues/tenant.conf.j2", "config\n")
    found = templates.find(given, config)
    assert found["pjsip/tenant.conf.j2"].text == "given\n"
    assert found["queues/tenant.conf.j2"].text == "config\n"
    assert found["extensions/tenant.conf.j2"] == templates.find()["extensions/tenant.conf.j2"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="is not a folder") as caught:
        templates.find(tmp_path / "nowhere")
    assert caught.value.hint


def test_a_template_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = put(tmp_path, "pjsip/tenant.conf.j2", "")
    path.write_bytes(b"\xff")
    with pytest.raises(TemplateError, match="not UTF-8") as caught:
        templates.find(tmp_path)
    assert caught.value.template == str(path)
    with pytest.raises(TemplateError, match="No such file"):
        templates.read(tmp_path / "nowhere.j2", tenant="acme")


def test_a_template_that_is_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "PACKAGE", tmp_path / "voxtractl")
    with pytest.raises(TemplateError, match="no template extensions/tenant"):
        templates.find()


def test_two_texts_have_two_digests() -> None:
    one, two = templates.Template.of("a", "one"), templates.Template.of("a", "two")
    assert one.digest != two.digest
    assert templates.Template.of("b", "one").digest == one.digest


def test_an_installed_wheel_finds_the_templates_it_brought(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    (wheel,) = wheels.glob("voxtractl-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    script = (
        "import voxtractl; from voxtractl.render import templates; found = templates.find();"
        "print(voxtractl.__file__); [print(found[name].origin) for name in templates.NAMES]"
    )
    bare = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**bare, "PYTHONPATH": str(site)},
    )
    package, *origins = done.stdout.splitlines()
    assert Path(package) == site / "voxtractl" / "__init__.py"
    assert [Path(o) for o in origins] == [site / "voxtractl" / "templates" / name for name in templates.NAMES]
    for name, origin in zip(templates.NAMES, origins, strict=True):
        assert Path(origin).read_text() == (ROOT / "templates" / name).read_text()
