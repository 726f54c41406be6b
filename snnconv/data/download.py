"""Downloading the image sets, so that a half-finished download is never taken for a whole one."""

from __future__ import annotations

import sys
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from snnconv.errors import ConfigError, DataError

DATA_OPTIONS = "--data-dir or $SNNCONV_DATA"
"""What names the folder of the data sets."""
_CHUNK = 2**16


@dataclass(frozen=True)
class Source:
    """Where a set comes from.

    Attributes:
        url: Base address, ending in a slash.
        folder: Where its files go, below the data folder (torchvision's layout).
        files: MD5 of each file behind the address.
        archive: Whether the files are tar archives that hold a folder of the same name as the last part of ``folder``.
    """

    url: str
    folder: str
    files: Mapping[str, str]
    archive: bool = False


SOURCES: dict[str, Source] = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "MNIST/raw",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "FashionMNIST/raw",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        "cifar-10-batches-py",
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        archive=True,
    ),
    "cifar100": Source(
        "https://www.cs.toronto.edu/~kriz/",
        "cifar-100-python",
        {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
        archive=True,
    ),
}


def fetch(dataset: str, folder: Path, sources: Mapping[str, Source] = SOURCES) -> None:
    """Download a set into the data folder; files already there are left as they are.

    Every file is downloaded, checked and unpacked in a temporary folder beside its place and then renamed.

    Raises:
        ConfigError: a set without a source.
        DataError: no network, a wrong hash, a broken archive, or a folder that cannot be written.
    """
    if dataset not in sources:
        raise ConfigError(f"{dataset} cannot be downloaded: {', '.join(sources)} can")
    source = sources[dataset]
    target = folder / source.folder
    new_folders = [place for place in (target, folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            for name, md5 in source.files.items():
                if source.archive or not (target / name).exists():
                    whole = _download(source.url + name, Path(temporary) / name, md5)
                    _move_in(_unpack(whole, target.name) if source.archive else [whole], target)
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        for made in new_folders:
            with suppress(OSError):
                made.rmdir()
        files = f"{'what is in ' if source.archive else ''}{', '.join(source.files)}"
        raise DataError(
            f"{dataset} could not be downloaded from {source.url} ({_reason(error)}): put {files} into {target} by "
            f"hand, or name the folder that has them with {DATA_OPTIONS}"
        ) from error


def _download(url: str, file: Path, md5: str) -> Path:
    import pooch

    with ExitStack() as connections:

        def close_at_the_end(response: Any, **_: object) -> None:
            connections.callback(response.close)  # pooch leaves it open where the download fails

        download = pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty(),
            chunk_size=_CHUNK,
            headers={"Accept-Encoding": "identity"},  # else some servers' .gz files arrive unpacked
            hooks={"response": close_at_the_end},
        )
        download(url, str(file), None)
    found = pooch.file_hash(str(file), alg="md5")
    if found != md5:
        raise ValueError(f"{file.name} has the MD5 {found} instead of {md5}")
    return file


def _unpack(archive: Path, folder: str) -> list[Path]:
    with tarfile.open(archive) as tar:
        tar.extractall(archive.parent, filter="data")
    return sorted(file for file in (archive.parent / folder).iterdir() if file.is_file())


def _move_in(files: list[Path], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not (target / file.name).exists():
            file.replace(target / file.name)


def _reason(error: BaseException) -> str:
    """First line of what went wrong at the bottom, such as "Connection refused"."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0].rstrip(":")
