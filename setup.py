"""The compiled kernels of the events engine; everything else stands in pyproject.toml.

The extension is optional: without a C++17 compiler the installation succeeds and leaves the kernels out.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("snnconv/engines/cpp")
flags = ["/std:c++17", "/O2"] if sys.platform == "win32" else ["-std=c++17", "-O3", "-fvisibility=hidden"]

setup(
    ext_modules=[
        Extension(
            "snnconv.engines._kernels",
            sources=sorted(str(path) for path in SOURCES.glob("*.cpp")),
            depends=sorted(str(path) for path in [*SOURCES.glob("*.h"), *SOURCES.glob("*.hpp")]),
            extra_compile_args=flags,
            language="c++",
            optional=True,
        )
    ]
)
